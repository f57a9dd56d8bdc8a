"""Work in a thread behind an iterator: nothing lost, nothing read ahead, nothing left over."""

import asyncio
import gc
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from cai.engines.stream import stream
from cai.errors import EngineError

Opened = Callable[[], AbstractAsyncContextManager[Callable[[int], Awaitable[int]]]]


def session(work: Callable[[int], Awaitable[int]], events: list[str] | None = None) -> Opened:
    @asynccontextmanager
    async def opened() -> AsyncIterator[Callable[[int], Awaitable[int]]]:
        try:
            yield work
        finally:
            if events is not None:
                events.append("closed")

    return opened


async def double(number: int) -> int:
    await asyncio.sleep(0.001 * (number % 3))
    return 2 * number


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "cai-stream"]


def test_every_request_is_answered_once() -> None:
    events: list[str] = []
    assert sorted(stream(range(500), session(double, events), window=7)) == list(range(0, 1000, 2))
    assert events == ["closed"]
    assert not threads()
    assert list(stream([], session(double), window=7)) == []


def test_results_come_as_they_are_finished() -> None:
    async def work(number: int) -> int:
        await asyncio.sleep(0.3 if number == 0 else 0)
        return number

    assert list(stream(range(4), session(work), window=4))[-1] == 0


def test_no_more_than_a_window_is_taken_and_in_the_callers_thread() -> None:
    taken: list[int] = []
    answered = 0

    def source() -> Iterator[int]:
        for number in range(50):
            assert threading.current_thread() is threading.main_thread()
            taken.append(number)
            yield number

    for _ in stream(source(), session(double), window=5):
        assert len(taken) <= answered + 5
        answered += 1
    assert answered == 50


def test_what_was_under_way_is_yielded_before_an_error_is_raised() -> None:
    async def work(number: int) -> int:
        if number == 3:
            raise EngineError("no more")
        await asyncio.sleep(0.05)
        return number

    found: list[int] = []
    with pytest.raises(EngineError, match="no more"):
        found.extend(stream(range(100), session(work), window=8))
    assert set(found) >= {0, 1, 2}
    assert len(found) <= 8
    assert not threads()


def test_an_error_of_the_session_itself_is_raised() -> None:
    @asynccontextmanager
    async def broken() -> AsyncIterator[Callable[[int], Awaitable[int]]]:
        if threading.current_thread() is not threading.main_thread():
            raise EngineError("nobody there")
        yield double

    with pytest.raises(EngineError, match="nobody there"):
        list(stream(range(5), broken, window=2))
    assert not threads()


def test_an_error_of_the_callers_source_ends_it() -> None:
    def source() -> Iterator[int]:
        yield 1
        raise ValueError("bad line")

    with pytest.raises(ValueError, match="bad line"):
        list(stream(source(), session(double), window=4))
    assert not threads()


@pytest.mark.parametrize("dropped", [False, True])
def test_a_stream_that_is_dropped_cancels_what_is_under_way(dropped: bool) -> None:
    cancelled: list[int] = []
    events: list[str] = []
    others_have_begun = asyncio.Event()

    async def work(number: int) -> int:
        if number == 0:
            await others_have_begun.wait()  # else the first could be answered before a second is taken
            return number
        others_have_begun.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.append(number)
            raise
        return number

    results = stream(range(100), session(work, events), window=6)
    assert next(results) == 0
    start = time.monotonic()
    if dropped:
        del results
        gc.collect()
    else:
        results.close()  # type: ignore[attr-defined]
    assert time.monotonic() - start < 5
    assert cancelled
    assert events == ["closed"]
    assert not threads()


def test_it_works_under_a_loop_that_runs_already() -> None:
    async def main() -> list[int]:
        return sorted(stream(range(5), session(double), window=2))

    assert asyncio.run(main()) == [0, 2, 4, 6, 8]


def test_two_streams_can_feed_each_other() -> None:
    first = stream(range(20), session(double), window=3)
    assert sorted(stream(first, session(double), window=3)) == list(range(0, 80, 4))
