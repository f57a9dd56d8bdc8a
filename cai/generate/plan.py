"""Which windows of prompts there are, and who works on which: the plan alone decides, never what is done."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from cai.generate.config import GenerateConfig
from cai.records.loaders import Position
from cai.records.schema import PromptKind


@dataclass(frozen=True)
class Job:
    """One window: prompts of a kind from one number to the one before another, with what is made of each."""

    kind: PromptKind
    start: int
    stop: int
    samples: int
    """Drafts per prompt."""
    rounds: int

    def texts(self, *, critique: bool) -> int:
        """Return how many texts are made in it, if none is dropped."""
        return (self.stop - self.start) * self.samples * (1 + self.rounds * (2 if critique else 1))


def jobs(config: GenerateConfig, counts: Mapping[PromptKind, int]) -> Iterator[Job]:
    """Yield all windows in their order: red-team prompts, then helpful ones."""
    kinds: tuple[tuple[PromptKind, int, int], ...] = (
        ("red_team", config.drafts_per_prompt, config.rounds),
        ("helpful", config.helpful_per_prompt, 0),
    )
    for kind, samples, rounds in kinds:
        for start in range(0, counts[kind], config.window):
            yield Job(kind, start, min(counts[kind], start + config.window), samples, rounds)


def window_of(config: GenerateConfig, counts: Mapping[PromptKind, int], position: Position) -> int:
    """Return the number of the window, among all, that a prompt belongs to."""
    before = -(-counts["red_team"] // config.window) if position.kind == "helpful" else 0
    return before + position.number // config.window
