"""From verdicts under several principles to one label per pair."""

import math
from collections.abc import Sequence

from cai.judges.base import Verdict
from cai.judges.pairwise import sigmoid

ROUNDING = 1e-9
"""Logits nearer to zero than this are a tie: what is left when opposite votes cancel."""


def mean_logit(verdicts: Sequence[Verdict], weights: Sequence[float]) -> float | None:
    """Return the probability of A from the weighted mean of the verdicts' logits; None when all abstained.

    Averaging over principles makes a more robust preference model than one principle does (Bai et al. 2022, 4.3).

    >>> round(mean_logit([Verdict(id="x", prob_a=0.8), Verdict(id="x", prob_a=None)], [1.0, 1.0]), 3)
    0.8
    """
    votes = [(_logit(v.prob_a), weight) for v, weight in zip(verdicts, weights, strict=True) if v.prob_a is not None]
    if not votes:
        return None
    mean = sum(logit * weight for logit, weight in votes) / sum(weight for _, weight in votes)
    return sigmoid(mean) if abs(mean) > ROUNDING else 0.5


def flipped(by_order: Sequence[float]) -> bool | None:
    """Tell whether a judge chose the same place in both orders, so its answer followed the order; None if unknown."""
    if len(by_order) != 2 or 0.5 in by_order:
        return None
    return (by_order[0] > 0.5) != (by_order[1] > 0.5)


def clamp(probability: float, low: float, high: float) -> float:
    """Keep a label from saturating, as the paper does for chain-of-thought labels (section 4.4)."""
    return min(high, max(low, probability))


def _logit(probability: float) -> float:
    kept = min(1 - 1e-9, max(1e-9, probability))
    return math.log(kept / (1 - kept))
