"""Intervals and verdicts for paired comparisons. The prompt is the unit: each counts once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from cai.stats import wilson
from cai.storage import seed_from

Finding = Literal["better", "worse", "no difference shown"]

RESAMPLES = 4000

FEWEST = 6
"""Pairs below which a change is no finding: of five that all point one way, chance makes one set in sixteen."""


@dataclass(frozen=True, kw_only=True)
class WinRate:
    """How often a candidate's answer beat its parent's, ties counting half, with a 95 % interval.

    >>> win_rate([0.9, 0.8, 0.3, None]).n, win_rate([0.9, 0.8, 0.3, None]).abstained
    (3, 1)
    """

    n: int
    abstained: int
    win_rate: float
    low: float
    high: float

    @property
    def verdict(self) -> Finding:
        """``better`` or ``worse`` only when the whole interval lies on one side of one half."""
        if self.low > 0.5:
            return "better"
        if self.high < 0.5:
            return "worse"
        return "no difference shown"


def win_rate(probabilities: Sequence[float | None]) -> WinRate:
    """Count a probability above one half as a win, exactly one half as a tie, None as no vote at all.

    The interval is Wilson's score interval (Wilson 1927), which stays honest for few prompts and for rates near 0 or 1.
    Raises ValueError for what is no probability: a NaN would count as a loss.
    """
    votes = [probability for probability in probabilities if probability is not None]
    if not all(0 <= vote <= 1 for vote in votes):
        raise ValueError("a vote is a probability, from 0 to 1")
    wins = sum(1.0 if vote > 0.5 else 0.5 if vote == 0.5 else 0.0 for vote in votes)
    low, high = wilson(wins, len(votes))
    return WinRate(
        n=len(votes),
        abstained=len(probabilities) - len(votes),
        win_rate=wins / len(votes) if votes else 0.5,
        low=low,
        high=high,
    )


@dataclass(frozen=True, kw_only=True)
class PairedChange:
    """A measure of single answers: its mean for candidate and parent, and a 95 % interval of the difference."""

    n: int
    candidate: float
    parent: float
    low: float
    high: float

    @property
    def verdict(self) -> Finding:
        """Whether the measure moved; up is ``better`` here, whatever the measure means."""
        if self.n < FEWEST:
            return "no difference shown"
        return "better" if self.low > 0 else "worse" if self.high < 0 else "no difference shown"


def paired_change(pairs: Sequence[tuple[float, float]]) -> PairedChange:
    """Return the change of a measure from parent to candidate over (candidate, parent) values of the same prompts.

    The interval is a percentile bootstrap over prompts (Efron 1979) with fixed seeds: the same answers always give the
    same interval.
    """
    if not pairs:
        return PairedChange(n=0, candidate=0.0, parent=0.0, low=0.0, high=0.0)
    values = np.asarray(pairs, dtype=np.float64)
    difference = values[:, 0] - values[:, 1]
    generator = np.random.default_rng(seed_from("paired_change", len(pairs)))
    # One resample at a time: all at once would take gigabytes for a large set of prompts.
    means = [difference[generator.integers(0, len(pairs), size=len(pairs))].mean() for _ in range(RESAMPLES)]
    low, high = np.quantile(means, [0.025, 0.975])
    return PairedChange(
        n=len(pairs),
        candidate=float(values[:, 0].mean()),
        parent=float(values[:, 1].mean()),
        low=float(low),
        high=float(high),
    )
