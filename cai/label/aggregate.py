"""From votes under several principles, by one judge or several, to one label per pair.

Hard constraints come first: where one has a confident vote, nothing outweighs it, and where two disagree there is no
label. Else the label is the mean of the votes' logits, weighted by the constitution or by weights that were learned
from people's labels. Ties, abstentions and failures are no votes. How far the votes disagree is kept with the label.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cai.constitution import Principle
from cai.judges.base import Verdict
from cai.judges.pairwise import sigmoid

if TYPE_CHECKING:
    from cai.label.learned import LearnedWeights

ROUNDING = 1e-9
"""Logits nearer to zero than this are a tie: what is left when opposite votes cancel."""

CONFIDENT = 0.8
"""The probability from which the vote of a hard constraint decides."""


@dataclass(frozen=True, kw_only=True)
class Vote:
    """One verdict, and what it counts."""

    name: str
    """Whose it is: what learned weights are kept by."""
    prob_a: float | None
    """None for an abstention, whose `reason` says why."""
    reason: str = ""
    weight: float = 1.0
    hard: bool = False
    prob_a_by_order: tuple[float, ...] = ()
    """As the judge gave them in the two orders, before it clamped anything; empty where it has none."""

    @classmethod
    def of(cls, verdict: Verdict, principle: Principle, *, judge: str = "") -> "Vote":
        """Return the vote of a verdict under a principle; `judge` tells several judges apart.

        >>> Vote.of(Verdict(id="x", prob_a=0.7), Principle(id="kind", text="Be kind."), judge="direction").name
        'direction/kind'
        """
        return cls(
            name=f"{judge}/{principle.id}" if judge else principle.id,
            prob_a=verdict.prob_a,
            reason=verdict.reason,
            weight=principle.weight,
            hard=principle.priority == "hard",
            prob_a_by_order=verdict.prob_a_by_order,
        )

    @property
    def certainty(self) -> float:
        """How far the vote lies from one half, as a logit of any sign, before clamping.

        A judge that is clamped to 0.4 and 0.6 would else never be sure of a hard constraint.
        """
        given = self.prob_a_by_order or (0.5 if self.prob_a is None else self.prob_a,)
        return sum(map(logit, given)) / len(given)


@dataclass(frozen=True, kw_only=True)
class Label:
    """What votes come to.

    >>> label_of([Vote(name="kind", prob_a=0.75), Vote(name="brief", prob_a=0.5)])
    Label(prob_a=0.75, reason='', spread=None, deciding=('kind',))
    """

    prob_a: float | None
    """The probability that answer A is the better one; None for no label."""
    reason: str = ""
    """Why there is none."""
    spread: float | None = None
    """Uncertainty: the weighted standard deviation of all votes' logits, outvoted ones too; None for less than two."""
    deciding: tuple[str, ...] = ()
    """The names of the votes that the label is made of."""


def label_of(votes: Iterable[Vote], *, learned: "LearnedWeights | None" = None, confident: float = CONFIDENT) -> Label:
    """Return the label of some votes: many principles make a more robust one than one does (Bai et al. 2022, 4.3).

    A hard constraint's vote of at least `confident` either way decides alone, or with others like it; one that is less
    sure counts as any vote does. `learned` weights replace those of the constitution in the mean.
    """
    every = list(votes)
    cast = [(vote, logit(vote.prob_a)) for vote in every if vote.prob_a is not None and vote.prob_a != 0.5]
    if not cast:
        reasons = [vote.reason for vote in every if vote.prob_a is None and vote.reason]
        return Label(prob_a=None, reason=reasons[0] if reasons else "tie" if every else "no votes")
    spread = _spread(cast)
    # Compared as logits, where a probability and its opposite lie exactly as far from one half.
    sure = logit(confident) - ROUNDING
    hard = [(vote, value) for vote, value in cast if vote.hard and abs(vote.certainty) >= sure]
    if len({value > 0 for _, value in hard}) > 1:
        names = [next(vote.name for vote, value in hard if (value > 0) is side) for side in (True, False)]
        reason = f"hard constraints disagree: {names[0]} for A, {names[1]} for B"
        return Label(prob_a=None, reason=reason, spread=spread)
    deciding = hard or cast
    if learned is not None and not hard:
        value = sum(learned.of(vote.name) * value for vote, value in deciding)
    else:
        value = _mean(deciding)
    if abs(value) <= ROUNDING:
        return Label(prob_a=None, reason="tie", spread=spread)
    return Label(prob_a=sigmoid(value), spread=spread, deciding=tuple(vote.name for vote, _ in deciding))


def flipped(by_order: Sequence[float]) -> bool | None:
    """Tell whether a judge chose the same place in both orders, so its answer followed the order; None if unknown."""
    if len(by_order) != 2 or 0.5 in by_order:
        return None
    return (by_order[0] > 0.5) != (by_order[1] > 0.5)


def logit(probability: float) -> float:
    """Return the log-odds of a probability, kept finite: a certain vote must not overrule all others for ever."""
    kept = min(1 - 1e-9, max(1e-9, probability))
    return math.log(kept / (1 - kept))


def _mean(votes: Sequence[tuple[Vote, float]]) -> float:
    return sum(vote.weight * value for vote, value in votes) / sum(vote.weight for vote, _ in votes)


def _spread(votes: Sequence[tuple[Vote, float]]) -> float | None:
    if len(votes) < 2:
        return None
    mean = _mean(votes)
    squares = sum(vote.weight * (value - mean) ** 2 for vote, value in votes)
    return math.sqrt(squares / sum(vote.weight for vote, _ in votes))
