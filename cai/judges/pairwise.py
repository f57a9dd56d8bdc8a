"""The paper's judge: a multiple-choice question, answered by the log-probabilities of (A) and (B).

Bai et al. 2022, section 4.1. Both orders are asked and averaged in logit space, because small models prefer a place
over an answer (arXiv 2309.00267, section 2.4). Models of a few hundred million parameters are no better at it than a
coin: see `cai.judges.direction`.

With `thoughts` the model writes reasons first, and the letters are read after them (section 4.4): such labels are near
0 or 1 and badly calibrated, so they are clamped. What the reasons say is never parsed.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from cai.constitution import ComparisonShot
from cai.constitution.ask import CHOICE, comparison_request
from cai.engines.base import Engine, Failure, GenerateRequest, Sampling, Scored, ScoreRequest
from cai.judges.base import Comparison, Verdict
from cai.judges.fit import verdicts
from cai.judges.quoting import quoted, quoted_dialogue, quoted_shot
from cai.records.trim import to_last_sentence
from cai.storage import seed_from
from cai.types import Dialogue, Message

WINDOW = 128
"""Comparisons asked together: enough for several under each principle, whose examples are then read once."""

THINK = "Let's think step by step: "
"""What reasons begin with; they end where the answer begins."""

THOUGHT_CLAMP = (0.4, 0.6)
"""Where labels are kept after reasons, if nothing else is said: the paper's choice."""

_ENDS = ("The answer is", "the answer is", "\nHuman:", "\nAssistant:")


class PairwiseJudge:
    """Ask ``(A)`` or ``(B)`` in both orders; the probability of A is the sigmoid of the averaged logits."""

    name = "pairwise"
    by_principle = True

    def __init__(
        self,
        engine: Engine,
        *,
        temperature: float = 1.0,
        shots: Sequence[ComparisonShot] = (),
        thoughts: int = 0,
        clamp: tuple[float, float] | None = None,
        seed: int = 0,
    ) -> None:
        """Judge with an engine's model; `temperature` divides the logits (above 1: softer labels).

        `shots` are the constitution's examples; a principle's own come with it. `thoughts` is the most tokens of
        reasons, written greedily; 0 asks at once. Probabilities are kept between the two of `clamp`; None is (0, 1), or
        `THOUGHT_CLAMP` with reasons.
        """
        self._engine = engine
        self.model = engine.model
        self._temperature = temperature
        self._shots = tuple(shots)
        self._thoughts = thoughts
        self._clamp = clamp or (THOUGHT_CLAMP if thoughts else (0.0, 1.0))
        if not 0 <= self._clamp[0] < 0.5 < self._clamp[1] <= 1:
            raise ValueError(f"a clamp must hold one half inside it, and {self._clamp} does not")
        self._seed = seed

    def compare(self, comparisons: Iterable[Comparison]) -> Iterator[Verdict]:
        """Yield one verdict per comparison, in their order."""
        return verdicts(comparisons, self._compare, window=WINDOW)

    def _compare(self, fit: Sequence[Comparison]) -> Iterator[Verdict]:
        requests = [self._question(comparison, swapped=swapped) for comparison in fit for swapped in (False, True)]
        asked = list(self._thought(requests)) if self._thoughts else requests
        results: dict[str, Scored | Failure] = {item.id: item for item in asked if isinstance(item, Failure)}
        ready = [item for item in asked if isinstance(item, ScoreRequest)]
        results |= {result.id: result for result in self._engine.score(ready)}
        for comparison in fit:
            yield self._verdict(comparison, results)

    def _question(self, comparison: Comparison, *, swapped: bool) -> ScoreRequest:
        dialogue, shared = choice_request(self._shots, comparison, swapped=swapped, thinking=self._thoughts > 0)
        key = _request_id(comparison, swapped=swapped)
        return ScoreRequest(id=key, prompt=dialogue, prefill=CHOICE, candidates=("A", "B"), shared=shared)

    def _thought(self, requests: Sequence[ScoreRequest]) -> Iterator[ScoreRequest | Failure]:
        """Yield each request with the model's reasons before the choice, or why there are none."""
        sampling = Sampling(temperature=0.0, max_new_tokens=self._thoughts, stop=_ENDS)
        thoughts = [
            GenerateRequest(
                id=request.id,
                prompt=request.prompt,
                seeds=(seed_from(self._seed, "reasons", request.id),),
                sampling=sampling,
                prefill=THINK.rstrip(),
                shared=request.shared,
            )
            for request in requests
        ]
        asked = {request.id: request for request in requests}
        for result in self._engine.generate(thoughts):
            if isinstance(result, Failure):
                yield result
                continue
            text = result.completions[0].text.strip()
            reasons = to_last_sentence(text) if result.completions[0].finish_reason == "length" else text
            if reasons:
                yield replace(asked[result.id], prefill=f"{THINK}{reasons}\n{CHOICE}")
            else:
                yield Failure(id=result.id, reason="empty", message="the model gave no reasons")

    def _verdict(self, comparison: Comparison, results: dict[str, Scored | Failure]) -> Verdict:
        logits: list[float] = []
        for swapped in (False, True):
            result = results[_request_id(comparison, swapped=swapped)]
            if isinstance(result, Failure):
                return Verdict(id=comparison.id, prob_a=None, reason=f"{result.reason}: {result.message}")
            first, second = (score.total for score in result.scores)
            logits.append((second - first if swapped else first - second) / self._temperature)
        by_order = (sigmoid(logits[0]), sigmoid(logits[1]))
        verdict = verdict_of(comparison.id, sum(logits) / 2, by_order=by_order)
        low, high = self._clamp
        return verdict if verdict.prob_a is None else replace(verdict, prob_a=min(high, max(low, verdict.prob_a)))


def choice_request(
    shots: Sequence[ComparisonShot], comparison: Comparison, *, swapped: bool, thinking: bool = False
) -> tuple[Dialogue, int]:
    """Return the dialogue that asks for a letter, all that is judged in it quoted, and how much of it is shared.

    `thinking` leaves out the examples without reasons, which would teach the model to give none.
    """
    every = [*shots, *comparison.principle.comparison_shots]
    own = [quoted_shot(shot) for shot in every if shot.reasons or not thinking]
    common = sum(1 for shot in shots if shot.reasons or not thinking)
    principle = comparison.principle.model_copy(update={"comparison_shots": tuple(own[common:])})
    answers = (quoted(comparison.response_a), quoted(comparison.response_b))
    first, second = answers[::-1] if swapped else answers
    dialogue, shared = comparison_request(own[:common], principle, quoted_dialogue(comparison.prompt), first, second)
    if not thinking:
        return dialogue, shared
    turns = list(dialogue)
    for number, shot in enumerate(own):
        turns[2 * number + 1] = Message("assistant", f"{THINK}{shot.reasons}\n{turns[2 * number + 1].content}")
    return tuple(turns), shared


def verdict_of(key: str, logit: float, *, by_order: tuple[float, ...] = ()) -> Verdict:
    """Return the verdict of a logit; one that is not a number, or that makes a probability of one half, is no vote."""
    if not math.isfinite(logit):
        return Verdict(id=key, prob_a=None, reason="the score is not a finite number")
    prob_a = sigmoid(logit)
    if prob_a == 0.5:
        return Verdict(id=key, prob_a=None, reason="tie", prob_a_by_order=by_order)
    return Verdict(id=key, prob_a=prob_a, prob_a_by_order=by_order)


def sigmoid(logit: float) -> float:
    """Return the probability of a logit; no overflow for any finite input."""
    return 1 / (1 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1 + math.exp(logit))


def _request_id(comparison: Comparison, *, swapped: bool) -> str:
    return f"{comparison.id}/{'ba' if swapped else 'ab'}"
