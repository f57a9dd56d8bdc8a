"""The paper's judge: a multiple-choice question, answered by the log-probabilities of (A) and (B).

Bai et al. 2022, section 4.1. Both orders are asked and averaged in logit space, because small models prefer a place
over an answer (arXiv 2309.00267, section 2.4). Models of a few hundred million parameters are below chance at this: see
`cai.judges.direction`.
"""

import math
from collections.abc import Iterable, Iterator, Sequence

from cai.constitution import ComparisonShot
from cai.constitution.ask import CHOICE, comparison_request
from cai.engines.base import Engine, Failure, Scored, ScoreRequest
from cai.judges.base import Comparison, Verdict
from cai.windows import windows

WINDOW = 64
"""Comparisons asked together."""


class PairwiseJudge:
    """Ask ``(A)`` or ``(B)`` in both orders; the probability of A is the sigmoid of the averaged logits."""

    name = "pairwise"
    by_principle = True

    def __init__(self, engine: Engine, *, temperature: float = 1.0, shots: Sequence[ComparisonShot] = ()) -> None:
        """Judge with an engine's model; `temperature` divides the logits (above 1: softer labels).

        `shots` are the constitution's examples; a principle's own come with it.
        """
        self._engine = engine
        self.model = engine.model
        self._temperature = temperature
        self._shots = tuple(shots)

    def compare(self, comparisons: Iterable[Comparison]) -> Iterator[Verdict]:
        """Yield one verdict per comparison, in their order."""
        for window in windows(comparisons, WINDOW):
            requests = [
                self._question(comparison, swapped=swapped) for comparison in window for swapped in (False, True)
            ]
            results = {result.id: result for result in self._engine.score(requests)}
            for comparison in window:
                yield self._verdict(comparison, results)

    def _question(self, comparison: Comparison, *, swapped: bool) -> ScoreRequest:
        answers = (comparison.response_a, comparison.response_b)
        first, second = answers[::-1] if swapped else answers
        dialogue, shared = comparison_request(self._shots, comparison.principle, comparison.prompt, first, second)
        key = _request_id(comparison, swapped=swapped)
        return ScoreRequest(id=key, prompt=dialogue, prefill=CHOICE, candidates=("A", "B"), shared=shared)

    def _verdict(self, comparison: Comparison, results: dict[str, Scored | Failure]) -> Verdict:
        logits: list[float] = []
        for swapped in (False, True):
            result = results[_request_id(comparison, swapped=swapped)]
            if isinstance(result, Failure):
                return Verdict(id=comparison.id, prob_a=None, reason=f"{result.reason}: {result.message}")
            first, second = (score.total for score in result.scores)
            logits.append((second - first if swapped else first - second) / self._temperature)
        by_order = (sigmoid(logits[0]), sigmoid(logits[1]))
        return verdict_of(comparison.id, sum(logits) / 2, by_order=by_order)


def verdict_of(key: str, logit: float, *, by_order: tuple[float, ...] = ()) -> Verdict:
    """Return the verdict of a logit; one that is not a number, or is exactly zero, is an abstention."""
    if not math.isfinite(logit):
        return Verdict(id=key, prob_a=None, reason="the score is not a finite number")
    prob_a = sigmoid(logit) if logit else None
    return Verdict(id=key, prob_a=prob_a, reason="" if logit else "tie", prob_a_by_order=by_order)


def sigmoid(logit: float) -> float:
    """Return the probability of a logit; no overflow for any finite input."""
    return 1 / (1 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1 + math.exp(logit))


def _request_id(comparison: Comparison, *, swapped: bool) -> str:
    return f"{comparison.id}/{'ba' if swapped else 'ab'}"
