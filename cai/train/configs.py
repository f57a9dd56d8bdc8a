"""The settings of the trainers. They stand apart from the trainers so that planning a run loads no torch."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from cai.config import Config

Precision = Literal["auto", "fp32", "bf16"]
Tracker = Literal["wandb", "trackio", "tensorboard"]
HeadName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
"""What a head of a preference model is called, in metrics, too."""

REFERENCE_FREE = ("simpo", "orpo")
"""Losses of `DPOConfig` that compare with no reference, and take log-probabilities per token."""


class LoraSettings(Config):
    """A low-rank adapter (Hu et al. 2021, arXiv 2106.09685) in place of full finetuning."""

    r: int = Field(16, ge=1)
    """Rank."""
    alpha: int = Field(32, ge=1)
    """Scale of the update: alpha / r."""
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    target_modules: str | list[str] = "all-linear"
    """Which layers get one."""


class TrainConfig(Config):
    """Settings that every trainer has."""

    model: str = "embedded"
    """Where training starts: a folder, a Hugging Face id, or ``embedded`` for the model that comes with cai."""
    out: Path
    """The folder that gets the trained model, its metrics and its checkpoints."""
    seed: int = Field(0, ge=0, lt=2**32)
    learning_rate: float = Field(1e-5, gt=0.0, lt=1.0)
    """Peak learning rate of AdamW."""
    weight_decay: float = Field(0.0, ge=0.0)
    max_grad_norm: float = Field(1.0, gt=0.0)
    """Gradients are scaled down to this norm."""
    precision: Precision = "auto"
    """``bf16`` computes in bfloat16 over float32 weights; ``auto`` takes it where the hardware is built for it."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    lora: LoraSettings | None = None
    """Train an adapter and merge it at the end; None trains all weights."""
    max_length: int = Field(1024, ge=8)
    """Tokens of prompt and answer together; longer prompts lose their beginning, so that the answer stays whole."""
    save_every: int = Field(50, ge=0)
    """Optimizer steps between checkpoints; 0 writes none."""
    report_to: list[Tracker] = Field(default_factory=list)
    """Trackers to send metrics to, besides metrics.jsonl."""


class EpochsConfig(TrainConfig):
    """Settings of the trainers that go through a fixed set of rows."""

    data: list[Path]
    """Files of rows (.jsonl)."""
    epochs: int = Field(1, ge=1)
    batch_size: int = Field(16, ge=1)
    """Rows per optimizer step, over all processes."""
    micro_batch: int = Field(4, ge=1)
    """Rows in memory at once, per process; it changes speed and memory, not results."""
    quantization: Literal["none", "4bit"] = "none"
    """``4bit`` freezes the model in 4 bits under its adapter (QLoRA: Dettmers et al. 2023, arXiv 2305.14314)."""
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw_8bit"] = "adamw"
    """``adamw_8bit`` keeps AdamW's state in 8 bits (Dettmers et al. 2022, arXiv 2110.02861); ``paged`` off the GPU."""
    liger: bool = False
    """Use Liger's fused kernels (GPU only)."""
    warmup: float = Field(0.1, ge=0.0, lt=1.0)
    """Share of the steps over which the learning rate rises."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """What the learning rate does after the rise; the paper's is constant."""

    @model_validator(mode="after")
    def _adapter_over_4bit(self) -> "EpochsConfig":
        if self.quantization != "none" and self.lora is None:
            raise ValueError("weights in 4 bits can't be trained; give 'lora' too, or leave 'quantization' out")
        return self


class SFTConfig(EpochsConfig):
    """Supervised finetuning. Rows have `messages`; the loss is on the assistant's last turn."""


class StopSettings(Config):
    """End a training when a figure on the held-out pairs stops getting better; the best weights are what is saved."""

    metric: Literal["accuracy", "loss"] = "accuracy"
    """What is compared: accuracy upwards, loss downwards."""
    every: int = Field(10, ge=1)
    """Optimizer steps between two measurements, each of which reads all held-out pairs."""
    patience: int = Field(3, ge=1)
    """Measurements without a new best after which the training ends."""
    least: float = Field(0.0, ge=0.0)
    """By how much a new best must be better."""


class RewardConfig(EpochsConfig):
    """The preference model. Rows have `prompt`, `chosen`, `rejected`, and `chosen_prob` if labels are soft."""

    eval_fraction: float = Field(0.1, ge=0.0, lt=1.0)
    """Share of the prompts held out to measure accuracy; 0 trains on all."""
    eval_data: list[Path] = Field(default_factory=list)
    """Files of pairs to measure accuracy on, in place of `eval_fraction`; their prompts are not trained on."""
    centering: float = Field(0.0, ge=0.0)
    """Pulls the scores of a pair towards a sum of 0 (Eisenstein et al. 2023, arXiv 2312.09244)."""
    label_noise: float = Field(0.0, ge=0.0, lt=0.5)
    """The share of labels that are wrong, which the loss corrects for (Patrini et al. 2017, arXiv 1609.03683). For hard
    labels; calibrated probabilities (`chosen_prob`) have nothing left to correct."""
    heads: dict[HeadName, Annotated[list[str], Field(min_length=1)]] = Field(default_factory=dict)
    """Several scores over one trunk, by name, each with the rows that it learns from: ``{harmless: [red_team], helpful:
    [helpful, people.jsonl]}``. A row is of the head that names its file, as `data` or `eval_data` has it, else of the
    one that names its `kind`. None: one score, from all rows."""
    principle_conditioned: bool = False
    """Let the model read, before the dialogue, the principle that a row was judged by (SALMON: Sun et al. 2023, arXiv
    2310.05910): its `principle`, a text or an id, or `principles`, a list of them. Rows without are read without."""
    constitution: str | None = None
    """Where principles that rows name by their ids have their texts: a file, or the name of one that comes along."""
    stop: StopSettings | None = None
    """End early by a figure on the held-out pairs; None trains to the end."""

    @field_validator("heads")
    @classmethod
    def _one_head_for_a_row(cls, heads: dict[str, list[str]]) -> dict[str, list[str]]:
        named = [each for rows in heads.values() for each in rows]
        if twice := sorted({each for each in named if named.count(each) > 1}):
            raise ValueError(f"two heads learn from {twice[0]!r}; name it under one")
        return heads

    @model_validator(mode="after")
    def _texts_for_something(self) -> "RewardConfig":
        if self.constitution is not None and not self.principle_conditioned:
            raise ValueError("a 'constitution' is for models that read principles; set principle_conditioned too")
        return self

    @model_validator(mode="after")
    def _something_to_stop_by(self) -> "RewardConfig":
        if self.stop is not None and not self.eval_fraction and not self.eval_data:
            raise ValueError("nothing is held out to stop by; give 'eval_fraction' or 'eval_data', or leave out 'stop'")
        return self


class DPOConfig(EpochsConfig):
    """Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290), with soft labels."""

    beta: float = Field(0.1, gt=0.0)
    """Strength of the pull towards the reference."""
    loss: Literal["sigmoid", "ipo", "hinge", "robust", "simpo", "orpo"] = "sigmoid"
    """``simpo`` and ``orpo`` have no reference; in ``orpo``, `beta` is the weight of the odds ratio."""
    reference: str | None = None
    """The reference's folder or id; None is where training starts."""
    reference_mode: Literal["cached", "adapter", "copy"] = "cached"
    """``cached`` computes the reference's log-probabilities before the first step and keeps them for later runs;
    ``adapter`` computes them at every step with the adapter turned off, ``copy`` with a frozen second model."""
    per_token: bool = False
    """Divide log-probabilities by the answers' lengths (length-normalised DPO: Lambert et al. 2024, arXiv 2411.15124,
    section 5.1); ``ipo``, ``simpo`` and ``orpo`` do so by themselves."""
    label_noise: float = Field(0.1, ge=0.0, lt=0.5)
    """``robust``: the share of labels that are wrong."""
    simpo_margin: float = Field(1.0, ge=0.0)
    """``simpo``: the target margin (gamma)."""

    @model_validator(mode="after")
    def _no_reference_where_none_is_used(self) -> "DPOConfig":
        if self.loss in REFERENCE_FREE and self.reference is not None:
            raise ValueError(f"{self.loss} has no reference; remove 'reference' or take another loss")
        return self

    @model_validator(mode="after")
    def _adapter_to_turn_off(self) -> "DPOConfig":
        if self.reference_mode == "adapter" and (self.lora is None or self.reference is not None):
            raise ValueError(
                "an adapter that is turned off leaves where training starts; give 'lora' and no 'reference'"
            )
        return self

    @model_validator(mode="after")
    def _lengths_once(self) -> "DPOConfig":
        if self.per_token and self.loss in ("ipo", *REFERENCE_FREE):
            raise ValueError(f"{self.loss} divides by lengths itself; remove 'per_token' or take another loss")
        return self
