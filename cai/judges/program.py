"""A judge that asks no model: the principle's own rule decides (`cai.constitution.checkers`).

It has a verdict where one answer passes and the other fails. Answers that both pass, or both fail, are equal to a rule,
and a rule that can't tell of one says nothing of the pair.
"""

from collections.abc import Iterable, Iterator, Sequence

from cai.judges.base import Comparison, Verdict
from cai.judges.fit import verdicts

WINDOW = 64
"""Comparisons taken together."""


class ProgramJudge:
    """Prefer the answer that passes the checker of the comparison's principle."""

    name = "program"
    model = "checkers"
    by_principle = True

    def __init__(self, *, certainty: float = 0.99) -> None:
        """Give the answer that passes this probability: a rule can be certain, and its principle still be debatable."""
        if not 0.5 < certainty <= 1:
            raise ValueError(f"certainty must be above 0.5 and at most 1, not {certainty}")
        self._certainty = certainty

    def compare(self, comparisons: Iterable[Comparison]) -> Iterator[Verdict]:
        """Yield one verdict per comparison, in their order."""
        return verdicts(comparisons, self._compare, window=WINDOW)

    def _compare(self, fit: Sequence[Comparison]) -> Iterator[Verdict]:
        return map(self._verdict, fit)

    def _verdict(self, comparison: Comparison) -> Verdict:
        principle = comparison.principle
        if not principle.checker:
            return _abstain(comparison, f"the principle {principle.id!r} has no checker")
        a, b = principle.check(comparison.response_a), principle.check(comparison.response_b)
        if a is None or b is None:
            which = "both answers" if a is b else f"answer {'A' if a is None else 'B'}"
            return _abstain(comparison, f"the checker {principle.checker!r} can't tell of {which}")
        if a == b:
            return _abstain(comparison, f"both answers {'pass' if a else 'fail'} the checker {principle.checker!r}")
        return Verdict(id=comparison.id, prob_a=self._certainty if a else 1 - self._certainty)


def _abstain(comparison: Comparison, reason: str) -> Verdict:
    return Verdict(id=comparison.id, prob_a=None, reason=reason)
