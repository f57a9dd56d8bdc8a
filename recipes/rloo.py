"""RLOO: REINFORCE against the mean of the other answers to the same prompt.

Start: accelerate launch recipes/rloo.py --config recipes/configs/rloo.yaml key=value …
"""

from cai.cli.recipe import run_recipe
from cai.train.group_config import RLOOConfig
from cai.train.grpo import run_rloo

if __name__ == "__main__":
    run_recipe(RLOOConfig, run_rloo, about=__doc__ or "")
