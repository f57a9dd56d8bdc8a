"""AI preference labels: two answers per prompt, compared by a judge under a constitution.

Start: accelerate launch recipes/label.py --config recipes/configs/label.yaml key=value …
"""

from cai.cli.recipe import run_recipe
from cai.label import LabelConfig, run_label

if __name__ == "__main__":
    run_recipe(LabelConfig, run_label, about=__doc__ or "")
