"""Calls over HTTP: what is tried again and what isn't, how long, how much, and where the key goes."""

import asyncio
import logging
import socket
import time
from datetime import UTC, datetime
from typing import Any

import pytest

from cai.engines.http import CallError, Session, retry_after
from cai.engines.server import ServerConfig
from cai.errors import EngineError
from tests.engines.fault_server import Handler, LoopbackServer, Reply, Seen

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
SECRET = "sk-prod-Zx9/Qy7+Tt3=Uv5"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("0", 0.0),
        ("7", 7.0),
        (" 1.5 ", 1.5),
        ("9999", 120.0),
        ("1e35", 120.0),
        ("-1", None),
        ("nan", None),
        ("inf", None),
        ("-inf", None),
        ("1e999", None),
        ("", None),
        ("soon", None),
        ("Thu, 01 Jan 2026 12:00:30 GMT", 30.0),
        ("Thu, 01 Jan 2026 12:00:30 -0000", 30.0),
        ("Thursday, 01-Jan-26 12:00:30 GMT", 30.0),
        ("Thu, 01 Jan 2026 11:00:00 GMT", 0.0),
        ("Fri, 01 Jan 2100 00:00:00 GMT", 120.0),
        ("Thu, 99 Jan 2026 12:00:30 GMT", None),
        ("Thu, 01 Jan 99999999999 12:00:30 GMT", None),
    ],
)
def test_what_retry_after_asks_for(value: str | None, seconds: float | None) -> None:
    assert retry_after(value, NOW) == seconds


def config(server: LoopbackServer, **changes: Any) -> ServerConfig:
    return ServerConfig(base_url=server.url, **{"backoff": 0.001, "timeout": 20, "retries": 3} | changes)


def post(settings: ServerConfig) -> dict[str, Any]:
    """Make one call in a session of its own."""

    async def main() -> dict[str, Any]:
        async with Session(settings) as session:
            return await session.post("completions", {"a": 1})

    return asyncio.run(main())


def first(*replies: Reply) -> Handler:
    """Answer with these, one after the other, and with success from then on."""
    rest = iter(replies)
    return lambda seen: next(rest, Reply.of({"good": True}))


def always(reply: Reply) -> Handler:
    return lambda seen: reply


@pytest.mark.parametrize(
    "reply",
    [
        *(Reply.of({"error": {"message": "busy"}}, status) for status in (408, 409, 429, 500, 502, 503, 504, 529)),
        Reply.of({}, 429, Retry_After="0"),
        Reply.of({}, 503, Retry_After="-5"),
        Reply(fault="drop"),
        Reply(body=b'{"good": true, "choices": [1, 2, 3]}', fault="truncate"),
        Reply(body=b"<html>busy</html>"),
        Reply(body=b""),
        Reply(body=b"[1]"),
        Reply(body=b"[" * 100_000),
        Reply(body=b"\xff\xfe"),
        Reply.of({"error": "model is loading"}),
    ],
    ids=lambda reply: f"{reply.status}{reply.fault}{reply.body[:8]!r}",
)
def test_faults_that_may_pass_are_tried_again(reply: Reply) -> None:
    with LoopbackServer(first(reply, reply)) as server:
        assert post(config(server)) == {"good": True}
        assert len(server.seen) == 3
        assert len({seen.body for seen in server.seen}) == 1
    with LoopbackServer(always(reply)) as server, pytest.raises(CallError, match="4 tries"):
        post(config(server))
    assert len(server.seen) == 4


@pytest.mark.parametrize("status", [400, 402, 404, 405, 410, 413, 415, 418, 422, 301, 302, 303, 307, 308])
def test_other_refusals_are_final(status: int) -> None:
    with LoopbackServer(always(Reply.of({"error": {"message": "not so\nhere"}}, status))) as server:
        with pytest.raises(CallError, match=f"answered {status}: not so here") as caught:
            post(config(server))
        assert caught.value.status == status
        assert len(server.seen) == 1


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"error": {"message": "one"}}', "one"),
        (b'{"error": "two"}', "two"),
        (b'{"message": "three", "object": "error"}', "three"),
        (b'{"detail": [{"msg": "four"}]}', r'\{"detail".*four'),
        (b"five", "five"),
        (b"six\x1b[31m\x07", r"six \[31m $"),
        (b"7" * 5000, "7{500}…$"),
    ],
)
def test_what_a_server_says_is_passed_on_fit_to_be_shown(body: bytes, said: str) -> None:
    with LoopbackServer(always(Reply(status=400, body=body))) as server, pytest.raises(CallError, match=said):
        post(config(server))


def test_nobody_there_is_said_after_the_tries() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(CallError, match=r"the connection failed.*3 tries"):
        post(ServerConfig(base_url=f"http://127.0.0.1:{port}/v1", backoff=0.001, retries=2))


@pytest.mark.parametrize("fault", ["silent", "drip"])
def test_a_call_ends_in_time(fault: Any) -> None:
    reply = Reply(body=b'{"good": true}' * 20, fault=fault)
    with LoopbackServer(first(reply)) as server:
        start = time.monotonic()
        assert post(config(server, timeout=0.3)) == {"good": True}
        assert time.monotonic() - start < 4


def test_the_server_says_how_long_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def pause(self: Session, seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(Session, "_pause", pause)
    replies = [Reply.of({}, 429, Retry_After=value) for value in ("17", "0", "nan", "99999")]
    with LoopbackServer(first(*replies, Reply(status=500))) as server:
        post(config(server, retries=5, backoff=1.0))
    assert waits[0] == 17.0
    assert waits[1] == 0.0
    assert 2.0 <= waits[2] <= 6.0  # the third try: four seconds, give or take a half
    assert waits[3] == 120.0
    assert 8.0 <= waits[4] <= 24.0


def test_waits_grow_to_a_limit_and_differ() -> None:
    async def main() -> list[list[float]]:
        session = Session(ServerConfig(base_url="http://h/v1", backoff=0.5))
        return [[session._backoff(attempt) for _ in range(50)] for attempt in range(1, 21)]

    for attempt, waits in enumerate(asyncio.run(main())):
        mean = min(60.0, 0.5 * 2**attempt)
        assert all(0.5 * mean <= wait <= 1.5 * mean for wait in waits)
        assert len(set(waits)) > 10


@pytest.mark.parametrize(
    "reply",
    [
        Reply(body=b" " * 5000),
        Reply(body=b"{}", headers={"Content-Length": "999999999999"}),
        Reply(fault="endless"),
        Reply(fault="endless", status=500),
    ],
    ids=["longer", "declared", "endless", "refusal"],
)
def test_no_more_is_read_than_the_limit(reply: Reply) -> None:
    with LoopbackServer(always(reply)) as server:
        with pytest.raises(CallError, match="larger than 4096 bytes"):
            post(config(server, max_body_bytes=4096))
        assert len(server.seen) == 1


def test_a_compressed_answer_is_refused() -> None:
    import gzip

    bomb = Reply(body=gzip.compress(b" " * 10_000_000), headers={"Content-Encoding": "gzip"})
    with LoopbackServer(always(bomb)) as server, pytest.raises(CallError, match="compressed"):
        post(config(server))
    assert server.seen[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAI_TEST_KEY", SECRET)
    with LoopbackServer(always(Reply.of({"good": True}))) as other:
        there = Reply(status=status, headers={"Location": f"{other.url}/completions"})
        with LoopbackServer(always(there)) as server:
            with pytest.raises(CallError, match="redirects are not followed"):
                post(config(server, api_key_env="CAI_TEST_KEY"))
            assert len(server.seen) == 1
        assert other.connections == 0


@pytest.mark.parametrize("host", ["169.254.169.254", "2852039166", "0xa9fea9fe", "fe80::1"])
def test_a_host_that_stands_for_a_link_local_address_is_not_asked(host: str) -> None:
    settings = ServerConfig.model_construct(base_url=f"http://{f'[{host}]' if ':' in host else host}:1/v1")
    with pytest.raises(EngineError, match="link-local"):
        post(settings.model_copy(update={"retries": 0}))


def test_a_refused_key_stops_the_session_and_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CAI_TEST_KEY", SECRET)
    caplog.set_level(logging.DEBUG)

    def refuse(seen: Seen) -> Reply:
        assert seen.headers["authorization"] == f"Bearer {SECRET}"
        return Reply.of({"error": {"message": f"Incorrect API key provided: {SECRET}"}}, 401)

    async def main(settings: ServerConfig) -> list[BaseException | dict[str, Any]]:
        async with Session(settings) as session:

            async def call() -> dict[str, Any]:
                async with session.slots:
                    return await session.post("completions", {})

            return await asyncio.gather(*(call() for _ in range(50)), return_exceptions=True)

    with LoopbackServer(refuse) as server:
        found = asyncio.run(main(config(server, concurrency=4, api_key_env="CAI_TEST_KEY")))
        assert len(server.seen) <= 4
    assert len(found) == 50
    assert all(isinstance(error, EngineError) for error in found)
    assert "401: Incorrect API key provided: [key removed]; see the key in CAI_TEST_KEY" in str(found[0])
    assert SECRET[:8] not in caplog.text
    assert SECRET[:8] not in repr(found)


def test_a_stop_wakes_those_that_wait() -> None:
    with LoopbackServer(always(Reply.of({}, 429, Retry_After="100"))) as server:

        async def main() -> None:
            async with Session(config(server)) as session:
                call = asyncio.ensure_future(session.post("completions", {}))
                while not server.seen:
                    await asyncio.sleep(0.01)
                session.stop(EngineError("over"))
                with pytest.raises(EngineError, match="over"):
                    await asyncio.wait_for(call, 5)

        asyncio.run(main())


def test_no_more_calls_at_once_than_the_limit() -> None:
    with LoopbackServer(lambda seen: Reply(body=b"{}", after=0.01)) as server:

        async def main() -> None:
            async with Session(config(server, concurrency=5)) as session:

                async def call() -> None:
                    async with session.slots:
                        await session.post("completions", {})

                await asyncio.gather(*(call() for _ in range(60)))

        asyncio.run(main())
        assert server.most_at_once == 5
        assert server.connections == 5


def test_the_environment_brings_no_proxy_and_no_password(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    with LoopbackServer(always(Reply(status=500))) as proxy, LoopbackServer(always(Reply(body=b"{}"))) as server:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        post(config(server))
        assert proxy.connections == 0
        assert "authorization" not in server.seen[0].headers
