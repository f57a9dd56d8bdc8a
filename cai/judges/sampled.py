"""A judge for engines that give no log-probabilities: it is asked for one letter, many times and in both orders.

What a vote is, is strict: ``A`` or ``B`` and nothing else but brackets and a full stop. An answer that says more is
unreadable, and is no vote; so a model that repeats a text from the request has none. The probability in an order is the
share of its votes with Jeffreys' half a vote added on each side; the orders are averaged in logit space.
"""

import math
import re
from collections.abc import Iterable, Iterator, Sequence

from cai.constitution import ComparisonShot
from cai.constitution.ask import CHOICE
from cai.engines.base import Engine, Failure, Generated, GenerateRequest, Sampling
from cai.judges.base import Comparison, Verdict
from cai.judges.fit import verdicts
from cai.judges.pairwise import choice_request, sigmoid, verdict_of
from cai.storage import seed_from
from cai.types import Dialogue, Message

WINDOW = 64
"""Comparisons asked together."""

ONE_LETTER = "Answer with one letter, A or B, and nothing else."

_VOTE = re.compile(r"\s*(?:([AB])|\(([AB])\)|\[([AB])\])\.?\s*")


class SampledJudge:
    """Count the letters that a model answers with, in both orders."""

    name = "sampled"
    by_principle = True

    def __init__(
        self,
        engine: Engine,
        *,
        samples: int = 4,
        temperature: float = 1.0,
        shots: Sequence[ComparisonShot] = (),
        max_new_tokens: int = 8,
        least_readable: float = 0.5,
        seed: int = 0,
    ) -> None:
        """Ask an engine's model `samples` times in each order, at a temperature of sampling.

        Where fewer than `least_readable` of an order's answers are votes, there is no verdict. `max_new_tokens` leaves
        room for spaces and brackets; a model that thinks before it answers needs more.
        """
        if samples < 1:
            raise ValueError(f"samples must be 1 or more, not {samples}")
        self._engine = engine
        self.model = engine.model
        self._samples = samples
        self._sampling = Sampling(temperature=temperature, max_new_tokens=max_new_tokens)
        self._shots = tuple(shots)
        self._least = least_readable
        self._seed = seed

    def compare(self, comparisons: Iterable[Comparison]) -> Iterator[Verdict]:
        """Yield one verdict per comparison, in their order."""
        return verdicts(comparisons, self._compare, window=WINDOW)

    def _compare(self, fit: Sequence[Comparison]) -> Iterator[Verdict]:
        requests = [self._question(comparison, swapped=swapped) for comparison in fit for swapped in (False, True)]
        results = {result.id: result for result in self._engine.generate(requests)}
        for comparison in fit:
            yield self._verdict(comparison, results)

    def _question(self, comparison: Comparison, *, swapped: bool) -> GenerateRequest:
        dialogue, shared = choice_request(self._shots, comparison, swapped=swapped)
        key = _request_id(comparison, swapped=swapped)
        return GenerateRequest(
            id=key,
            prompt=_for_a_letter(dialogue),
            seeds=tuple(seed_from(self._seed, "vote", key, number) for number in range(self._samples)),
            sampling=self._sampling,
            shared=shared,
        )

    def _verdict(self, comparison: Comparison, results: dict[str, Generated | Failure]) -> Verdict:
        logits: list[float] = []
        for swapped in (False, True):
            result = results[_request_id(comparison, swapped=swapped)]
            if isinstance(result, Failure):
                return Verdict(id=comparison.id, prob_a=None, reason=f"{result.reason}: {result.message}")
            votes = [vote for completion in result.completions if (vote := read_vote(completion.text))]
            if not votes or len(votes) < self._least * self._samples:
                said = f"unreadable: {len(votes)} of {self._samples} answers were a letter and nothing else"
                return Verdict(id=comparison.id, prob_a=None, reason=said)
            for_a = votes.count("B" if swapped else "A")
            logits.append(jeffreys_logit(for_a, len(votes) - for_a))
        by_order = (sigmoid(logits[0]), sigmoid(logits[1]))
        return verdict_of(comparison.id, sum(logits) / 2, by_order=by_order)


def read_vote(text: str) -> str | None:
    """Return the letter that an answer consists of; None for anything else.

    >>> read_vote(" (B). "), read_vote("A is better"), read_vote("A B")
    ('B', None, None)
    """
    found = _VOTE.fullmatch(text)
    return found[1] or found[2] or found[3] if found else None


def jeffreys_logit(votes: int, others: int) -> float:
    """Return the log-odds of counts with half a vote added on each side; exactly turned over when they are.

    >>> round(jeffreys_logit(4, 0), 4)  # ln 9
    2.1972
    """
    return math.log(votes + 0.5) - math.log(others + 0.5)


def _for_a_letter(dialogue: Dialogue) -> Dialogue:
    """Return a multiple-choice question, and its examples, as asking for a bare letter."""
    return tuple(
        Message("user", f"{turn.content}\n\n{ONE_LETTER}")
        if turn.role == "user"
        else Message("assistant", turn.content.removeprefix(CHOICE).rstrip(")"))
        for turn in dialogue
    )


def _request_id(comparison: Comparison, *, swapped: bool) -> str:
    return f"{comparison.id}/{'ba' if swapped else 'ab'}"
