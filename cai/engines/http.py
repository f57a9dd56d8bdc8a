"""Calls to one server: tried again when a fault may pass, bounded in number, time and size, and to that host alone.

A call is made again after 408, 409, 429, any 5xx, a broken connection, no answer in time, and an answer that can't be
read; it waits as long as the server's ``Retry-After`` says, else twice as long each time. Other refusals are final. A
refused key (401, 403) stops every call of the session. Not done: redirects, proxies and keys of the environment
(``HTTP_PROXY``, ``.netrc``), compressed answers, streamed ones.
"""

import asyncio
import json
import math
import random
from collections.abc import Generator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Self

import httpx

from cai.engines.server import Key, ServerConfig, link_local
from cai.errors import EngineError

LONGEST_WAIT = 120.0
"""Seconds: what a server may make us wait between two tries."""

LONGEST_BACKOFF = 60.0

RETRIED = {408, 409, 429}

SHOWN = 500
"""Characters of a server's message that are passed on."""


class CallError(Exception):
    """A call that has no answer, for a reason that is in the message; `status` is None where no answer was read."""

    def __init__(self, message: str, status: int | None = None) -> None:
        """Hold a message that is fit to be shown."""
        super().__init__(message)
        self.status = status


class _Fault(Exception):
    """Something that may be over when the call is made again, after `wait` seconds if the server said so."""

    def __init__(self, message: str, *, status: int | None = None, wait: float | None = None) -> None:
        super().__init__(message)
        self.status, self.wait = status, wait


class _Bearer(httpx.Auth):
    """Puts the key into each request as it is sent."""

    def __init__(self, key: Key) -> None:
        self._key = key

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        value = self._key.value()
        if value is not None:
            request.headers["Authorization"] = f"Bearer {value}"
        yield request


class Session:
    """The connections of one stream, in one event loop: an async context manager."""

    def __init__(self, config: ServerConfig) -> None:
        """Prepare; nothing is opened before the session is entered."""
        self.key = Key(config.api_key_env)
        self._config = config
        self.slots = asyncio.Semaphore(config.concurrency)
        """The places for calls: a caller holds one around each, waits between tries included."""
        self._stopped = asyncio.Event()
        self._error: EngineError | None = None
        self._random = random.Random()

    async def __aenter__(self) -> Self:
        """Look the host up, and open a pool of connections."""
        config = self._config
        url = httpx.URL(config.base_url)
        await _refuse_link_local(url)
        self._client = httpx.AsyncClient(
            auth=_Bearer(self.key),
            verify=httpx.create_ssl_context() if url.scheme == "https" else False,
            headers={"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "cai"},
            timeout=httpx.Timeout(None, connect=config.connect_timeout),
            limits=httpx.Limits(max_connections=config.concurrency, max_keepalive_connections=config.concurrency),
            follow_redirects=False,
            trust_env=False,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close every connection."""
        await self._client.aclose()

    def stop(self, error: EngineError) -> None:
        """Let no further call begin: all that wait fail with this error."""
        self._error = self._error or error
        self._stopped.set()

    async def get(self, path: str) -> dict[str, Any]:
        """Return the JSON object at a path below the base address."""
        return await self._call("GET", path, None)

    async def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Send a JSON object and return the one that comes back; raises CallError."""
        return await self._call("POST", path, json.dumps(body).encode())

    async def _call(self, method: str, path: str, content: bytes | None) -> dict[str, Any]:
        """Make a call until it is answered, refused for good, or has failed once too often."""
        fault = _Fault("it was not tried")
        for attempt in range(self._config.retries + 1):
            if attempt:
                await self._pause(fault.wait if fault.wait is not None else self._backoff(attempt))
            self._check()
            try:
                return await self._once(method, path, content)
            except _Fault as error:
                fault = error
        tries = self._config.retries + 1
        raise CallError(f"{fault} ({tries} {'tries' if tries > 1 else 'try'})", fault.status)

    async def _once(self, method: str, path: str, content: bytes | None) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"} if content is not None else {}
        url = f"{self._config.base_url}/{path}"
        try:
            async with (
                asyncio.timeout(self._config.timeout),
                self._client.stream(method, url, content=content, headers=headers) as response,
            ):
                body = await self._read(response)
        except (TimeoutError, httpx.TimeoutException):
            raise _Fault(f"no answer in {self._config.timeout:g} s") from None
        except httpx.TransportError as error:
            raise _Fault(f"the connection failed: {self._show(str(error)) or type(error).__name__}") from None
        self._check_status(response, body)
        return self._parse(body)

    async def _read(self, response: httpx.Response) -> bytes:
        """Return the body, unless it is too large; no more than the limit is ever held."""
        limit = self._config.max_body_bytes
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise CallError("the server sent a compressed answer, which was not asked for", response.status_code)
        body = bytearray()
        declared = response.headers.get("Content-Length", "")
        if not (declared.isdecimal() and int(declared) > limit):
            async for part in response.aiter_raw():
                body += part
                if len(body) > limit:
                    break
            else:
                return bytes(body)
        raise CallError(f"the answer is larger than {limit} bytes, the limit that is set", response.status_code)

    def _check_status(self, response: httpx.Response, body: bytes) -> None:
        """Raise what an answer other than 200 stands for."""
        status = response.status_code
        if status == 200:
            return
        said = f"the server answered {status}"
        message = self._message(body)
        said += f": {message}" if message else ""
        if status in {401, 403}:
            error = EngineError(f"{self._config.host}: {said}; see the key in {self.key.name or 'no variable'}")
            self.stop(error)
            raise error
        if status in RETRIED or status >= 500:
            raise _Fault(said, status=status, wait=retry_after(response.headers.get("Retry-After"), datetime.now(UTC)))
        if 300 <= status < 400:
            said += "; redirects are not followed: name the last address in base_url"
        raise CallError(said, status)

    def _parse(self, body: bytes) -> dict[str, Any]:
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError):
            raise _Fault(f"the answer is not JSON: {self._show(body[:SHOWN].decode(errors='replace'))!r}") from None
        if not isinstance(answer, dict):
            raise _Fault("the answer is not a JSON object")
        if answer.get("error"):
            raise _Fault(f"the server answered with an error: {self._message(body)}")
        return answer

    def _message(self, body: bytes) -> str:
        """Return what the server says of a refusal, fit to be shown."""
        text = body.decode(errors="replace")
        try:
            said = json.loads(body)
        except (ValueError, RecursionError):
            return self._show(text)
        for name in ("error", "message", "detail"):
            if isinstance(said, dict) and said.get(name):
                said = said[name]
        return self._show(said if isinstance(said, str) else text)

    def _show(self, text: str) -> str:
        text = "".join(sign if sign.isprintable() else " " for sign in self.key.clean(text))
        return text if len(text) <= SHOWN else text[:SHOWN] + "…"

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _backoff(self, attempt: int) -> float:
        """Return a wait that doubles, spread so that calls that failed together don't come back together."""
        mean: float = min(LONGEST_BACKOFF, self._config.backoff * 2 ** (attempt - 1))
        return mean * self._random.uniform(0.5, 1.5)

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._stopped.wait(), seconds)
        except TimeoutError:
            return


def retry_after(value: str | None, now: datetime) -> float | None:
    """Return the seconds that a ``Retry-After`` header asks for, by number or date; None for one that makes no sense.

    >>> [retry_after(value, datetime.now(UTC)) for value in ("7", "-1", "9999")]
    [7.0, None, 120.0]
    """
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            date = parsedate_to_datetime(value)
            seconds = (date.replace(tzinfo=date.tzinfo or UTC) - now).total_seconds()
        except (ValueError, OverflowError):
            return None
        seconds = max(0.0, seconds)  # a date that has passed: at once
    if not math.isfinite(seconds) or seconds < 0:
        return None
    return min(seconds, LONGEST_WAIT)


async def _refuse_link_local(url: httpx.URL) -> None:
    """Raise EngineError for a host that stands for a link-local address, whatever it is written like."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(url.host, url.port or 443)
    except (OSError, UnicodeError):
        return  # the call itself will say so
    if any(link_local(str(address[4][0])) for address in found):
        raise EngineError(f"{url.host} is a link-local address; no server for models is there")
