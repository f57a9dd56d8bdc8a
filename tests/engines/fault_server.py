"""A small HTTP server on this machine that does what a test tells it to, faults included. It counts what it sees.

Raw sockets and not a framework: it must be able to break off in the middle of an answer.
"""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self


@dataclass(frozen=True)
class Seen:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        data: dict[str, Any] = json.loads(self.body)
        return data


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What to answer, and how."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    after: float = 0.0
    """Seconds before anything is said."""
    fault: Literal["", "drop", "truncate", "drip", "endless", "silent"] = ""
    """``drop``: close without a word. ``truncate``: promise the whole body, send half. ``drip``: a byte at a time.
    ``endless``: a body without an end. ``silent``: nothing, until the caller gives up."""

    @classmethod
    def of(cls, data: Any, status: int = 200, **headers: str) -> Self:
        """Answer with JSON."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return cls(status=status, body=json.dumps(data).encode(), headers=named)


Handler = Callable[[Seen], Reply | Awaitable[Reply]]


class LoopbackServer:
    """A context manager: a server in a thread, until the block ends."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.seen: list[Seen] = []
        self.most_at_once = 0
        """Requests that were being answered at the same time, at most."""
        self.connections = 0
        self.open_connections = 0
        self.broken = threading.Event()
        """Set when a caller goes away before its answer."""
        self._now = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @property
    def url(self) -> str:
        """The base address of the API."""
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._start())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=20)

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=4096)
        self.port: int = self._server.sockets[0].getsockname()[1]

    async def _end(self) -> None:
        self._server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open_connections += 1
        try:
            while (seen := await read_request(reader)) is not None:
                self.seen.append(seen)
                self._now += 1
                self.most_at_once = max(self.most_at_once, self._now)
                try:
                    reply = self.handler(seen)
                    alive = await self._send(reader, writer, reply if isinstance(reply, Reply) else await reply)
                finally:
                    self._now -= 1
                if not alive:
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            self.broken.set()
        except asyncio.CancelledError:
            pass  # the end of the server; asyncio would print it
        finally:
            self.open_connections -= 1
            writer.close()

    async def _send(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, reply: Reply) -> bool:
        """Send a reply, and say whether the connection goes on."""
        if reply.after or reply.fault == "silent":
            gone = asyncio.ensure_future(reader.read(1))
            done, _ = await asyncio.wait([gone], timeout=None if reply.fault == "silent" else reply.after)
            if done:
                self.broken.set()
                return False
            gone.cancel()
            await asyncio.gather(gone, return_exceptions=True)
        if reply.fault == "drop":
            return False
        headers = {"Content-Type": "application/json", "Content-Length": str(len(reply.body)), **reply.headers}
        if reply.fault == "endless":
            headers = {"Connection": "close"}
        lines = [f"HTTP/1.1 {reply.status} said", *(f"{name}: {value}" for name, value in headers.items())]
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
        while reply.fault == "endless":
            writer.write(b" " * 65536)
            await writer.drain()
        if reply.fault == "drip":
            for byte in reply.body:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0.05)
        else:
            writer.write(reply.body[: len(reply.body) // 2] if reply.fault == "truncate" else reply.body)
        await writer.drain()
        return not reply.fault


async def read_request(reader: asyncio.StreamReader) -> Seen | None:
    """Read one request; None where the connection ends before it."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    method, path, _ = first.split(" ", 2)
    headers = {
        name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)
    }
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Seen(method, path, headers, body)


def completion(text: str = "ok", **changes: Any) -> dict[str, Any]:
    """Return an answer of /completions."""
    choice = {"index": 0, "text": text, "finish_reason": "stop", "logprobs": None} | changes
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    return {"object": "text_completion", "model": "m", "choices": [choice], "usage": usage}


def chat(text: str = "ok", **changes: Any) -> dict[str, Any]:
    """Return an answer of /chat/completions."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None} | changes
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    return {"object": "chat.completion", "model": "m", "choices": [choice], "usage": usage}


def models(*names: str, **card: Any) -> dict[str, Any]:
    """Return an answer of /models."""
    return {"object": "list", "data": [{"id": name, "object": "model", **card} for name in names]}
