"""PPO against the preference model, with a penalty for leaving the reference.

Start: accelerate launch recipes/ppo.py --config recipes/configs/ppo.yaml key=value …
"""

from cai.cli.recipe import run_recipe
from cai.train.ppo.config import PPOConfig
from cai.train.ppo.trainer import run_ppo

if __name__ == "__main__":
    run_recipe(PPOConfig, run_ppo, about=__doc__ or "")
