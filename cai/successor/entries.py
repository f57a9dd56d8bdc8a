"""The stages that a plan can name: where each one's config and function live.

They are named as text, so that planning a run loads no torch; a stage's own process loads what it needs.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from cai.config import Config


@dataclass(frozen=True)
class Entry:
    """A stage's config class and the function that runs it, as ``module:name``."""

    config: str
    function: str

    def load_config(self) -> type[Config]:
        """Import the config class."""
        return cast(type[Config], _load(self.config))

    def load_function(self) -> Callable[[Config], None]:
        """Import the function, and all that it needs."""
        return cast(Callable[[Config], None], _load(self.function))


ENTRIES = {
    "generate": Entry("cai.generate.pipeline:GenerateConfig", "cai.generate.pipeline:run_generate"),
    "grow": Entry("cai.generate.grow:GrowConfig", "cai.generate.grow:run_grow"),
    "sft": Entry("cai.train.configs:SFTConfig", "cai.train.sft:run_sft"),
    "label": Entry("cai.label.config:LabelConfig", "cai.label.pipeline:run_label"),
    "reward": Entry("cai.train.configs:RewardConfig", "cai.train.reward:run_reward"),
    "dpo": Entry("cai.train.configs:DPOConfig", "cai.train.dpo:run_dpo"),
    "online_dpo": Entry("cai.successor.online_config:OnlineDPOConfig", "cai.successor.online_dpo:run_online_dpo"),
    "ppo": Entry("cai.train.ppo.config:PPOConfig", "cai.train.ppo.trainer:run_ppo"),
    "grpo": Entry("cai.train.group_config:GRPOConfig", "cai.train.grpo:run_grpo"),
    "rloo": Entry("cai.train.group_config:RLOOConfig", "cai.train.grpo:run_rloo"),
    "evaluate": Entry("cai.evaluate.pipeline:EvaluateConfig", "cai.evaluate.pipeline:run_evaluate"),
}


def _load(where: str) -> object:
    module, _, name = where.partition(":")
    return getattr(importlib.import_module(module), name)
