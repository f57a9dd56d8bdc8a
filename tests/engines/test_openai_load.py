"""The HTTP engine under load: faults, refused keys, budgets, dropped streams. Nothing is lost, doubled or left over."""

import base64
import collections
import gc
import logging
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from cai.budget import BudgetError
from cai.engines.base import Failure, Generated, GenerateRequest, Sampling
from cai.engines.openai import OpenAIEngine
from cai.engines.server import ServerConfig
from cai.errors import EngineError
from cai.storage import seed_from
from cai.types import Message
from tests.engines.fault_server import LoopbackServer, Reply, Seen, chat, models

SECRET = "sk-prod-Zx9/Qy7+Tt3=Uv5"

FAULTS = [
    Reply.of({"error": "slow down"}, 429, Retry_After="0"),
    Reply.of({"error": "slow down"}, 429),
    Reply.of({"error": "slow down"}, 429, Retry_After="nan"),
    Reply.of({}, 408),
    Reply.of({}, 409),
    Reply.of({"error": "broken"}, 500),
    Reply.of({"error": "busy"}, 503),
    Reply(fault="drop"),
    Reply(fault="silent"),
    Reply(body=b'{"choices": [{"message": {"content": "half', fault="truncate"),
    Reply(body=b'{"choices": [{"message": {"content": "ha'),
    Reply(body=b"<html>Bad Gateway</html>"),
    Reply.of({"error": {"message": "overloaded"}}),
    Reply(fault="endless"),
]
"""All of them may pass but the last: an answer without an end is not asked for again."""


def engine_for(server: LoopbackServer, **changes: Any) -> OpenAIEngine:
    window = changes.pop("window", 64)
    settings: dict[str, Any] = {"concurrency": 8, "timeout": 30, "backoff": 0.001} | changes
    return OpenAIEngine(ServerConfig(base_url=server.url, **settings), "tiny", window=window)


def serve(handler: Any) -> LoopbackServer:
    def answer(seen: Seen) -> Any:
        return Reply.of(models("tiny")) if seen.path == "/v1/models" else handler(seen)

    return LoopbackServer(answer)


def requests(count: int, **changes: Any) -> Iterator[GenerateRequest]:
    for number in range(count):
        prompt = (Message("user", f"question {number}"),)
        yield GenerateRequest(**{"id": f"r{number}", "prompt": prompt, "seeds": (number,)} | changes)


def calls(server: LoopbackServer) -> int:
    return sum(seen.method == "POST" for seen in server.seen)


@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_with_a_fifth_of_all_calls_at_fault_every_request_has_one_result(count: int) -> None:
    tries: collections.Counter[int] = collections.Counter()
    endless: set[str] = set()

    def handler(seen: Seen) -> Reply:
        seed = seen.json["seed"]
        tries[seed] += 1
        if seed_from("fault", seed, tries[seed]) % 5:
            return Reply.of(chat(f"answer {seed}"))
        fault = FAULTS[seed_from("which", seed, tries[seed]) % len(FAULTS)]
        if fault.fault == "endless":
            endless.add(f"r{seed}")
        return fault

    with serve(handler) as server:
        engine = engine_for(server, concurrency=32, timeout=1.0, retries=20, max_body_bytes=4096)
        results = list(engine.generate(requests(count)))
        assert server.most_at_once <= 32 + 1  # a call that was given up may still be ending there
        assert calls(server) <= count * 21
        assert calls(server) > count * 1.1
    assert len(results) == count
    assert {result.id for result in results} == {f"r{number}" for number in range(count)}
    for result in results:
        if isinstance(result, Generated):
            assert result.completions[0].text == f"answer {result.id[1:]}"
        else:
            assert result.reason == "engine"
            assert "larger than 4096 bytes" in result.message
    assert {result.id for result in results if isinstance(result, Failure)} == endless
    assert 0 < len(endless) < count / 20


def test_each_seed_is_one_call_in_its_place() -> None:
    with serve(lambda seen: Reply.of(chat(f"{seen.json['seed']}"), Retry_After="0")) as server:
        (result,) = engine_for(server).generate(requests(1, seeds=(5, 3, 5, 9)))
        assert isinstance(result, Generated)
        assert [completion.text for completion in result.completions] == ["5", "3", "5", "9"]
        assert tuple(result.usage) == (4 * 3, 4 * 2)
        assert calls(server) == 4


# --- a key that is refused


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_ends_the_stream_within_one_call_per_worker(status: int) -> None:
    good = 20
    answered = 0

    def handler(seen: Seen) -> Reply:
        nonlocal answered
        answered += 1
        return Reply.of(chat("ok")) if answered <= good else Reply.of({"error": "revoked"}, status)

    with serve(handler) as server:
        found: list[Any] = []
        with pytest.raises(EngineError, match=f"{status}: revoked") as caught:
            found.extend(engine_for(server, concurrency=6).generate(requests(500)))
        assert caught.value.exit_code == 4
        assert calls(server) <= good + 6
    assert len(found) == len({result.id for result in found}) == good
    assert all(isinstance(result, Generated) for result in found)


def test_the_key_is_sent_and_shown_nowhere(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Servers echo it in answers, refusals and names; it must not come through in any form."""
    monkeypatch.setenv("CAI_TEST_KEY", SECRET)
    caplog.set_level(logging.DEBUG)
    forms = [SECRET, quote(SECRET, safe=""), base64.b64encode(SECRET.encode()).decode(), SECRET[:8] + "****"]
    said = " ".join(forms)
    replies = [
        Reply.of(chat(said)),
        Reply.of({"error": said}, 400),
        Reply.of({"error": said}),
        Reply(body=said.encode()),
        Reply.of(chat(said, finish_reason=said)),
        Reply.of({"error": {"message": said}}, 401),
    ]
    shown: list[str] = []
    for reply in replies:

        def handler(seen: Seen, reply: Reply = reply) -> Reply:
            assert seen.headers["authorization"] == f"Bearer {SECRET}"
            return Reply.of(models("tiny", root=said)) if seen.method == "GET" else reply

        with LoopbackServer(handler) as server:
            engine = engine_for(server, api_key_env="CAI_TEST_KEY", retries=1)
            shown += [
                repr(engine),
                repr(vars(engine)),
                repr(engine.config),
                engine.config.model_dump_json(),
                engine.model,
            ]
            try:
                shown += [repr(result) for result in engine.generate(requests(2))]
            except EngineError as error:
                told = traceback.TracebackException.from_exception(error, capture_locals=True)
                told.stack[:] = [frame for frame in told.stack if frame.filename != __file__]
                shown += [str(error), repr(error), "".join(told.format())]
    everything = "\n".join([*shown, caplog.text])
    assert "[key removed]" in everything
    for form in [*forms, SECRET[:8], forms[2][:8], "CAI_TEST_KEY="]:
        assert form not in everything


# --- budgets


def test_a_budget_of_tokens_is_never_crossed() -> None:
    with serve(lambda seen: Reply.of(chat("ok"))) as server:
        engine = engine_for(server, token_budget=600)
        found: list[Any] = []
        with pytest.raises(BudgetError, match=r"of 600 tokens used.*what was done is kept") as caught:
            found.extend(engine.generate(requests(500, sampling=Sampling(max_new_tokens=20))))
        assert caught.value.exit_code == 4
        assert calls(server) == len(found) > 50
        assert engine.budget.used == (3 * len(found), 2 * len(found))
        assert sum(engine.budget.used) <= 600
        with pytest.raises(BudgetError):  # and it stays so
            list(engine.generate(requests(1, sampling=Sampling(max_new_tokens=600))))


def test_a_budget_of_money_ends_it_too() -> None:
    with serve(lambda seen: Reply.of(chat("ok"))) as server:
        engine = engine_for(server, money_budget=0.01, prompt_price=1.0, completion_price=100.0)
        found: list[Any] = []
        with pytest.raises(BudgetError, match=r"of 0\.01 in money"):
            found.extend(engine.generate(requests(500, sampling=Sampling(max_new_tokens=20))))
        assert 20 < len(found) < 50
        assert 0.005 < engine.budget.cost <= 0.01


def test_calls_that_fail_cost_nothing() -> None:
    with serve(lambda seen: Reply.of({"error": "no"}, 400)) as server:
        engine = engine_for(server, token_budget=5000)
        assert all(isinstance(result, Failure) for result in engine.generate(requests(50)))
        assert engine.budget.used == (0, 0)


# --- streams


def test_the_source_is_read_no_further_than_the_window() -> None:
    taken = 0

    def source() -> Iterator[GenerateRequest]:
        nonlocal taken
        for request in requests(1000):
            taken += 1
            yield request

    with serve(lambda seen: Reply.of(chat("ok"))) as server:
        for place, _ in enumerate(engine_for(server, window=10).generate(source())):
            assert taken <= place + 10
    assert taken == 1000


def test_a_dropped_stream_leaves_nothing_behind() -> None:
    def handler(seen: Seen) -> Reply:
        return Reply.of(chat("ok")) if seen.json["seed"] == 0 else Reply(fault="silent")

    with serve(handler) as server:
        before = threading.active_count()
        results = engine_for(server).generate(requests(100))
        assert isinstance(next(results), Generated)
        assert threading.active_count() > before
        del results
        gc.collect()
        assert threading.active_count() == before
        deadline = time.monotonic() + 10
        while server.open_connections and time.monotonic() < deadline:
            time.sleep(0.01)
        assert server.open_connections == 0
        assert calls(server) <= 9


def test_a_finished_stream_leaves_nothing_behind() -> None:
    with serve(lambda seen: Reply.of(chat("ok"))) as server:
        before = threading.active_count()
        engine = engine_for(server)
        for _ in range(5):
            assert len(list(engine.generate(requests(20)))) == 20
        assert threading.active_count() == before
        deadline = time.monotonic() + 10
        while server.open_connections and time.monotonic() < deadline:
            time.sleep(0.01)
        assert server.open_connections == 0


def test_a_chat_shows_its_messages_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is sent is the dialogue, and nothing of the environment but the key that is named."""
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    with serve(lambda seen: Reply.of(chat("ok"))) as server:
        list(engine_for(server).generate(requests(1)))
        assert all("authorization" not in seen.headers for seen in server.seen)
        assert server.seen[-1].json["messages"] == [{"role": "user", "content": "question 0"}]
