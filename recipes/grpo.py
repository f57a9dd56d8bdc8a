"""GRPO: several answers to each prompt, and advantages from how their scores compare.

Start: accelerate launch recipes/grpo.py --config recipes/configs/grpo.yaml key=value …
"""

from cai.cli.recipe import run_recipe
from cai.train.group_config import GRPOConfig
from cai.train.grpo import run_grpo

if __name__ == "__main__":
    run_recipe(GRPOConfig, run_grpo, about=__doc__ or "")
