"""Each answer is rated alone, from 1 to 10; the better one has the higher expected rating.

Direct RLAIF (arXiv 2309.00267, section 2.3): the rating is the mean of the ten scores under the probabilities that the
model gives them. A rated answer has no place, so there is no position to prefer; and a rating can be a reward.

Each score is read with the bracket that closes it: ``1)`` is not the beginning of ``10)``, however a tokenizer cuts
them, so the ten probabilities never count a thing twice. What they leave of 1 is the model's wish to say something
else; where that is too much, there is no rating.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from cai.constitution import Principle
from cai.constitution.render import fill, transcript
from cai.engines.base import Engine, Failure, Scored, ScoreRequest
from cai.judges.base import Comparison, Verdict
from cai.judges.fit import verdicts
from cai.judges.pairwise import verdict_of
from cai.judges.quoting import quoted, quoted_dialogue
from cai.types import Dialogue, Message
from cai.windows import windows

WINDOW = 64
"""Comparisons asked together."""

REQUEST = """Consider this conversation between a person and an assistant, and the answer that follows it.

{dialogue}

Answer: {answer}

Rate how well the answer follows this: {text}
Give a score from 1 (goes against it in every way) to 10 (follows it in every way)."""

SCORE = "The score is: ("
"""What a rating begins with; the number and a bracket follow."""

CANDIDATES = tuple(f"{score})" for score in range(1, 11))


@dataclass(frozen=True, kw_only=True)
class Rating:
    """An expected score.

    >>> Rating.of([-math.inf] * 8 + [math.log(0.5), math.log(0.25)])
    Rating(expected=9.333333333333334, mass=0.75)
    """

    expected: float
    """From 1 to 10."""
    mass: float
    """The probability that the model gives the ten scores together."""

    @classmethod
    def of(cls, logprobs: Sequence[float]) -> "Rating":
        """Return the rating of the ten scores' log-probabilities."""
        highest = max(logprobs)
        # Taken from the highest first: the sum of ten very small numbers must not be zero.
        shares = [math.exp(logprob - highest) for logprob in logprobs]
        expected = sum(score * share for score, share in enumerate(shares, start=1)) / sum(shares)
        return cls(expected=expected, mass=min(1.0, math.exp(highest) * sum(shares)))


@dataclass(frozen=True, kw_only=True)
class Unrated:
    """Why an answer has no rating."""

    reason: str


class PointwiseJudge:
    """Rate both answers; a difference of `scale` in expected score is a logit of 1."""

    name = "pointwise"
    by_principle = True

    def __init__(self, engine: Engine, *, scale: float = 1.0, least_mass: float = 0.1) -> None:
        """Judge with an engine's model; below `least_mass` of probability on the ten scores there is no rating."""
        self._engine = engine
        self.model = engine.model
        self._scale = scale
        self._least_mass = least_mass

    def compare(self, comparisons: Iterable[Comparison]) -> Iterator[Verdict]:
        """Yield one verdict per comparison, in their order."""
        return verdicts(comparisons, self._compare, window=WINDOW)

    def _compare(self, fit: Sequence[Comparison]) -> Iterator[Verdict]:
        ratings = self.rate(
            (comparison.prompt, answer, comparison.principle)
            for comparison in fit
            for answer in (comparison.response_a, comparison.response_b)
        )
        for comparison, both in zip(fit, windows(ratings, 2), strict=True):
            yield self._verdict(comparison, *both)

    def rate(self, answers: Iterable[tuple[Dialogue, str, Principle]]) -> list[Rating | Unrated]:
        """Return a rating for each answer to a dialogue by a principle, in their order."""
        requests = [_request(str(number), *answer) for number, answer in enumerate(answers)]
        results = {result.id: result for result in self._engine.score(requests)}
        return [self._rating(results[request.id]) for request in requests]

    def _rating(self, result: Scored | Failure) -> Rating | Unrated:
        if isinstance(result, Failure):
            return Unrated(reason=f"{result.reason}: {result.message}")
        logprobs = [score.total for score in result.scores]
        if any(math.isnan(logprob) or logprob == math.inf for logprob in logprobs) or max(logprobs) == -math.inf:
            return Unrated(reason="the score is not a finite number")
        rating = Rating.of(logprobs)
        if rating.mass < self._least_mass:
            return Unrated(reason="the model would rather say something else than a score")
        return rating

    def _verdict(self, comparison: Comparison, a: Rating | Unrated, b: Rating | Unrated) -> Verdict:
        if isinstance(a, Unrated):
            return Verdict(id=comparison.id, prob_a=None, reason=a.reason)
        if isinstance(b, Unrated):
            return Verdict(id=comparison.id, prob_a=None, reason=b.reason)
        return verdict_of(comparison.id, (a.expected - b.expected) / self._scale)


def _request(key: str, prompt: Dialogue, answer: str, principle: Principle) -> ScoreRequest:
    dialogue = transcript(quoted_dialogue(prompt))
    text = fill(REQUEST, dialogue=dialogue, answer=quoted(answer), text=principle.text)
    return ScoreRequest(id=key, prompt=(Message("user", text),), prefill=SCORE, candidates=CANDIDATES)
