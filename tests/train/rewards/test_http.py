import math
from typing import Any

import pytest

from cai.errors import EngineError
from cai.train.rewards.config import HttpReward
from cai.train.rewards.http import Asker
from cai.types import Message
from tests.engines.fault_server import LoopbackServer, Reply, Seen

PROMPTS = [(Message("system", "Be kind."), Message("user", f"prompt {n}")) for n in range(5)]
ANSWERS = [f"answer {n}" for n in range(5)]


def asker(server: LoopbackServer, **changes: Any) -> Asker:
    url = f"http://127.0.0.1:{server.port}/get_reward"
    return Asker(HttpReward(kind="http", url=url, **{"batch": 2, "retries": 0, "timeout": 5} | changes))


def by_number(seen: Seen) -> Reply:
    return Reply.of({"rewards": [float(query[-1]) for query in seen.json["query"]]})


def test_answers_go_in_batches_in_the_form_of_openrlhf() -> None:
    with LoopbackServer(by_number) as server:
        assert asker(server)(PROMPTS, ANSWERS) == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert {seen.path for seen in server.seen} == {"/get_reward"}
    assert sorted(len(seen.json["query"]) for seen in server.seen) == [1, 2, 2]
    body = next(seen.json for seen in server.seen if "prompt 4" in seen.json["query"][0])
    text = "Be kind.\n\nHuman: prompt 4\n\nAssistant: "
    assert body["query"] == [text + "answer 4"]
    assert body["prompts"] == [text]
    assert body["labels"] == [None]
    assert body["messages"][0][-1] == {"role": "assistant", "content": "answer 4"}


def test_a_tokenizer_writes_the_texts(tiny_model_dir: Any) -> None:
    with LoopbackServer(by_number) as server:
        asker(server, tokenizer=str(tiny_model_dir))(PROMPTS[:1], ANSWERS[:1])
    assert server.seen[0].json["query"][0].endswith("<|im_start|>assistant\nanswer 0")


@pytest.mark.parametrize(
    "reply",
    [
        Reply.of({"error": "out of memory"}, status=500),
        Reply.of({"rewards": [1.0]}),
        Reply.of({"scores": [1.0, 2.0]}),
        Reply(body=b"<html>"),
        Reply(fault="drop"),
        Reply(after=3.0, body=b'{"rewards": [1.0, 1.0]}'),
    ],
    ids=["500", "too few", "other form", "no JSON", "dropped", "late"],
)
def test_a_batch_that_fails_has_no_reward_and_the_others_have(reply: Reply) -> None:
    def one_fails(seen: Seen) -> Reply:
        return reply if "answer 2" in seen.json["query"][0] else by_number(seen)

    with LoopbackServer(one_fails) as server:
        assert asker(server, timeout=0.5)(PROMPTS, ANSWERS) == [0.0, 1.0, None, None, 4.0]


def test_null_and_what_is_no_number_are_no_reward() -> None:
    with LoopbackServer(lambda seen: Reply.of({"rewards": [None, "high", True, math.nan, 1]})) as server:
        assert asker(server, batch=5)(PROMPTS, ANSWERS) == [None, None, None, None, 1.0]


def test_a_call_is_made_again_after_a_passing_fault() -> None:
    replies = iter([Reply.of({}, status=503, Retry_After="0")])
    with LoopbackServer(lambda seen: next(replies, None) or by_number(seen)) as server:
        assert asker(server, batch=5, retries=2)(PROMPTS, ANSWERS) == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_a_refused_key_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REWARD_KEY", "secret-secret-secret")
    with (
        LoopbackServer(lambda seen: Reply.of({}, status=401)) as server,
        pytest.raises(EngineError, match="REWARD_KEY"),
    ):
        asker(server, api_key_env="REWARD_KEY")(PROMPTS, ANSWERS)
