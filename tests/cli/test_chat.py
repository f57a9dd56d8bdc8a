from collections.abc import Iterable, Iterator

import pytest

from cai.cli.chat import Chat, told
from cai.constitution import Constitution, Principle, load_constitution
from cai.engines.base import Completion, Failure, Generated, GenerateRequest, Sampling
from cai.errors import EngineError, InputError
from cai.types import Usage


class Echo:
    """Answers with what it was asked, and keeps the requests."""

    name = model = "echo"

    def __init__(self) -> None:
        self.requests: list[GenerateRequest] = []
        self.fails = False

    def generate(self, requests: Iterable[GenerateRequest]) -> Iterator[Generated | Failure]:
        for request in requests:
            self.requests.append(request)
            if self.fails:
                yield Failure(id=request.id, reason="too_long", message="too long")
                continue
            assert not isinstance(request.prompt, str)
            text = f"heard: {request.prompt[-1].content}"
            yield Generated(
                id=request.id,
                completions=(Completion(text=text, token_ids=(1,), finish_reason="stop"),),
                usage=Usage(1, 1),
            )

    def score(self, requests: object) -> Iterator[Failure]:
        raise AssertionError


def talk(*, constitution: Constitution | None = None) -> tuple[Chat, Echo]:
    engine = Echo()
    return Chat(engine, Sampling(max_new_tokens=8), seed=1, constitution=constitution), engine


def roles(request: GenerateRequest) -> list[str]:
    assert not isinstance(request.prompt, str)
    return [message.role for message in request.prompt]


def test_the_model_hears_the_whole_conversation() -> None:
    chat, engine = talk()
    assert chat.hear("Hi") == [("model", "heard: Hi")]
    assert chat.hear("  and you?  ") == [("model", "heard: and you?")]
    assert roles(engine.requests[1]) == ["user", "assistant", "user"]
    assert engine.requests[0].seeds != engine.requests[1].seeds
    assert chat.hear("   ") == []


def test_the_same_seed_asks_the_same() -> None:
    one, two = talk(), talk()
    for chat, _ in (one, two):
        chat.hear("Hi")
    assert one[1].requests == two[1].requests


def test_a_constitution_is_told_and_critique_draws_from_it() -> None:
    rules = load_constitution("harmless")
    chat, engine = talk(constitution=rules)
    assert chat.hear("/critique")[0][1] == "there is no answer yet"
    chat.hear("Hi")
    assert roles(engine.requests[0])[0] == "system"
    assert all(principle.text in chat.system for principle in rules.principles)
    said = dict(chat.hear("/critique truth"))
    assert said["principle"] == rules["truth"].text
    assert rules["truth"].critique in said["critique"]
    assert rules["truth"].revision in said["revision"]
    assert dict(chat.hear("/critique"))["principle"] in {principle.text for principle in rules.principles}
    assert "no principle 'nope'" in chat.hear("/critique nope")[0][1]
    assert len(chat.turns) == 2, "a critique is no part of the conversation"


def test_commands() -> None:
    chat, engine = talk()
    chat.hear("Hi")
    assert "start with --constitution" in chat.hear("/critique")[0][1]
    assert chat.hear("/reset")[0][1] == "a new conversation"
    chat.hear("/system Be a pirate.")
    chat.hear("Hi")
    assert roles(engine.requests[-1]) == ["system", "user"]
    assert "/critique" in chat.hear("/help")[0][1]
    assert "no command /dance" in chat.hear("/dance")[0][1]
    assert not chat.ended
    chat.hear("/quit")
    assert chat.ended


def test_a_failed_turn_is_no_part_of_the_conversation() -> None:
    chat, engine = talk()
    engine.fails = True
    with pytest.raises(EngineError, match="too long"):
        chat.hear("Hi")
    assert chat.turns == []


def test_principles_that_are_too_long_to_tell_are_refused() -> None:
    long = [Principle(id=f"p{n}", text="Be calm. " * 300) for n in range(20)]
    with pytest.raises(InputError, match="too many to tell a model"):
        told(Constitution(name="long", version="1", principles=tuple(long)))
