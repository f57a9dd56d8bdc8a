"""Progress of long work: how far, how fast, how long still. On a terminal a bar, elsewhere a line now and then."""

import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from cai.types import Usage

EVERY_S = 20.0
"""Seconds between two lines where there is no terminal."""

REDRAW_S = 0.1
"""Seconds between two states of the bar on a terminal."""

SETTLE_S = 1.0
"""Seconds before a rate is shown: the first piece of work alone says nothing."""

REASONS = 3
"""Reasons for drops that a note names."""


class Progress:
    """A counter of work done out of a known total, with a rate and the time left."""

    def __init__(self, label: str, total: int, unit: str, *, done: int = 0, quiet: bool = False) -> None:
        """Start the clock. `done` counts work of an earlier start: it shows, and is left out of the rate."""
        self.label, self.total, self.unit = label, total, unit
        self._done, self._before = done, done
        self._start = time.monotonic()
        self._quiet = quiet
        self._last_line = self._start
        self._drawn = 0.0
        self._note = ""
        self._terminal = sys.stderr.isatty()

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Count work as done; `note` is a short reading to show beside it (a loss, tokens per second)."""
        self._done += amount
        self._note = note or self._note
        now = time.monotonic()
        if self._terminal:
            if now - self._drawn >= REDRAW_S or self._done >= self.total:
                self._drawn = now
                self._write("\r\033[K" + self.line()[: shutil.get_terminal_size().columns - 1])
        elif now - self._last_line >= EVERY_S:
            self._last_line = now
            self._write(self.line() + "\n")

    def line(self) -> str:
        """Return the one line that says it all.

        >>> Progress("drafts", 64, "prompts").line()
        'drafts  0/64 prompts'
        """
        text = f"{self.label}  {self._done}/{self.total} {self.unit}"
        made, seconds = self._done - self._before, time.monotonic() - self._start
        if made and seconds >= SETTLE_S:
            rate = made / seconds
            left = max(0, self.total - self._done) / rate
            shown = f"{rate:.1f}/s" if rate >= 1 else f"{1 / rate:.1f} s each"
            text += f"  {shown}  {clock(left)} left"
        return text + (f"  {self._note}" if self._note else "")

    def close(self) -> None:
        """End the bar's line, with the time it took."""
        took = clock(time.monotonic() - self._start)
        note = f"  {self._note}" if self._note else ""
        self._write(
            ("\r\033[K" if self._terminal else "") + f"{self.label}  {self._done} {self.unit} in {took}{note}\n"
        )

    def abandon(self) -> None:
        """Leave the last state on the screen, so that what is said next begins on a line of its own."""
        if self._terminal:
            self._write("\n")

    def _write(self, text: str) -> None:
        if not self._quiet:
            sys.stderr.write(text)
            sys.stderr.flush()


@contextmanager
def progress(label: str, total: int, unit: str, *, done: int = 0, quiet: bool = False) -> Iterator[Progress]:
    """Show the progress of the block; a block that fails leaves the last state on the screen."""
    bar = Progress(label, total, unit, done=done, quiet=quiet)
    try:
        yield bar
    except BaseException:
        bar.abandon()
        raise
    bar.close()


class Tally:
    """What went by: tokens, and what was dropped for which reason. It makes the note beside a bar.

    >>> tally = Tally()
    >>> tally.dropped("empty")
    >>> tally.note()
    'dropped 1: 1 empty'
    """

    def __init__(self) -> None:
        """Start the clock."""
        self._start = time.monotonic()
        self.used = Usage(0, 0)
        self.drops: Counter[str] = Counter()

    def spent(self, usage: Usage) -> None:
        """Count the tokens of an answer."""
        self.used = Usage(self.used.prompt + usage.prompt, self.used.completion + usage.completion)

    def dropped(self, reason: str) -> None:
        """Count something that is not used."""
        self.drops[reason] += 1

    def count(self, reason: str | None) -> str:
        """Return the note after a piece of work, which was dropped if it has a reason."""
        if reason is not None:
            self.dropped(reason)
        return self.note()

    @property
    def seconds(self) -> float:
        """How long it has been."""
        return time.monotonic() - self._start

    def note(self) -> str:
        """Return tokens written per second, and the drops by reason, the most frequent first."""
        said = []
        if self.used.completion and self.seconds > 0:
            said.append(f"{self.used.completion / self.seconds:.0f} tokens/s")
        if self.drops:
            named = [f"{count} {reason}" for reason, count in self.drops.most_common(REASONS)]
            named += ["…"] if len(self.drops) > REASONS else []
            said.append(f"dropped {self.drops.total()}: {', '.join(named)}")
        return "  ".join(said)


def clock(seconds: float) -> str:
    """Return a duration as a person says it.

    >>> clock(75), clock(3.2), clock(7300)
    ('1 min 15 s', '3 s', '2 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
