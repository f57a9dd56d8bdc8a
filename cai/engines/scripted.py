"""An engine that says what a function tells it to: for tests of everything that lies above engines.

It keeps the contract (stop strings, limits, failures, order), so code that works with it meets no surprise in form when
a real engine takes its place. It is no stand-in for a real engine in a test of engines. Its tokens are bytes.
"""

from collections.abc import Iterable, Iterator
from typing import Protocol

from cai.engines.base import (
    Completion,
    Failure,
    Generated,
    GenerateRequest,
    Score,
    Scored,
    ScoreRequest,
)
from cai.storage import seed_from
from cai.types import Dialogue, Usage


class Reply(Protocol):
    """Makes the answer to a request from the request and one of its seeds, or says why there is none."""

    def __call__(self, request: GenerateRequest, seed: int, /) -> str | Failure:
        """Return the text of one completion, or the failure of the whole request."""
        ...


class Judge(Protocol):
    """Makes the log-probability of one candidate."""

    def __call__(self, request: ScoreRequest, candidate: str, /) -> float:
        """Return a total in nats."""
        ...


def echo(request: GenerateRequest, seed: int) -> str:
    """Answer with the last thing said and a number that depends on the seed."""
    prompt = request.prompt
    said = prompt if isinstance(prompt, str) else prompt[-1].content
    return f"You said: {said} [{seed_from(seed, said) % 1000}]"


def by_length(request: ScoreRequest, candidate: str) -> float:
    """Score a candidate by its length: a nat less for each byte."""
    return -float(len(candidate.encode()))


class ScriptedEngine:
    """Answers by a function of the request and the seed; the same requests always give the same results."""

    name = "scripted"

    def __init__(self, reply: Reply = echo, score: Judge = by_length, *, model: str = "script") -> None:
        """Use `reply` for completions and `score` for totals."""
        self.model = model
        self._reply, self._score = reply, score
        self.seen: list[GenerateRequest | ScoreRequest] = []
        """Every request so far, for tests that look at what was asked."""

    def generate(self, requests: Iterable[GenerateRequest]) -> Iterator[Generated | Failure]:
        """Yield one result per request, in order."""
        for request in requests:
            self.seen.append(request)
            yield self._generate(request)

    def _generate(self, request: GenerateRequest) -> Generated | Failure:
        if _is_empty(request.prompt):
            return Failure(id=request.id, reason="empty", message="the prompt is empty")
        completions = []
        for seed in request.seeds:
            text = self._reply(request, seed)
            if isinstance(text, Failure):
                return text
            completions.append(_complete(text, request))
        written = sum(len(completion.token_ids) for completion in completions)
        return Generated(id=request.id, completions=tuple(completions), usage=Usage(_size(request.prompt), written))

    def score(self, requests: Iterable[ScoreRequest]) -> Iterator[Scored | Failure]:
        """Yield one result per request, in order; a candidate's total is all on its first token."""
        for request in requests:
            self.seen.append(request)
            if _is_empty(request.prompt) or not request.candidates:
                yield Failure(id=request.id, reason="empty", message="there is nothing to score")
                continue
            scores = []
            for text in request.candidates:
                rest = max(0, len(text.encode()) - 1)
                scores.append(Score(logprobs=(self._score(request, text), *[0.0] * rest)))
            read = sum(len(text.encode()) for text in request.candidates)
            yield Scored(id=request.id, scores=tuple(scores), usage=Usage(_size(request.prompt), read))


def _complete(text: str, request: GenerateRequest) -> Completion:
    """Cut a text as a real engine would: before the first stop string, and at the limit of tokens."""
    sampling = request.sampling
    places = [place for stop in sampling.stop if (place := text.find(stop)) >= 0]
    text = text[: min(places)] if places else text
    data = text.encode()
    long = len(data) > sampling.max_new_tokens
    data = data[: sampling.max_new_tokens]
    return Completion(
        text=data.decode(errors="replace"),
        token_ids=tuple(data),
        finish_reason="length" if long else "stop",
        logprobs=(0.0,) * len(data) if request.logprobs else None,
    )


def _is_empty(prompt: Dialogue | str) -> bool:
    return not prompt or (not isinstance(prompt, str) and not prompt[-1].content.strip())


def _size(prompt: Dialogue | str) -> int:
    texts = [prompt] if isinstance(prompt, str) else [message.content for message in prompt]
    return sum(len(text.encode()) for text in texts)
