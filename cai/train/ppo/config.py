"""PPO's settings, each with its unit and where its default comes from.

Sources: Schulman et al. 2017 (arXiv 1707.06347), Ziegler et al. 2019 (1909.08593), Bai et al. 2022a (2204.05862) and
2022b (2212.08073, Constitutional AI), and the last PPO trainer of TRL (1.12).

Left out: top-k and top-p. The distribution that is scored must be the one that was sampled from, and a cut one has no
log-probability for a token that it would not draw. The temperature is applied in both places.
"""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from cai.train.configs import TrainConfig
from cai.train.rewards.config import ModelReward, RewardEntry, check_sum

Estimator = Literal["k1", "k2", "k3"]
"""As in `cai.losses.kl`, which can't be imported here: planning a run loads no torch."""


class PPOConfig(TrainConfig):
    """Settings of PPO. What `TrainConfig` has is the policy's: `model` is where it starts."""

    prompts: list[Path] = Field(min_length=1)
    """Prompt files: JSONL of Prompt records, or rows with `prompt` or `messages` (also CSV and Parquet)."""
    reward_model: Path | None = None
    """A preference model's folder: short for a first entry of `rewards`, of kind ``model`` and weight 1."""
    rewards: list[RewardEntry] = Field(default_factory=list)
    """What answers are scored by, added up with their weights; one of weight 0 is read and not trained on."""
    reference: str | None = None
    """The model that the KL penalty holds the policy to; None is the start of `model`."""

    steps: int = Field(100, ge=1)
    """Rollouts, each followed by its updates."""
    batch_size: int = Field(64, ge=1)
    """Prompts per step, over all processes together (TRL 1.12: 64 with its defaults on one process)."""
    epochs: int = Field(2, ge=1)
    """Passes over a step's answers (TRL 1.12: 4; Ziegler 2019: 4)."""
    minibatches: int = Field(1, ge=1)
    """Updates per pass (TRL 1.12: 1)."""
    micro_batch: int = Field(4, ge=1)
    """Answers per forward pass and process: memory and speed, no part of the result."""

    max_new_tokens: int = Field(128, ge=1)
    """Tokens of an answer at most. Prompts longer than `max_length` less this are left out, and counted."""
    temperature: float = Field(1.0, gt=0.0)
    """Of sampling and of scoring alike (Bai 2022b: 1; TRL 1.12: 0.7)."""

    kl_coefficient: float = Field(0.05, ge=0.0)
    """Reward per nat of KL from the reference, subtracted at each token (TRL 1.12: 0.05; Bai 2022a: 0.001, with a
    preference model of 52B parameters that is harder to fool)."""
    kl_target: float | None = Field(None, gt=0.0)
    """Nats per answer that the coefficient is steered to (Ziegler 2019: 6); None leaves the coefficient fixed."""
    kl_horizon: int = Field(10_000, ge=1)
    """Answers over which the coefficient changes by a fifth at most (Ziegler 2019: 10,000)."""
    kl_estimator: Estimator = "k1"
    """How the penalty estimates KL from sampled tokens (Ziegler 2019, TRL 1.12: k1). What is reported is always k3."""

    gamma: float = Field(1.0, ge=0.0, le=1.0)
    """Discount per token (Bai 2022a: 1)."""
    lam: float = Field(0.95, ge=0.0, le=1.0)
    """Trace decay of the advantages, per token (Schulman 2017: 0.95)."""
    clip: float = Field(0.2, gt=0.0, lt=1.0)
    """How far the ratio to the rollout's policy may move before its gradient stops (Schulman 2017, Bai 2022a: 0.2)."""
    value_clip: float | None = Field(0.2, gt=0.0)
    """How far a value may move from the rollout's, in units of reward (TRL 1.12: 0.2); None doesn't clip."""
    value_coefficient: float = Field(0.1, ge=0.0)
    """Weight of the value loss beside the policy's, on their common trunk (Ziegler 2019, TRL 1.12: 0.1)."""
    whiten_advantages: bool = True
    """Give the advantages mean 0 and variance 1 over all valid tokens of a step (Ziegler 2019, TRL 1.12)."""

    missing_eos_penalty: float = Field(0.0, ge=0.0)
    """Taken off the score of an answer that was cut off at `max_new_tokens` (TRL 1.12: none)."""
    reward_clip: float | None = Field(None, gt=0.0)
    """Scores are held within plus and minus this; None leaves them (TRL 1.12: none)."""
    whiten_rewards: bool = False
    """Give the rewards per token, KL penalty included, variance 1, their mean kept (TRL 1.12: off)."""
    target_kl: float | None = Field(None, gt=0.0)
    """Mean nats per token between the rollout's policy and the present one at which a step's updates end early
    (Spinning Up: 0.015); None never does."""

    value_learning_rate: float = Field(1e-4, gt=0.0)
    """Of the value head alone; it starts at 0 and has to catch up with a trained trunk. `learning_rate` is the rest's.
    Both are constant. (TRL 1.12: 3e-6 for both, falling to 0.)"""
    samples_every: int = Field(5, ge=0)
    """Steps between two looks at answers in samples.jsonl; 0 writes none."""
    samples_shown: int = Field(4, ge=1)
    """Answers per look: the best, the worst, and the first of the rest."""

    @field_validator("prompts", mode="before")
    @classmethod
    def _one_path_is_a_list(cls, given: Any) -> Any:
        return [given] if isinstance(given, str | Path) else given

    @property
    def all_rewards(self) -> list[RewardEntry]:
        """The rewards, the one of `reward_model` first."""
        short = [] if self.reward_model is None else [ModelReward(kind="model", path=self.reward_model)]
        return [*short, *self.rewards]

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        check_sum(self.all_rewards)
        if self.minibatches > self.batch_size:
            raise ValueError(f"minibatches ({self.minibatches}) can't be more than batch_size ({self.batch_size})")
        if self.max_new_tokens >= self.max_length:
            raise ValueError(f"max_new_tokens ({self.max_new_tokens}) must be below max_length ({self.max_length})")
        if self.kl_target is not None and self.kl_horizon < self.batch_size:
            raise ValueError(f"kl_horizon ({self.kl_horizon}) must be at least batch_size ({self.batch_size})")
        if self.lora is not None and self.lora.dropout > 0:
            raise ValueError("lora.dropout must be 0 in PPO: it would make the ratio to the rollout's policy noise")
        return self
