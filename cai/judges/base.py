"""What a judge is: two answers and a principle in, a probability or an abstention out.

A judge that can't tell says so. A tie, an unreadable answer or a failed request never becomes a vote.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from cai.constitution import Principle
from cai.types import Dialogue


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One question to a judge: which of two answers to a dialogue follows the principle better."""

    id: str
    prompt: Dialogue
    response_a: str
    response_b: str
    principle: Principle


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A judge's answer to one comparison.

    >>> Verdict(id="x", prob_a=0.75).abstained
    False
    """

    id: str
    prob_a: float | None
    """The probability that answer A is the better one; None is an abstention."""
    reason: str = ""
    """Why the judge abstained, or what it said."""
    prob_a_by_order: tuple[float, ...] = ()
    """The probability of A with A shown first, then with B shown first: what position bias is measured on."""

    @property
    def abstained(self) -> bool:
        """Whether this is no vote at all."""
        return self.prob_a is None


class Judge(Protocol):
    """Anything that compares answers. One verdict per comparison, in any order."""

    @property
    def name(self) -> str:
        """Which way of asking this is, for the records: ``pairwise``, ``contrastive``, …"""
        ...

    @property
    def model(self) -> str:
        """Which weights judge: a content digest or a revision."""
        ...

    @property
    def by_principle(self) -> bool:
        """Whether the verdict depends on the comparison's principle, or on the constitution as a whole."""
        ...

    def compare(self, comparisons: Iterable[Comparison]) -> Iterator[Verdict]:
        """Yield one verdict per comparison."""
        ...
