"""What a run may cost: tokens, and money by the price of a token.

A call claims the most that it can cost before it is made, so the limit is never crossed; what it did cost is counted
after it. Counted is what this process spends: a run that is started again begins with a full budget.
"""

import threading
import time

from pydantic import Field

from cai.config import Config
from cai.errors import EngineError
from cai.progress import clock
from cai.types import Usage

MILLION = 1_000_000


class BudgetError(EngineError):
    """The budget is spent: what was done is kept, and nothing more is asked for."""


class BudgetConfig(Config):
    """What a process may spend; for a server's calls there are `engine.server.token_budget` and prices, too."""

    tokens: int | None = Field(default=None, ge=1)
    """Tokens, read and written together."""
    minutes: float | None = Field(default=None, gt=0)
    """Time of work, the loading of the model not counted."""


class Clock:
    """The time that work may take; without a limit it never ends."""

    def __init__(self, minutes: float | None) -> None:
        """Start."""
        self._minutes = minutes
        self._start = time.monotonic()

    def check(self) -> None:
        """Raise BudgetError when the time is over."""
        if self._minutes is not None and time.monotonic() - self._start >= 60 * self._minutes:
            raise BudgetError(
                f"the time is spent: {clock(60 * self._minutes)}; what was done is kept: give the same command again, "
                "or raise budget.minutes"
            )


class Budget:
    """Counts tokens and money against their limits; it may be shared by threads.

    >>> budget = Budget(tokens=100)
    >>> budget.claim(Usage(10, 50)), budget.claim(Usage(10, 50))
    (True, False)
    >>> budget.settle(Usage(10, 50), Usage(10, 20))
    >>> budget.used.completion, budget.remaining_tokens
    (20, 70)
    """

    def __init__(
        self,
        *,
        tokens: int | None = None,
        money: float | None = None,
        prompt_price: float = 0.0,
        completion_price: float = 0.0,
    ) -> None:
        """Limit tokens, read and written together, and money; prices are for a million tokens. None is no limit."""
        self.tokens, self.money = tokens, money
        self._prices = (prompt_price, completion_price)
        self._lock = threading.Lock()
        self._used = self._held = Usage(0, 0)
        self._open = 0

    @property
    def used(self) -> Usage:
        """Tokens that finished calls cost."""
        return self._used

    @property
    def cost(self) -> float:
        """Money that finished calls cost."""
        return self.price(self._used)

    @property
    def remaining_tokens(self) -> int | None:
        """Tokens left, if they are limited; what calls under way may cost is not taken off."""
        return None if self.tokens is None else max(0, self.tokens - sum(self._used))

    @property
    def remaining_money(self) -> float | None:
        """Money left, if it is limited."""
        return None if self.money is None else max(0.0, self.money - self.cost)

    def price(self, usage: Usage) -> float:
        """Return what so many tokens cost."""
        return (usage.prompt * self._prices[0] + usage.completion * self._prices[1]) / MILLION

    def claim(self, most: Usage) -> bool:
        """Set aside the most that a call can cost, or return False where it must wait for calls under way.

        Raises BudgetError where it would not fit even after them. What was claimed must be settled.
        """
        with self._lock:
            wanted = _add(_add(self._used, self._held), most)
            fits = self.tokens is None or sum(wanted) <= self.tokens
            fits = fits and (self.money is None or self.price(wanted) <= self.money)
            if fits:
                self._held = _add(self._held, most)
                self._open += 1
            elif not self._open:
                raise BudgetError(self._message(most))
            return fits

    def settle(self, most: Usage, spent: Usage) -> None:
        """Say what a claimed call did cost, and free the rest."""
        with self._lock:
            self._held = Usage(self._held.prompt - most.prompt, self._held.completion - most.completion)
            self._used = _add(self._used, spent)
            self._open -= 1

    def _message(self, most: Usage) -> str:
        limits = []
        if self.tokens is not None:
            limits.append(f"{sum(self._used)} of {self.tokens} tokens")
        if self.money is not None:
            limits.append(f"{self.cost:.4g} of {self.money:.4g} in money")
        return (
            f"the budget is spent: {' and '.join(limits)} used, and the next call may cost {sum(most)} tokens; "
            "what was done is kept: raise the budget and run again"
        )


def _add(one: Usage, other: Usage) -> Usage:
    return Usage(one.prompt + other.prompt, one.completion + other.completion)
