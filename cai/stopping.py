"""Ctrl-C that loses nothing: the first finishes what is under way, the second stops at once.

Work that comes in pieces asks between them (`stop_if_asked`). SIGTERM, which clusters send before they kill, is a first
Ctrl-C too.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

ONE_PRESS_S = 0.5
"""Seconds within which a second signal is the first one again: a launcher passes on what the terminal sent to all."""

_first: float | None = None


def stop_if_asked() -> None:
    """Raise KeyboardInterrupt when a stop was asked for; to be called where nothing is under way."""
    if _first is not None:
        raise KeyboardInterrupt


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Take Ctrl-C and SIGTERM in the block as a wish to stop soon; a second one raises KeyboardInterrupt at once.

    Does nothing outside the main thread, which is the only one that hears of signals.
    """
    global _first
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {name: signal.signal(name, _heard) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        _first = None
        for name, handler in before.items():
            signal.signal(name, handler)


def _heard(number: int, frame: FrameType | None) -> None:
    global _first
    now = time.monotonic()
    if _first is None:
        _first = now
        # Not by sys.stderr, which may be in the middle of a line of its own.
        os.write(2, b"\nfinishing what is under way; Ctrl-C again stops at once\n")
    elif now - _first >= ONE_PRESS_S:
        raise KeyboardInterrupt
