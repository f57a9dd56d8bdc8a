"""What is asked of an engine, counted and kept within a budget: the same for engines of our own and for servers.

A batch is asked whole or not at all, for who shares a batch decides its last bits. So it is claimed from the budget
before it is asked, by the most that it can cost, and the limit is never crossed.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar, cast

from cai.budget import Budget, BudgetConfig, Clock
from cai.engines.base import Engine, Failure, Generated, GenerateRequest, Scored, ScoreRequest
from cai.processes import rank, world
from cai.progress import Tally
from cai.records.journal import rank_path
from cai.types import Usage

NAME = "costs"
"""The file of what was spent: a line for each piece of work, by every start of the command."""

E = TypeVar("E", bound=Engine)
Q = TypeVar("Q", GenerateRequest, ScoreRequest)
A = TypeVar("A")


class Spending:
    """One process's tokens and time, against its share of the budget; several engines can share it."""

    def __init__(self, config: BudgetConfig | None, out: Path) -> None:
        """Start the clock; what is spent is noted in a file of `out`."""
        tokens = config.tokens if config else None
        self._budget = Budget(tokens=tokens // world() if tokens is not None else None)
        self._clock = Clock(config.minutes if config else None)
        self._path = rank_path(out, NAME, rank())
        self._noted, self._since = Usage(0, 0), time.monotonic()
        self.tally = Tally()

    def __enter__(self) -> Self:
        """Return itself: the clock runs since construction."""
        return self

    def __exit__(self, *_: object) -> None:
        """Note what was spent."""
        self.note()

    def check(self) -> None:
        """Raise BudgetError when the time is over."""
        self._clock.check()

    def metered(self, engine: E) -> E:
        """Return an engine whose every batch is counted here."""
        kind = MeteredStates if hasattr(engine, "answer_states") else Metered
        return cast(E, kind(self, engine))

    def answers(self, engine: Engine, requests: Sequence[GenerateRequest]) -> Iterator[Generated | Failure]:
        """Ask for a batch and yield its results as they come.

        Raises BudgetError before the batch when it may cost more than is left, and when the time is over.
        """
        return self.spend(engine, requests, engine.generate)

    def spend(self, engine: Engine, requests: Sequence[Q], ask: Callable[[Sequence[Q]], Iterator[A]]) -> Iterator[A]:
        """Ask for a batch in any way, as `answers` does; a result without a usage costs the most that it can.

        What is scored is read, so it counts with the prompts.
        """
        self._clock.check()
        asked = {request.id: request for request in requests}
        limited = self._budget.tokens is not None
        most = _add([most_of_request(engine, request) for request in requests]) if limited else Usage(0, 0)
        self._budget.claim(most)
        spent = Usage(0, 0)
        try:
            for result in ask(requests):
                if not isinstance(result, Failure):
                    request = asked[str(getattr(result, "id", ""))]
                    used: Usage = getattr(result, "usage", None) or most_of_request(engine, request)
                    used = used if isinstance(request, GenerateRequest) else Usage(sum(used), 0)
                    spent = _add([spent, used])
                    self.tally.spent(used)
                yield result
                self._clock.check()
        finally:
            self._budget.settle(most, spent)

    def note(self) -> None:
        """Add a line to the file of costs, if anything was spent since the last one."""
        used, now = self.tally.used, time.monotonic()
        if used == self._noted:
            return
        row = {
            "prompt": used.prompt - self._noted.prompt,
            "completion": used.completion - self._noted.completion,
            "seconds": round(now - self._since, 3),
        }
        self._noted, self._since = used, now
        # Not fsynced: a power cut may lose a line of it, and nothing hangs on that.
        with self._path.open("ab") as file:
            file.write(json.dumps(row).encode() + b"\n")


class Metered:
    """An engine that counts what it is asked for; all else is the engine's own."""

    def __init__(self, spending: Spending, engine: Engine) -> None:
        """Stand before an engine."""
        self._spending, self._engine = spending, engine

    def __getattr__(self, name: str) -> Any:
        """Return what the engine has."""
        return getattr(self._engine, name)

    def generate(self, requests: Iterable[GenerateRequest]) -> Iterator[Generated | Failure]:
        """Sample."""
        return self._spending.answers(self._engine, list(requests))

    def score(self, requests: Iterable[ScoreRequest]) -> Iterator[Scored | Failure]:
        """Score."""
        return self._spending.spend(self._engine, list(requests), self._engine.score)


class MeteredStates(Metered):
    """An engine that shows hidden states, too: reading is all that it is asked for, and is counted as read."""

    def answer_states(self, requests: Iterable[ScoreRequest], layers: tuple[int, ...]) -> Iterator[Any]:
        """Read the candidates."""
        read: Any = self._engine
        return self._spending.spend(read, list(requests), lambda some: read.answer_states(some, layers))


def most_of_request(engine: Engine, request: GenerateRequest | ScoreRequest) -> Usage:
    """Return the most tokens that a request can cost; where nobody can count them, a token has a byte."""
    renderer = getattr(engine, "renderer", None)
    if renderer is not None:
        read = len(renderer.prompt_ids(request.prompt, request.prefill))
    else:
        prompt = request.prompt
        texts = [prompt] if isinstance(prompt, str) else [message.content for message in prompt]
        read = sum(len(text.encode()) for text in (*texts, request.prefill))
    if isinstance(request, GenerateRequest):
        return Usage(read, len(request.seeds) * request.sampling.max_new_tokens)
    lengths = [len(renderer.prompt_ids(text, "") if renderer else text.encode()) for text in request.candidates]
    return Usage(read + sum(lengths) + len(lengths) * request.end_of_turn, 0)


def _add(usages: Sequence[Usage]) -> Usage:
    return Usage(sum(usage.prompt for usage in usages), sum(usage.completion for usage in usages))
