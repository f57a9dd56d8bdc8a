"""Many requests under way at once, for engines that wait for others: an event loop in a thread behind an iterator.

The caller's iterable is read in the caller's thread, a window ahead of what has been answered and no further. When the
caller drops the iterator, what is under way is cancelled, connections are closed and the thread ends.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Generic, TypeVar

from cai.errors import CaiError

Request = TypeVar("Request")
Result = TypeVar("Result")

Work = Callable[[Request], Awaitable[Result]]


@dataclass(frozen=True)
class _Raised:
    """An exception on its way to the caller; `last` says that nothing comes after it."""

    error: BaseException
    last: bool


def stream(
    requests: Iterable[Request],
    session: Callable[[], AbstractAsyncContextManager[Work[Request, Result]]],
    *,
    window: int,
) -> Iterator[Result]:
    """Yield what the session's work makes of each request, as each is finished.

    At most `window` requests are taken and not yet answered. What the work raises ends the stream: no more requests are
    taken, those under way are finished and yielded, then it is raised here.
    """
    worker = _Worker(session)
    source = iter(requests)
    more, open_ = True, 0
    failed: BaseException | None = None
    try:
        while more or open_:
            while more and open_ < window and worker.results.empty():
                try:
                    request = next(source)
                except StopIteration:
                    more = False
                    break
                worker.submit(request)
                open_ += 1
            if not open_ and worker.results.empty():
                continue
            result = worker.results.get()
            if isinstance(result, _Raised):
                failed, more = failed or result.error, False
                open_ = 0 if result.last else open_ - 1
                continue
            open_ -= 1
            yield result
    finally:
        worker.close()
    if isinstance(failed, CaiError):
        raise failed.with_traceback(None)  # its message says all; the frames of the thread may hold a key
    if failed is not None:
        raise failed


class _Worker(Generic[Request, Result]):
    """The thread: it lives as long as one stream."""

    def __init__(self, session: Callable[[], AbstractAsyncContextManager[Work[Request, Result]]]) -> None:
        self.results: SimpleQueue[Result | _Raised] = SimpleQueue()
        self._session = session
        self._loop = asyncio.new_event_loop()
        self._inbox: asyncio.Queue[Request] = asyncio.Queue()
        self._main = self._loop.create_task(self._serve())
        self._thread = threading.Thread(target=self._run, name="cai-stream", daemon=True)
        self._thread.start()

    def submit(self, request: Request) -> None:
        """Begin work on a request."""
        with suppress(RuntimeError):  # the loop has ended: the reason lies in the results
            self._loop.call_soon_threadsafe(self._inbox.put_nowait, request)

    def close(self) -> None:
        """Cancel what is under way, and wait until connections are closed and the thread has ended."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._main.cancel)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        try:
            with suppress(asyncio.CancelledError):
                self._loop.run_until_complete(self._main)
        except BaseException as error:
            self.results.put(_Raised(error, last=True))
        finally:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()

    async def _serve(self) -> None:
        async with self._session() as work, asyncio.TaskGroup() as group:
            while True:
                group.create_task(self._answer(work, await self._inbox.get()))

    async def _answer(self, work: Work[Request, Result], request: Request) -> None:
        try:
            self.results.put(await work(request))
        except Exception as error:
            self.results.put(_Raised(error, last=False))
