"""The settings of critique and revision."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from cai.engines.build import EngineConfig, SamplingConfig
from cai.generate.form import FormName
from cai.generate.thinking import ThinkingConfig
from cai.records.config import PromptsConfig


class GenerateConfig(PromptsConfig):
    """Settings of the critique-and-revise stage."""

    prompts: list[Path]
    """Files of prompts; red-team ones are revised, helpful ones answered as they are."""
    constitution: str = "harmless"
    """A file, or the name of a shipped constitution."""
    engine: EngineConfig = EngineConfig()
    out: Path
    seed: int = 0
    format: FormName = "auto"
    """``chat``: dialogues; ``transcript``: texts that a base model goes on with; ``auto`` looks for a chat template."""
    tags: list[str] = Field(default_factory=list)
    """Only principles with one of these tags are drawn; none: all."""
    draw: Literal["weighted", "balanced"] = "weighted"
    """How a step's principle is drawn: by weight and independently, as in the paper, or each as often as the others."""
    drafts_per_prompt: int = Field(1, ge=1)
    rounds: int = Field(4, ge=0)
    """Critique-and-revise rounds; the paper's is 4."""
    critique: bool = True
    """False is the variant that revises at once."""
    keep: Literal["all", "last"] | Annotated[int, Field(ge=1)] = "all"
    """Which rounds' revisions are trained on: ``all``, as in the paper, each prompt's ``last``, or those of one round,
    by its number. Another start with another choice makes the rows again, and no text."""
    helpful_per_prompt: int = Field(2, ge=0)
    """Answers sampled per helpful prompt; the paper's is 2."""
    helpful_ratio: float | None = Field(None, gt=0.0)
    """At most so many rows of helpful answers per row of a revised one, drawn by the seed; None keeps all."""
    sampling: SamplingConfig = SamplingConfig()
    critique_tokens: int = Field(128, ge=1)
    """The most tokens of a critique."""
    thinking: ThinkingConfig = ThinkingConfig()
    """For reasoning models: how their thinking part is told apart."""
    train_on_thinking: bool = False
    """Put the thinking part of an answer into its training row; a revision's speaks of the revision."""
    near_duplicates: float | None = Field(0.85, ge=0.5, le=1.0)
    """A training row that shares this much of its three-word runs with an earlier one is left out; None keeps all."""

    @property
    def making(self) -> dict[str, Any]:
        """The settings that decide what a record says or which there are: a folder holds records of one making."""
        after = {"out", "prompts", "constitution", "engine", "held_out", "keep_going", "shard", "budget"}
        after |= {"keep", "train_on_thinking", "near_duplicates", "helpful_ratio"}
        return {name: value for name, value in self.to_plain().items() if name not in after}
