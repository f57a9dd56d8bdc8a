"""Supervised finetuning on revisions and helpful answers.

Start: accelerate launch recipes/sft.py --config recipes/configs/sft.yaml key=value …
"""

from cai.cli.recipe import run_recipe
from cai.train.configs import SFTConfig
from cai.train.sft import run_sft

if __name__ == "__main__":
    run_recipe(SFTConfig, run_sft, about=__doc__ or "")
