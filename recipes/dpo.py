"""DPO: learn from the pairs themselves, with soft labels.

Start: accelerate launch recipes/dpo.py --config recipes/configs/dpo.yaml key=value …
"""

from cai.cli.recipe import run_recipe
from cai.train.configs import DPOConfig
from cai.train.dpo import run_dpo

if __name__ == "__main__":
    run_recipe(DPOConfig, run_dpo, about=__doc__ or "")
