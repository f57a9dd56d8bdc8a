"""Judges that give a single answer a score, and how well their scores tell good answers from bad ones."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from cai.constitution import Constitution, Principle, draw
from cai.judges.base import Judge
from cai.judges.pointwise import PointwiseJudge, Rating
from cai.records.answers import LabelledAnswer
from cai.storage import seed_from
from cai.types import Dialogue

SCORING = ("direction", "pointwise", "preference_model")
"""Kinds of judges that score a single answer."""


@runtime_checkable
class Scorer(Protocol):
    """A judge that gives a single answer a score, comparable with those of other answers to the same dialogue."""

    def scores(self, answers: Sequence[tuple[Dialogue, str, Principle]]) -> list[float]:
        """Return a score per answer, by its principle if the judge reads one; not a number where there is none."""
        ...


def answer_scores(judge: Judge, answers: Sequence[tuple[Dialogue, str, Principle]]) -> list[float] | None:
    """Return a score per answer, not a number where the judge gives none; None for a judge that only compares."""
    if isinstance(judge, PointwiseJudge):
        return [rating.expected if isinstance(rating, Rating) else math.nan for rating in judge.rate(answers)]
    if isinstance(judge, Scorer):
        return judge.scores(answers)
    return None


@dataclass(frozen=True, kw_only=True)
class Discrimination:
    """How well a judge's scores tell apart what people called good and bad."""

    judge: str
    model: str
    constitution: str
    answers: int
    good: int
    unscored: int
    """Answers without a score; they are in no figure."""
    auroc: float
    """The probability that a good answer's score is above a bad one's, ties counting half: 0.5 is a coin."""
    interval: tuple[float, float]
    """95 %, by Hanley and McNeil's standard error."""


def discrimination(
    judge: Judge,
    constitution: Constitution,
    answers: Sequence[LabelledAnswer],
    *,
    tags: tuple[str, ...] = (),
    seed: int = 0,
    name: str = "",
) -> Discrimination | None:
    """Score each answer, under a principle drawn for it where the judge asks by one; None if the judge only compares.

    The figures are NaN if all answers of a side are without a score.
    """
    drawn = [draw(constitution, seed_from(seed, answer.id), tags=tags) for answer in answers]
    asked = [(answer.prompt, answer.answer, principle) for answer, principle in zip(answers, drawn, strict=True)]
    scores = answer_scores(judge, asked)
    if scores is None:
        return None
    told = [(answer.good, score) for answer, score in zip(answers, scores, strict=True) if math.isfinite(score)]
    found, error = auroc((score for good, score in told if not good), (score for good, score in told if good))
    return Discrimination(
        judge=name or judge.name,
        model=judge.model,
        constitution=constitution.digest,
        answers=len(answers),
        good=sum(answer.good for answer in answers),
        unscored=len(answers) - len(told),
        auroc=found,
        interval=(max(0.0, found - 1.96 * error), min(1.0, found + 1.96 * error)),
    )


def auroc(bad: Iterable[float], good: Iterable[float]) -> tuple[float, float]:
    """Return the area under the ROC curve and its standard error (Hanley and McNeil 1982); NaN without both sides.

    >>> auroc([0.0, 1.0], [1.0, 2.0])[0]
    0.875
    """
    low, high = list(bad), list(good)
    n, m = len(high), len(low)
    if not n or not m:
        return math.nan, math.nan
    area = sum((one > other) + 0.5 * (one == other) for one in high for other in low) / (n * m)
    two_good, two_bad = area / (2 - area), 2 * area * area / (1 + area)
    spread = area * (1 - area) + (n - 1) * (two_good - area * area) + (m - 1) * (two_bad - area * area)
    return area, math.sqrt(spread / (n * m))
