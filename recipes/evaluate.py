"""Candidate against parent on held-out prompts, with intervals.

Start: accelerate launch recipes/evaluate.py --config recipes/configs/evaluate.yaml key=value …
"""

from cai.cli.recipe import run_recipe
from cai.evaluate.pipeline import EvaluateConfig, run_evaluate

if __name__ == "__main__":
    run_recipe(EvaluateConfig, run_evaluate, about=__doc__ or "")
