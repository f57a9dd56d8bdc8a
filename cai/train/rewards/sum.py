"""A weighted sum of rewards, with each part beside it.

A failed reward is data: None, or an exception, leaves the sample without a score, and a trainer drops and counts it. A
reward that is NaN or infinite is not a failure of one sample; it stays in the total, where the trainer refuses it.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from cai.errors import CaiError, TrainingError
from cai.types import Dialogue


class RewardFunction(Protocol):
    """Scores answers, higher is better: a preference model, a checker, a call to a service."""

    def __call__(self, prompts: Sequence[Dialogue], answers: Sequence[str]) -> Sequence[float | None]:
        """Return a score for each answer, None where there is none (that answer is then left out)."""
        ...


class Part(NamedTuple):
    """One reward of a sum."""

    name: str
    weight: float
    """0: read, and no part of the total."""
    function: RewardFunction


class Score(NamedTuple):
    """What the rewards say of an answer.

    Parts a = 2 (weight 1), b = 1 (weight 0.5), c = 7 (weight 0): the total is 2.5.
    """

    total: float | None
    """None where a reward of the sum has failed."""
    parts: dict[str, float]
    """By name, before weights; failed ones are missing."""
    failure: str = ""
    """Why there is no total."""


class Rewards:
    """Several rewards as one."""

    def __init__(self, parts: Sequence[Part]) -> None:
        """Add these up."""
        self.parts = tuple(parts)

    @classmethod
    def of(cls, function: RewardFunction) -> "Rewards":
        """Return a sum of one function."""
        return cls([Part("function", 1.0, function)])

    def score(self, prompts: Sequence[Dialogue], answers: Sequence[str]) -> list[Score]:
        """Return a score for each answer; raises TrainingError for a reward that gives more or fewer."""
        if not answers:
            return []
        found = [_ask(part, prompts, answers) for part in self.parts]
        return [self._score([row[place] for row in found]) for place in range(len(answers))]

    def _score(self, said: Sequence[float | str | None]) -> Score:
        parts = {part.name: value for part, value in zip(self.parts, said, strict=True) if isinstance(value, float)}
        total = 0.0
        for part, value in zip(self.parts, said, strict=True):
            if part.weight and isinstance(value, float):
                total += part.weight * value
            elif part.weight:
                return Score(None, _finite(parts), f"{part.name}: {value or 'no reward'}")
        return Score(total, _finite(parts))


def _finite(parts: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in parts.items() if math.isfinite(value)}


def _ask(part: Part, prompts: Sequence[Dialogue], answers: Sequence[str]) -> list[float | str | None]:
    """Return a number, None or a reason for each answer. A batch that fails is asked again one by one."""
    try:
        given = list(part.function(prompts, answers))
    except CaiError:
        raise
    except Exception as error:
        if len(answers) == 1:
            return [f"{type(error).__name__}: {error}"]
        return [_ask(part, [prompt], [answer])[0] for prompt, answer in zip(prompts, answers, strict=True)]
    if len(given) != len(answers):
        problem = f"the reward {part.name!r} gave {len(given)} scores for {len(answers)} answers; it must give one each"
        raise TrainingError(problem)
    reason = getattr(part.function, "failure", None)
    return [reason if value is None else float(value) for value in given]
