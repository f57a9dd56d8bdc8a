"""Critique and revision: drafts, critiques and revisions of prompts, and the rows to finetune on.

Start: accelerate launch recipes/generate.py --config recipes/configs/generate.yaml key=value …
"""

from cai.cli.recipe import run_recipe
from cai.generate import GenerateConfig, run_generate

if __name__ == "__main__":
    run_recipe(GenerateConfig, run_generate, about=__doc__ or "")
