"""What is asked of an engine, counted and kept within a budget: the same for engines of our own and for servers.

A batch is asked whole or not at all, for who shares a batch decides its last bits. So it is claimed from the budget
before it is asked, by the most that it can cost, and the limit is never crossed.
"""

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from cai.budget import Budget, BudgetConfig, Clock
from cai.engines.base import Engine, Failure, Generated, GenerateRequest
from cai.processes import rank, world
from cai.progress import Tally
from cai.records.journal import rank_path
from cai.types import Usage

NAME = "costs"
"""The file of what was spent: a line for each piece of work, by every start of the command."""


class Spending:
    """One process's tokens and time, against its share of the budget."""

    def __init__(self, config: BudgetConfig | None, out: Path, engine: Engine) -> None:
        """Start the clock; what is spent is noted in a file of `out`."""
        tokens = config.tokens if config else None
        self._budget = Budget(tokens=tokens // world() if tokens is not None else None)
        self._clock = Clock(config.minutes if config else None)
        self._path = rank_path(out, NAME, rank())
        self._engine = engine
        self._noted, self._since = Usage(0, 0), time.monotonic()
        self.tally = Tally()

    def answers(self, requests: Sequence[GenerateRequest]) -> Iterator[Generated | Failure]:
        """Ask for a batch and yield its results as they come.

        Raises BudgetError before the batch when it may cost more than is left, and when the time is over.
        """
        self._clock.check()
        limited = self._budget.tokens is not None
        most = _add([self._most(request) for request in requests]) if limited else Usage(0, 0)
        self._budget.claim(most)
        spent = Usage(0, 0)
        try:
            for result in self._engine.generate(requests):
                if isinstance(result, Generated):
                    spent = _add([spent, result.usage])
                    self.tally.spent(result.usage)
                yield result
                self._clock.check()
        finally:
            self._budget.settle(most, spent)

    def _most(self, request: GenerateRequest) -> Usage:
        """Return the most tokens that a request can cost; where nobody can count them, a token has a byte."""
        renderer = getattr(self._engine, "renderer", None)
        if renderer is not None:
            read = len(renderer.prompt_ids(request.prompt, request.prefill))
        else:
            prompt = request.prompt
            texts = [prompt] if isinstance(prompt, str) else [message.content for message in prompt]
            read = sum(len(text.encode()) for text in (*texts, request.prefill))
        return Usage(read, len(request.seeds) * request.sampling.max_new_tokens)

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


def _add(usages: Sequence[Usage]) -> Usage:
    return Usage(sum(usage.prompt for usage in usages), sum(usage.completion for usage in usages))
