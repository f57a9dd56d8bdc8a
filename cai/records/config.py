"""The settings of a stage that works through prompts: which, in what windows, in what shares, and when it stops."""

from pathlib import Path

from pydantic import Field, field_validator

from cai.budget import BudgetConfig
from cai.config import Config
from cai.records.shard import Shard


class PromptsConfig(Config):
    """What `cai generate` and `cai label` have in common."""

    prompts: list[Path]
    """Files of prompts."""
    window: int = Field(128, ge=1)
    """Prompts worked on together: a process takes whole windows, and answers batch best when a window holds more rows
    than the engine writes at once. Part of what a seed means: another window, other texts."""
    held_out: list[Path] = Field(default_factory=list)
    """Files of prompts that are kept for evaluation: none of them may be among `prompts`."""
    keep_going: bool = False
    """Leave bad rows of `prompts` out, with their reasons in rejected.jsonl, in place of refusing the files."""
    shard: str | None = None
    """``3/16``: work on the third of sixteen shares, in a folder of its own below `out`; ``cai data merge`` joins."""
    budget: BudgetConfig | None = None
    """What each process may spend, a judge's reading included, before it stops; what it made is kept."""

    @field_validator("shard")
    @classmethod
    def _is_a_shard(cls, given: str | None) -> str | None:
        if given is not None:
            Shard.of_text(given)
        return given
