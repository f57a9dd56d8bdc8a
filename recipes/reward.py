"""The preference model: a scalar score per answer, trained on soft labels.

Start: accelerate launch recipes/reward.py --config recipes/configs/reward.yaml key=value …
"""

from cai.cli.recipe import run_recipe
from cai.train.configs import RewardConfig
from cai.train.reward import run_reward

if __name__ == "__main__":
    run_recipe(RewardConfig, run_reward, about=__doc__ or "")
