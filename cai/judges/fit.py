"""Which answers can be compared at all: one rule for every judge.

Models are known to like an answer that says nothing (empty, a bare ``:``), and a judge that can be won so teaches a
policy to fall silent. So there is no verdict on it, and no model is asked.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

from cai.judges.base import Comparison, Verdict
from cai.judges.quoting import quoted
from cai.windows import windows


def unfit(comparison: Comparison) -> str:
    """Say why two answers can't be compared, or nothing: an answer without a letter or a digit is none."""
    for letter, answer in (("A", comparison.response_a), ("B", comparison.response_b)):
        if not any(map(str.isalnum, quoted(answer))):
            return f"answer {letter} has no words"
    return ""


def verdicts(
    comparisons: Iterable[Comparison], judge: Callable[[Sequence[Comparison]], Iterable[Verdict]], *, window: int
) -> Iterator[Verdict]:
    """Yield one verdict per comparison, in their order; `judge` is asked about those that are fit, a window at a time.

    `judge` gives one verdict for each that it is asked about, in their order.
    """
    for some in windows(comparisons, window):
        problems = [unfit(comparison) for comparison in some]
        fit = [comparison for comparison, problem in zip(some, problems, strict=True) if not problem]
        found = iter(judge(fit) if fit else ())
        for comparison, problem in zip(some, problems, strict=True):
            yield Verdict(id=comparison.id, prob_a=None, reason=problem) if problem else next(found)
