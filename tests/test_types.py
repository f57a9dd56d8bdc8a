from typing import get_args

from cai.types import FinishReason, Message, Role, Usage


def test_a_message_is_a_pair_that_can_be_unpacked_and_hashed() -> None:
    message = Message("user", "Hi")
    role, content = message
    assert (role, content) == ("user", "Hi")
    assert {message: 1}[Message("user", "Hi")] == 1


def test_the_words_for_roles_and_endings_are_those_of_chat_templates_and_records() -> None:
    assert get_args(Role) == ("system", "user", "assistant")
    assert get_args(FinishReason) == ("stop", "length")


def test_usage_tells_read_from_written() -> None:
    usage = Usage(prompt=7, completion=3)
    assert (usage.prompt, usage.completion) == (7, 3)
