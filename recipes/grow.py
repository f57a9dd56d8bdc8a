"""More red-team prompts, written by a model after the example of those that people wrote.

Start: accelerate launch recipes/grow.py --config recipes/configs/grow.yaml key=value …
"""

from cai.cli.recipe import run_recipe
from cai.generate.grow import GrowConfig, run_grow

if __name__ == "__main__":
    run_recipe(GrowConfig, run_grow, about=__doc__ or "")
