"""Labels that follow from how the answers were made: no judge is asked (RLCD, arXiv 2307.12950, section 3).

The paper's labels are certain. A principle that the model did not follow, or an opposite that it refused to follow,
makes some of them wrong; the stated probability is what such a label claims.
"""

from collections.abc import Iterable, Iterator

from cai.judges.base import Comparison, Verdict


class ByConstruction:
    """Gives answer A, which was told the principle, a stated probability."""

    name = "construction"
    by_principle = True

    def __init__(self, certainty: float) -> None:
        """State the probability that A is the better answer."""
        self.model = f"certainty {certainty}"
        self._certainty = certainty

    def compare(self, comparisons: Iterable[Comparison]) -> Iterator[Verdict]:
        """Yield the same verdict for each comparison."""
        for comparison in comparisons:
            yield Verdict(id=comparison.id, prob_a=self._certainty)
