"""What is sent and what is read: fields by server, markers made harmless, answers that are not what they should be."""

from typing import Any

import pytest

from cai.engines.base import Completion, GenerateRequest, Sampling
from cai.engines.render import Renderer
from cai.engines.wire import (
    DIALECTS,
    OWNERS,
    TOO_LONG,
    NotSupportedError,
    UnreadableError,
    chat_call,
    echo_call,
    escape,
    read_choice,
    read_echo,
    read_usage,
    sampling_fields,
    text_call,
)
from cai.types import Message, Usage
from tests.engines import tiny
from tests.engines.fault_server import chat, completion

ASK = (Message("system", "Be kind."), Message("user", "Who are you? <|im_end|>"))


def request(**changes: Any) -> GenerateRequest:
    return GenerateRequest(**{"id": "a", "prompt": ASK} | changes)


@pytest.mark.parametrize(
    "marker",
    [
        "<|im_start|>",
        "<|endoftext|>",
        "<|eot_id|>",
        "<|start_header_id|>",
        "<|reserved_special_token_7|>",
        "<s>",
        "</s>",
        "[INST]",
        "[/INST]",
        "[SYSTEM_PROMPT]",
        "<<SYS>>",
        "<start_of_turn>",
        "<end_of_turn>",
        "<bos>",
        "<｜begin▁of▁sentence｜>",
    ],
)
def test_markers_become_ordinary_text(marker: str) -> None:
    text = escape(f"before {marker} after {marker}{marker}")
    assert marker not in text
    assert text.replace("\u2060", "") == f"before {marker} after {marker}{marker}"
    assert escape(text) == text


@pytest.mark.parametrize("text", ["a < b | c > d", "<think>yes</think>", "[A] or [1]", "x <sup>2</sup>", "| a | b |"])
def test_other_texts_stay(text: str) -> None:
    assert escape(text) == text


def test_every_owner_has_a_dialect() -> None:
    assert set(OWNERS.values()) <= set(DIALECTS)


def test_servers_with_defaults_of_their_own_are_told_to_cut_nothing_off() -> None:
    for name in ("vllm", "sglang", "llama.cpp"):
        fields = sampling_fields(Sampling(), DIALECTS[name])
        assert fields["top_k"] == -1
        assert fields["min_p"] == 0.0
        assert fields["temperature"] == fields["top_p"] == 1.0
    assert sampling_fields(Sampling(top_k=5), DIALECTS["vllm"])["top_k"] == 5
    assert set(sampling_fields(Sampling(), DIALECTS["openai"])) == {"temperature", "top_p"}


@pytest.mark.parametrize(
    ("kind", "changes", "lacks"),
    [
        ("openai", {"sampling": Sampling(top_k=5)}, "OpenAI takes no top_k"),
        ("ollama", {"sampling": Sampling(min_new_tokens=5)}, "Ollama takes no min_tokens"),
        ("llama.cpp", {"sampling": Sampling(min_new_tokens=5)}, "llama.cpp takes no min_tokens"),
        ("llama.cpp", {"prefill": "I"}, "llama.cpp can't be told to continue.*tokenizer"),
        ("other", {"prefill": "I"}, "this server can't be told to continue"),
        ("sglang", {"logprobs": True, "sampling": Sampling(temperature=0.7)}, "after the temperature"),
    ],
)
def test_what_a_server_is_not_known_to_do_is_refused(kind: str, changes: dict[str, Any], lacks: str) -> None:
    with pytest.raises(NotSupportedError, match=lacks):
        chat_call("m", request(**changes), ASK, 0, DIALECTS[kind])


def test_a_chat_is_messages_with_markers_made_harmless() -> None:
    asked = request(prefill="I <s>am", sampling=Sampling(stop=("a", "b", "c", "d", "e"), max_new_tokens=7))
    call = chat_call("m", asked, ASK, 2**63 - 1, DIALECTS["vllm"])
    assert call.path == "chat/completions"
    assert call.body["messages"] == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Who are you? <\u2060|im_end|>"},
        {"role": "assistant", "content": "I <\u2060s>am"},
    ]
    assert call.body["continue_final_message"] is True
    assert call.body["add_generation_prompt"] is False
    assert call.body["stop"] == ["a", "b", "c", "d"]
    assert call.body["seed"] == 2**31 - 1
    assert call.body["max_tokens"] == 7
    assert call.most.completion == 7
    assert call.most.prompt > sum(len(message.content) for message in ASK)
    hosted = chat_call("m", request(), ASK, 1, DIALECTS["openai"])
    assert set(hosted.body) == {"model", "messages", "max_completion_tokens", "seed", "temperature", "top_p"}


def test_a_text_is_continued_as_ids_or_as_text() -> None:
    call = text_call(
        "m", request(logprobs=True), 5, [1, 2], limit=9, stop=("x",), dialect=DIALECTS["vllm"], end_ids=[2]
    )
    assert call.path == "completions"
    assert call.body["prompt"] == [1, 2]
    assert call.body["stop_token_ids"] == [2]
    assert call.body["logprobs"] == 1
    assert call.body["return_token_ids"] is True
    assert call.most == Usage(2, 9)
    plain = text_call("m", request(), 5, "né", limit=9, stop=(), dialect=DIALECTS["other"], end_ids=[2])
    assert set(plain.body) == {"model", "prompt", "max_tokens", "seed", "temperature", "top_p"}
    assert plain.most == Usage(4, 9)


def test_an_echo_reads_and_draws_one() -> None:
    call = echo_call("m", [1, 2, 3], DIALECTS["sglang"])
    assert (call.body["echo"], call.body["max_tokens"], call.body["logprobs"]) == (True, 1, 1)
    assert call.most == Usage(3, 1)


@pytest.mark.parametrize(
    "message",
    [
        "This model's maximum context length is 512 tokens. However, you requested 600",
        "context_length_exceeded",
        "the request exceeds the available context size, try increasing it",
        "The input (900 tokens) is longer than the model's context length (512 tokens).",
        "Prompt is too long",
    ],
)
def test_a_prompt_that_is_too_long_is_understood(message: str) -> None:
    assert TOO_LONG.search(message)
    assert not TOO_LONG.search("Unknown field 'top_k'; the content filter refused it")


def read(answer: dict[str, Any], asked: GenerateRequest | None = None, **changes: Any) -> Completion:
    return read_choice(answer, asked or request(), **{"stop": (), "renderer": None} | changes)


def test_texts_are_read_from_both_forms() -> None:
    expected = Completion(text="ok", token_ids=(), finish_reason="stop")
    assert read(completion("ok")) == read(chat("ok")) == expected
    assert read(chat("ok", finish_reason="length")).finish_reason == "length"


def test_stop_strings_are_cut_here_too() -> None:
    found = read(completion("one STOP two END", finish_reason="length"), stop=("END", "STOP"))
    assert found == Completion(text="one ", token_ids=(), finish_reason="stop")


@pytest.mark.parametrize(
    ("answer", "wrong"),
    [
        ({}, "exactly one choice"),
        ({"choices": []}, "exactly one choice"),
        ({"choices": [{}, {}]}, "exactly one choice"),
        ({"choices": ["x"]}, "exactly one choice"),
        (chat("x", finish_reason="content_filter"), "content_filter"),
        (chat("x", finish_reason=None), "None"),
        (chat("x", finish_reason="tool_calls"), "tool_calls"),
        (chat("x", message={"content": None}), "no text"),
        (chat("x", message={"content": 3}), "no text"),
    ],
)
def test_other_answers_are_unreadable(answer: dict[str, Any], wrong: str) -> None:
    with pytest.raises(UnreadableError, match=wrong):
        read(answer)


def test_log_probabilities_are_read_or_missed() -> None:
    asked = request(logprobs=True)
    assert read(completion("ok", logprobs={"token_logprobs": [-1.0, -2]}), asked).logprobs == (-1.0, -2.0)
    assert read(chat("ok", logprobs={"content": [{"logprob": -1.5}]}), asked).logprobs == (-1.5,)
    assert read(completion("ok", logprobs={"token_logprobs": [-1.0]})).logprobs is None
    for logprobs in (None, {}, {"content": None}, {"token_logprobs": None}):
        with pytest.raises(NotSupportedError, match="no log-probabilities"):
            read(completion("ok", logprobs=logprobs), asked)
    for value in (None, "x", float("nan"), float("-inf")):
        with pytest.raises(UnreadableError, match="not a finite number"):
            read(completion("ok", logprobs={"token_logprobs": [value]}), asked)
    with pytest.raises(UnreadableError, match="2 tokens, but 1"):
        read(completion("ok", logprobs={"token_logprobs": [-1.0]}, token_ids=[1, 2]), asked)


def test_ids_make_the_text_and_the_end() -> None:
    renderer = Renderer(tiny.shared_tokenizer())
    ids = renderer.answer_ids("I think it is a good thing.", end_of_turn=True)
    said = {"token_ids": ids, "logprobs": {"token_logprobs": [-1.0] * len(ids)}}
    asked = request(logprobs=True)
    found = read(completion("as the server decodes it", **said), asked, renderer=renderer)
    assert found.text == "I think it is a good thing."
    assert found.token_ids == tuple(renderer.answer_ids(found.text, end_of_turn=True)[: len(ids)])
    stopped = read(completion("I think", **said), asked, renderer=renderer, stop=(" it is",))
    assert stopped.text == "I think"
    assert stopped.finish_reason == "stop"
    assert renderer.decode(stopped.token_ids) == "I think"
    assert stopped.logprobs == (-1.0,) * len(stopped.token_ids)
    cut = read(completion("x", token_ids=ids[:3], finish_reason="length"), renderer=renderer)
    assert cut.finish_reason == "length"
    assert cut.text == renderer.decode(ids[:3])
    ended = read(completion("x", token_ids=ids[:3], finish_reason="stop"), renderer=renderer)
    assert ended.finish_reason == "stop"  # by an end token that only the server knows


@pytest.mark.parametrize("more", [[], [-9.0]], ids=["prompt", "prompt and what was drawn"])
def test_an_echo_has_the_candidates_part(more: list[float]) -> None:
    answer = completion("x", logprobs={"token_logprobs": [None, -1.0, -2.0, -3.0, *more]})
    assert read_echo(answer, [7, 8, 9, 10], 2) == (-2.0, -3.0)


def test_an_echo_that_was_not_made_is_missed() -> None:
    missing: list[Any] = [None, {"token_logprobs": [-1.0]}, {"content": []}]
    for logprobs in missing:
        with pytest.raises(NotSupportedError, match="`echo`"):
            read_echo(completion("x", logprobs=logprobs), [7, 8, 9, 10], 2)
    answer = completion("x", logprobs={"token_logprobs": [None, -1.0]}, prompt_token_ids=[7, 9])
    with pytest.raises(UnreadableError, match="other tokens"):
        read_echo(answer, [7, 8], 1)
    with pytest.raises(UnreadableError, match="finite"):
        read_echo(completion("x", logprobs={"token_logprobs": [None, None]}), [7, 8], 1)


def test_usage_is_what_the_server_says_or_the_most() -> None:
    most = Usage(100, 50)
    assert read_usage({"usage": {"prompt_tokens": 3, "completion_tokens": 2}}, most) == Usage(3, 2)
    for usage in (
        None,
        {},
        {"prompt_tokens": "3", "completion_tokens": 2},
        {"prompt_tokens": -1, "completion_tokens": 2},
    ):
        assert read_usage({"usage": usage}, most) == most
