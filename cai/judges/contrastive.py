"""A judge for models too small to answer questions: is the answer likelier under a principle than under its opposite?

For each answer, log p(answer | told the principle) − log p(answer | told its contrast), per token; the answer for which
this is larger follows the principle better. Cf. RLCD (arXiv 2307.12950), which makes pairs from the same contrast.
"""

from collections.abc import Iterable, Iterator, Sequence

from cai.engines.base import Engine, Failure, Scored, ScoreRequest
from cai.judges.base import Comparison, Verdict
from cai.judges.fit import verdicts
from cai.judges.pairwise import verdict_of
from cai.types import Dialogue, Message

WINDOW = 64
"""Comparisons asked together."""


class ContrastiveJudge:
    """Compare answers by how much a principle, put in the system turn, raises their likelihood over its opposite."""

    name = "contrastive"
    by_principle = True

    def __init__(self, engine: Engine, *, scale: float = 0.1) -> None:
        """Judge with an engine's model; a difference of `scale` nats per token is a logit of 1."""
        self._engine = engine
        self.model = engine.model
        self._scale = scale

    def compare(self, comparisons: Iterable[Comparison]) -> Iterator[Verdict]:
        """Yield one verdict per comparison, in their order."""
        return verdicts(comparisons, self._compare, window=WINDOW)

    def _compare(self, fit: Sequence[Comparison]) -> Iterator[Verdict]:
        requests = [request for comparison in fit for request in _requests(comparison)]
        results = {result.id: result for result in self._engine.score(requests)}
        for comparison in fit:
            yield self._verdict(comparison, results)

    def _verdict(self, comparison: Comparison, results: dict[str, Scored | Failure]) -> Verdict:
        gains: list[tuple[float, float]] = []
        for side in ("for", "against"):
            result = results[f"{comparison.id}/{side}"]
            if isinstance(result, Failure):
                return Verdict(id=comparison.id, prob_a=None, reason=f"{result.reason}: {result.message}")
            a, b = result.scores
            gains.append((a.mean, b.mean))
        (a_for, b_for), (a_against, b_against) = gains
        logit = ((a_for - a_against) - (b_for - b_against)) / self._scale
        return verdict_of(comparison.id, logit)


def told(instruction: str, prompt: Dialogue) -> Dialogue:
    """Return the dialogue with an instruction in its system turn, before any that it has."""
    if prompt[0].role == "system":
        return (Message("system", f"{instruction}\n\n{prompt[0].content}"), *prompt[1:])
    return (Message("system", instruction), *prompt)


def _requests(comparison: Comparison) -> list[ScoreRequest]:
    sides = (("for", comparison.principle.text), ("against", comparison.principle.contrast))
    return [
        ScoreRequest(
            id=f"{comparison.id}/{side}",
            prompt=told(instruction, comparison.prompt),
            candidates=(comparison.response_a, comparison.response_b),
            shared=1,
            end_of_turn=True,
        )
        for side, instruction in sides
    ]
