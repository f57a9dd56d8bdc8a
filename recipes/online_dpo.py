"""DPO in rounds: the policy answers, a judge labels its answers, and the policy learns from the labels.

Start: accelerate launch recipes/online_dpo.py --config recipes/configs/online_dpo.yaml key=value …
"""

from cai.cli.recipe import run_recipe
from cai.successor.online_config import OnlineDPOConfig
from cai.successor.online_dpo import run_online_dpo

if __name__ == "__main__":
    run_recipe(OnlineDPOConfig, run_online_dpo, about=__doc__ or "")
