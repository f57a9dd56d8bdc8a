"""The settings of GRPO and RLOO. They stand apart from the trainer so that planning a run loads no torch."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from cai.config import Paths
from cai.train.configs import TrainConfig
from cai.train.rewards.config import ModelReward, RewardEntry, check_sum


class GroupConfig(TrainConfig):
    """What both have: several answers to each prompt, and an advantage that is read off their rewards alone."""

    algorithm: Literal["grpo", "rloo"]
    prompts: Paths = Field(min_length=1)
    """Prompt files, as PPO reads them."""
    reward_model: Path | None = None
    """A preference model's folder: short for a first entry of `rewards`, of kind ``model`` and weight 1."""
    rewards: list[RewardEntry] = Field(default_factory=list)
    """What answers are scored by, added up with their weights; one of weight 0 is read and not trained on."""
    steps: int = Field(100, ge=1)
    """Rollouts, each followed by one update."""
    batch_size: int = Field(8, ge=1)
    """Prompts per step, over all processes together."""
    micro_batch: int = Field(4, ge=1)
    """Answers in memory at once, per process."""
    max_new_tokens: int = Field(128, ge=1)
    """Tokens of an answer at most. Prompts longer than `max_length` less this are left out, and counted."""
    temperature: float = Field(1.0, gt=0.0)
    """Of sampling and of scoring alike (TRL 1.16: 1)."""
    generations: int = Field(ge=2)
    """Answers to each prompt."""
    kl_coefficient: float = Field(ge=0.0)
    """Weight of KL from the start."""
    clip: float = Field(0.2, gt=0.0, lt=1.0)
    """How far the ratio to the rollout's policy may move before its gradient stops (TRL 1.16: 0.2)."""

    @property
    def all_rewards(self) -> list[RewardEntry]:
        """The rewards, the one of `reward_model` first."""
        short = [] if self.reward_model is None else [ModelReward(kind="model", path=self.reward_model)]
        return [*short, *self.rewards]

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        check_sum(self.all_rewards)
        if self.max_new_tokens >= self.max_length:
            raise ValueError(f"max_new_tokens ({self.max_new_tokens}) must be below max_length ({self.max_length})")
        return self


class GRPOConfig(GroupConfig):
    """Group-relative policy optimisation (Shao et al. 2024, arXiv 2402.03300) by TRL's trainer."""

    algorithm: Literal["grpo"] = "grpo"
    generations: int = Field(8, ge=2)
    """Answers to each prompt (TRL 1.16: 8; the paper: 64)."""
    kl_coefficient: float = Field(0.0, ge=0.0)
    """Weight of KL from the start, in the loss, by k3 (TRL 1.16: 0; the paper: 0.04)."""
    scale_rewards: Literal["group", "batch", "none"] = "group"
    """Over whose standard deviation an advantage is divided; ``none`` doesn't favour prompts with even scores (Liu et
    al. 2025, Dr. GRPO, arXiv 2503.20783)."""


class RLOOConfig(GroupConfig):
    """REINFORCE against the mean of the other answers (Ahmadian et al. 2024, arXiv 2402.14740) by TRL's trainer."""

    algorithm: Literal["rloo"] = "rloo"
    generations: int = Field(4, ge=2)
    """Answers to each prompt (TRL 1.16: 2; the paper: 2 and 4)."""
    kl_coefficient: float = Field(0.05, ge=0.0)
    """Weight of KL from the start, in the reward (TRL 1.16: 0.05)."""
