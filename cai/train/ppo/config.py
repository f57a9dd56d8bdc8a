"""PPO's settings, each with its unit and where its default comes from.

Sources: Schulman et al. 2017 (arXiv 1707.06347), Ziegler et al. 2019 (1909.08593), Bai et al. 2022a (2204.05862) and
2022b (2212.08073, Constitutional AI), and the last PPO trainer of TRL (1.12).

Other sources are named where they are used: OpenRLHF 0.11.2 and verl 0.9.1 are their command lines and config files.

Refused by name: top-k, top-p and whatever else bends the distribution. The one that is scored must be the one that was
sampled from, and a cut one has no log-probability for a token that it would not draw. The temperature is applied in
both places.
"""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from cai.config import Config, Paths
from cai.engines.server import ServerConfig
from cai.engines.vllm_config import VLLMConfig
from cai.train.configs import TrainConfig
from cai.train.rewards.config import ModelReward, RewardEntry, check_sum, names_of

Estimator = Literal["k1", "k2", "k3"]
"""As in `cai.losses.kl`, which can't be imported here: planning a run loads no torch."""


REFUSED = (
    *("top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "repetition_penalty", "min_new_tokens"),
    *("no_repeat_ngram_size", "bad_words", "logit_bias", "frequency_penalty", "presence_penalty", "stop", "num_beams"),
)
"""Settings of samplers that PPO can't have."""


class RolloutSettings(Config):
    """Where a step's answers come from, and how those of other weights or of another engine are corrected for."""

    engine: Literal["transformers", "vllm", "vllm_server"] = "transformers"
    """``vllm`` answers in a process of its own beside each that trains, and is given the weights before a rollout.
    ``vllm_server`` is one that was started apart (`cai.train.ppo.server`), for any number of processes."""
    ahead: bool = False
    """Draw the next step's answers while a step trains, by the weights that it began with (one step off-policy:
    Noukhovitch et al. 2024, arXiv 2410.18252). With ``transformers`` that takes a copy of the trained weights."""
    correction: Literal["none", "token", "sequence"] = "token"
    """Importance weights of answers that were drawn ahead or by vLLM: `cai.train.ppo.importance` (AReaL: token; TRL
    1.16's GRPO: sequence)."""
    max_weight: float = Field(2.0, gt=1.0)
    """The weights are cut off at this (ms-swift: 2; TRL 1.16's GRPO: 3)."""
    max_gap: float = Field(0.5, gt=0.0)
    """Nats per token, mean size, that vLLM's log-probabilities may be from the training's by the same weights (drawn
    ahead: in the first step); a step above it is refused: something else than the policy has answered."""
    vllm: VLLMConfig = Field(default_factory=VLLMConfig)
    """How ``vllm`` holds the model; `lora_rank` is the trained adapter's."""
    server: ServerConfig | None = None
    """Where the server of ``vllm_server`` is; its tokenizer is the policy's."""
    served: str | None = None
    """What the server calls the model; None is its name here."""

    @property
    def is_off_policy(self) -> bool:
        """Whether answers may come from another distribution than the training's."""
        return self.ahead or self.engine != "transformers"

    @model_validator(mode="after")
    def _knows_its_server(self) -> Self:
        if (self.engine == "vllm_server") != (self.server is not None):
            raise ValueError("engine 'vllm_server' and 'server' go together; give both, or neither")
        return self


class PPOConfig(TrainConfig):
    """Settings of PPO. What `TrainConfig` has is the policy's: `model` is where it starts."""

    prompts: Paths = Field(min_length=1)
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
    rollout: RolloutSettings = Field(default_factory=RolloutSettings)
    """What draws the answers, and when."""

    kl_coefficient: float = Field(0.05, ge=0.0)
    """Reward per nat of KL from the reference, subtracted at each token (TRL 1.12: 0.05; Bai 2022a: 0.001, with a
    preference model of 52B parameters that is harder to fool)."""
    kl_target: float | None = Field(None, gt=0.0)
    """Nats per answer that the coefficient is steered to (Ziegler 2019: 6); None leaves the coefficient fixed."""
    kl_horizon: int = Field(10_000, ge=1)
    """Answers over which the coefficient changes by a fifth at most (Ziegler 2019: 10,000)."""
    kl_estimator: Estimator = "k1"
    """How the penalty estimates KL from sampled tokens (Ziegler 2019, TRL 1.12: k1). What is reported is always k3."""
    kl_in: Literal["reward", "loss"] = "reward"
    """``loss`` adds the penalty to the loss in place of the reward, where the value function doesn't see it (GRPO, Shao
    et al. 2024, arXiv 2402.03300, with k3). It needs k2 or k3: the gradient of k1 is 0 on average."""
    reference_ema: float | None = Field(None, gt=0.0, lt=1.0)
    """After each step the reference becomes this times itself plus the rest of the policy (Rame et al. 2024, WARP,
    arXiv 2406.16768: 0.99); None leaves it where it is. OpenRLHF's EMA (0.992) is of the model that is saved."""

    gamma: float = Field(1.0, ge=0.0, le=1.0)
    """Discount per token (Bai 2022a: 1)."""
    lam: float = Field(0.95, ge=0.0, le=1.0)
    """Trace decay of the advantages, per token (Schulman 2017: 0.95)."""
    clip: float = Field(0.2, gt=0.0, lt=1.0)
    """How far the ratio to the rollout's policy may move before its gradient stops (Schulman 2017, Bai 2022a: 0.2)."""
    dual_clip: float | None = Field(None, gt=1.0)
    """Bounds the loss of a token with a negative advantage by so many times that advantage (Ye et al. 2020, arXiv
    1912.09729, and verl: 3; OpenRLHF, TRL 1.12: none)."""
    normalize_by: Literal["token", "sequence"] = "token"
    """Whether all tokens weigh the same in the policy's loss, or all answers (verl, OpenRLHF, TRL 1.12: token; GRPO:
    sequence)."""
    entropy_coefficient: float = Field(0.0, ge=0.0)
    """Weight of the policy's mean entropy in nats, taken off the loss (Bai 2022a, verl, TRL 1.12: none)."""
    value_clip: float | None = Field(0.2, gt=0.0)
    """How far a value may move from the rollout's, in units of reward (TRL 1.12: 0.2); None doesn't clip."""
    value_coefficient: float = Field(0.1, ge=0.0)
    """Weight of the value loss beside the policy's, on their common trunk (Ziegler 2019, TRL 1.12: 0.1)."""
    whiten_advantages: bool = True
    """Give the advantages mean 0 and variance 1 over all valid tokens of a step (Ziegler 2019, TRL 1.12)."""

    normalize_scores: Literal["none", "batch", "running"] = "none"
    """Give the scores mean 0 and variance 1: over the step, or over all steps so far (Ziegler 2019 normalises the
    reward model once, before training; TRL 1.12: none)."""
    reward_clip: float | None = Field(None, gt=0.0)
    """Scores, normalised ones too, are held within plus and minus this; None leaves them (TRL 1.12: none; OpenRLHF:
    10)."""
    missing_eos_penalty: float = Field(0.0, ge=0.0)
    """Taken off the score, after the clip, of an answer that was cut off at `max_new_tokens` (TRL 1.12: none)."""
    cut_off: Literal["keep", "mask"] = "keep"
    """``mask`` leaves answers that were cut off out of the losses: their end says nothing of their worth (overlong
    filtering: Yu et al. 2025, DAPO, arXiv 2503.14476, section 3.4)."""
    min_tokens: int = Field(0, ge=0)
    """Answers that end by themselves before so many tokens pay `too_short_penalty`. A penalty, since to forbid the end
    of turn would draw from another distribution than the one that is scored."""
    too_short_penalty: float = Field(1.0, ge=0.0)
    """In units of score."""
    whiten_rewards: bool = False
    """Give the rewards per token, KL penalty included, variance 1, their mean kept (TRL 1.12: off)."""
    target_kl: float | None = Field(None, gt=0.0)
    """Mean nats per token between the rollout's policy and the present one at which a step's updates end early
    (Spinning Up: 0.015); None never does."""

    value_init: Path | None = None
    """A preference model's folder: the value head begins as its score (Ouyang et al. 2022, arXiv 2203.02155, section
    3.5, begin a whole value model so). The trunk stays the policy's, so it helps where the preference model was trained
    from the policy's own start. None begins at 0."""
    value_init_head: str | None = None
    """Which of that model's scores, where it has several."""
    value_adapter: bool = False
    """Read values in a pass of their own, by a second adapter of `lora`'s shape: their loss then moves nothing that the
    policy answers by. For twice the arithmetic of a scoring or training pass."""
    value_learning_rate: float = Field(1e-4, gt=0.0)
    """Of the value head, and the values' adapter; it starts at 0 and has to catch up. `learning_rate` is the rest's.
    Both are constant. (TRL 1.12: 3e-6 for both, falling to 0.)"""
    eval_prompts: Paths = Field(default_factory=list)
    """Prompts that are not trained on; their answers are scored every `eval_every` steps, always by the same seeds."""
    eval_every: int = Field(10, ge=1)
    """Steps. The last one always counts."""
    keep: Literal["last", "best"] = "last"
    """``best`` saves the weights with the highest held-out score (Gao et al. 2022, arXiv 2210.10760: a proxy goes on
    rising after the real thing has turned)."""
    best_by: str | None = None
    """Which reward decides, by its name: one of weight 0 is independent of the training. None is the sum."""
    samples_every: int = Field(5, ge=0)
    """Steps between two looks at answers in samples.jsonl; 0 writes none."""
    samples_shown: int = Field(4, ge=1)
    """Answers per look: the best, the worst, the one whose likelihood has changed most since the reference, and the
    first of the rest."""

    @model_validator(mode="before")
    @classmethod
    def _scores_what_it_samples(cls, given: Any) -> Any:
        bent = [name for name in REFUSED if isinstance(given, dict) and name in given]
        if bent:
            raise ValueError(
                f"'{bent[0]}' would draw answers from another distribution than the one that is scored; remove it "
                "(temperature is applied in both places; for longer answers give min_tokens)"
            )
        return given

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
        if self.kl_in == "loss" and self.kl_estimator == "k1":
            raise ValueError("kl_estimator k1 has no gradient on average; with kl_in=loss take k2 or k3")
        if self.reference_ema is not None and (self.lora is not None or self.reference is not None):
            raise ValueError("reference_ema needs a reference of its own; remove 'lora' and 'reference'")
        if self.min_tokens >= self.max_new_tokens:
            raise ValueError(f"min_tokens ({self.min_tokens}) must be below max_new_tokens ({self.max_new_tokens})")
        if self.keep == "best" and not self.eval_prompts:
            raise ValueError("keep=best needs eval_prompts to find the best by")
        if self.best_by is not None and self.best_by not in names_of(self.all_rewards):
            raise ValueError(f"best_by is {self.best_by!r}, and the rewards are {names_of(self.all_rewards)}")
        if self.temperature != 1 and self.rollout.is_off_policy and self.rollout.correction != "none":
            raise ValueError(
                f"temperature is {self.temperature}, and rollout.correction reads what the engine says of its tokens, "
                "which is at temperature 1; take that, or rollout.correction=none"
            )
        if self.kl_target is not None and self.kl_horizon < self.batch_size:
            raise ValueError(f"kl_horizon ({self.kl_horizon}) must be at least batch_size ({self.batch_size})")
        if self.value_init_head is not None and self.value_init is None:
            raise ValueError("value_init_head is a score of value_init's model; give that, or remove it")
        if self.value_adapter and (self.lora is None or self.gradient_checkpointing):
            raise ValueError("value_adapter is an adapter beside 'lora', and goes without gradient_checkpointing")
        if self.lora is not None and self.lora.dropout > 0:
            raise ValueError("lora.dropout must be 0 in PPO: it would make the ratio to the rollout's policy noise")
        return self
