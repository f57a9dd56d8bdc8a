"""What requests ask of vLLM, and what its outputs make of them. Nothing here imports vLLM.

A **job** is one request of ours, a **call** one request to vLLM: a completion each, or a piece of a score.

A score needs logits for each token of a candidate, and vLLM makes them for what it reads, not for what its cache
holds. So the prompt's whole blocks are read first, without logits; the candidates then find them in the cache and are
read with them. A candidate's last token is not read at all: it is looked up among the next tokens, for several
candidates at once. Where the cache held a part of the candidate too, the call is made again without the cache.
"""

import itertools
import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

from cai.engines.base import Failure, Generated, GenerateRequest, Score, Scored, ScoreRequest
from cai.engines.decoding import Row
from cai.engines.render import Renderer
from cai.types import Usage

Result = TypeVar("Result", Generated, Scored)
Made = TypeVar("Made", Generated, Scored, covariant=True)

LOOKED_UP = 64
"""Last tokens that one call looks up; vLLM takes at most 128."""

SCORES = "score"
"""Keeps scores apart in the cache: a text that was sampled here is there, but without its logits."""

NO_CACHE = {"skip_reading_prefix_cache": True}


@dataclass(frozen=True, kw_only=True)
class Call:
    """One request to vLLM: the ids it reads, its ``SamplingParams``, and what its job knows it by."""

    ids: list[int]
    params: dict[str, Any]
    salt: str | None = None
    key: Any = None


class Job(Protocol[Made]):
    """What one request asks, and what it makes of the outputs."""

    id: str
    calls: list[Call]

    def take(self, call: Call, output: Any) -> Call | Failure | bool:
        """Read an output: return whether the call has ended, another one in its place, or why the job ends here."""
        ...

    def result(self) -> Made | Failure:
        """Return the result, once every call has ended."""
        ...


class Writing:
    """A completion per seed. The rows of the Transformers engine end them: same stop strings, same texts."""

    def __init__(self, request: GenerateRequest, prompt: list[int], renderer: Renderer, context: int) -> None:
        """Make a call for each seed; outputs come step by step only where a stop string must be looked for."""
        self.id = request.id
        self._prompt, self._renderer = prompt, renderer
        sampling, is_dialogue = request.sampling, not isinstance(request.prompt, str)
        limit = max(1, min(sampling.max_new_tokens, context - len(prompt)))
        self._rows = [
            Row(
                owner=0,
                ids=prompt,
                sampling=sampling,
                seed=seed,
                limit=limit,
                logprobs_wanted=request.logprobs,
                turn=is_dialogue and not request.prefill,
                stop=sampling.stop + (renderer.stop_strings if is_dialogue else ()),
            )
            for seed in request.seeds
        ]
        self.calls = [Call(ids=prompt, params=self._params(row), key=row) for row in self._rows]

    def _params(self, row: Row) -> dict[str, Any]:
        sampling = row.sampling
        return {
            "temperature": max(0.0, sampling.temperature),
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "seed": row.seed % (1 << 63),
            "max_tokens": row.limit,
            "min_tokens": min(sampling.min_new_tokens, row.limit),
            # Our ends of a turn take the place of the model's: the renderer knows them.
            "stop_token_ids": sorted(self._renderer.end_ids),
            "ignore_eos": True,
            "logprobs": 0 if row.logprobs_wanted else None,
            "stream": bool(row.stop),
        }

    def take(self, call: Call, output: Any) -> bool | Failure:
        """Give a row its new tokens."""
        row: Row = call.key
        new = output.outputs[0]
        logprobs = new.logprobs.logprobs if row.logprobs_wanted else itertools.repeat(None)
        for token, logprob in zip(new.token_ids, logprobs, strict=False):
            if row.accept(token, logprob, self._renderer):
                return True
        if output.finished:
            return Failure(id=self.id, reason="engine", message=f"vLLM ended a text early: {new.finish_reason}")
        return False

    def result(self) -> Generated:
        """Return the completions in the order of the seeds."""
        completions = tuple(row.completion for row in self._rows if row.completion is not None)
        written = sum(len(completion.token_ids) for completion in completions)
        return Generated(id=self.id, completions=completions, usage=Usage(len(self._prompt), written))


class Scoring:
    """The log-probabilities of candidates after one prompt."""

    def __init__(self, request: ScoreRequest, prompt: list[int], candidates: Sequence[list[int]], block: int) -> None:
        """Make a call for all candidates that differ in their last token only; `block` tokens are cached as one."""
        self.id = request.id
        self._prompt, self._candidates = prompt, candidates
        self._scores: list[tuple[float, ...]] = [()] * len(candidates)
        groups: dict[tuple[int, ...], list[int]] = {}
        for place, candidate in enumerate(candidates):
            if candidate:
                groups.setdefault(tuple(candidate[:-1]), []).append(place)
        cached = (len(prompt) - 1) // block * block
        self.calls: list[Call] = []
        if cached and any(groups):
            self.calls.append(Call(ids=prompt[: cached + 1], params={"temperature": 0.0, "max_tokens": 1}, salt=SCORES))
        for read, places in groups.items():
            for start in range(0, len(places), LOOKED_UP):
                self.calls.append(self._call(read, places[start : start + LOOKED_UP]))

    def _call(self, read: tuple[int, ...], places: list[int]) -> Call:
        params = {
            "temperature": 0.0,
            "max_tokens": 1,
            "logprob_token_ids": list(dict.fromkeys(self._candidates[place][-1] for place in places)),
            "prompt_logprobs": 0 if read else None,
            "skip_reading_prefix_cache": False,
        }
        return Call(ids=[*self._prompt, *read], params=params, salt=SCORES, key=(read, places))

    def take(self, call: Call, output: Any) -> bool | Call | Failure:
        """Put together what the rows of the candidate's tokens and the next token's distribution say."""
        if call.key is None:
            return True
        read, places = call.key
        before: Sequence[float] = ()
        if read:
            rows = output.prompt_logprobs
            before = rows.logprobs[-len(read) :]
            # The row of the prompt's last token is the first that counts; the cache has no rows.
            if output.num_cached_tokens >= len(self._prompt) or tuple(rows.token_ids[-len(read) :]) != read:
                if call.params["skip_reading_prefix_cache"]:
                    return Failure(id=self.id, reason="engine", message="vLLM gave other tokens' log-probabilities")
                return replace(call, params=call.params | NO_CACHE)
        asked = call.params["logprob_token_ids"]
        # The first is that of the token that vLLM drew.
        last = dict(zip(asked, output.outputs[0].logprobs.logprobs[1 : len(asked) + 1], strict=True))
        for place in places:
            self._scores[place] = (*before, last[self._candidates[place][-1]])
        return True

    def result(self) -> Scored | Failure:
        """Return the scores in the order of the candidates."""
        if not all(math.isfinite(logprob) for score in self._scores for logprob in score):
            message = "the model's probabilities are not finite: its weights are broken"
            return Failure(id=self.id, reason="engine", message=message)
        usage = Usage(len(self._prompt), sum(map(len, self._candidates)))
        return Scored(id=self.id, scores=tuple(Score(logprobs=score) for score in self._scores), usage=usage)


class Submit(Protocol):
    """Hands a call to vLLM under a name; ValueError says why vLLM refuses it."""

    def __call__(self, name: str, call: Call, /) -> None:
        """Add it to what vLLM is at work on."""
        ...


class Abort(Protocol):
    """Takes calls back."""

    def __call__(self, names: list[str], /) -> None:
        """Forget these names, whether or not they have ended."""
        ...


class Stream(Generic[Result]):
    """The requests of one caller that vLLM is at work on."""

    def __init__(self, name: str, submit: Submit, abort: Abort) -> None:
        """Begin without requests; names of calls begin with the stream's."""
        self.name = name
        self.inbox: deque[Any] = deque()
        """Outputs that nobody has read yet."""
        self._submit, self._abort = submit, abort
        self._numbers = itertools.count()
        self._calls: dict[str, tuple[Job[Result], Call]] = {}
        self._missing: dict[Job[Result], set[str]] = {}

    def __len__(self) -> int:
        """Return how many requests have no result yet."""
        return len(self._missing)

    def add(self, job: Job[Result]) -> Result | Failure | None:
        """Ask what a job asks; return its result if that is known already."""
        self._missing[job] = set()
        return self._ask(job, job.calls)

    def results(self) -> Iterator[Result | Failure]:
        """Yield what the outputs in the inbox complete."""
        while self.inbox:
            output = self.inbox.popleft()
            job, call = self._calls.get(output.request_id, (None, None))
            if job is None or call is None:  # it was taken back while its output was on the way
                continue
            done = job.take(call, output) if output.outputs[0].finish_reason not in ("abort", "error") else _ended(job)
            if done is False:
                continue
            del self._calls[output.request_id]
            self._missing[job].remove(output.request_id)
            if not output.finished:
                self._abort([output.request_id])
            result = self._drop(job, done) if isinstance(done, Failure) else self._ask(job, _calls(done))
            if result is not None:
                yield result

    def close(self) -> None:
        """Take back everything."""
        self._abort(list(self._calls))
        self._calls, self._missing = {}, {}
        self.inbox.clear()

    def _ask(self, job: Job[Result], calls: Sequence[Call]) -> Result | Failure | None:
        """Ask this too; return the job's result if nothing is missing then."""
        for call in calls:
            name = f"{self.name}-{next(self._numbers)}"
            try:
                self._submit(name, call)
            except ValueError as error:
                return self._drop(job, Failure(id=job.id, reason="not_supported", message=f"vLLM refuses: {error}"))
            self._calls[name] = job, call
            self._missing[job].add(name)
        if self._missing[job]:
            return None
        del self._missing[job]
        return job.result()

    def _drop(self, job: Job[Result], failure: Failure) -> Failure:
        names = list(self._missing.pop(job))
        for name in names:
            del self._calls[name]
        self._abort(names)
        return failure


def _calls(done: Call | bool) -> list[Call]:
    return [done] if isinstance(done, Call) else []


def _ended(job: Job[Any]) -> Failure:
    return Failure(id=job.id, reason="engine", message="vLLM gave the request up")
