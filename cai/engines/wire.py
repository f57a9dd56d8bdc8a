"""What is sent to an OpenAI-compatible server and what is read from its answers: no network here.

Servers differ in what they take beyond OpenAI's fields, and most ignore what they don't know without a word. So what a
server is not known to do is refused before it is asked (`Dialect`), and what it should have done is checked in its
answer (`read_choice`, `read_echo`).
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from cai.engines.base import Completion, GenerateRequest, Sampling
from cai.types import Dialogue, FinishReason, Usage

if TYPE_CHECKING:
    from cai.engines.render import Renderer

JOINER = "\u2060"
"""A character without width: put into a reserved marker, it makes ordinary text of it."""

MARKERS = re.compile(
    r"<\|[^<>|\s]{1,64}\|>"  # ChatML, Llama 3, Phi, gpt-oss
    r"|<｜[^<>｜\s]{1,64}｜>"  # DeepSeek
    r"|</?s>|<(?:bos|eos|pad|unk|mask)>|\[/?[A-Z_]{4,32}\]|<</?SYS>>"  # Llama 2, Mistral, Gemma
    r"|<(?:start|end)_of_(?:turn|image)>"  # Gemma
)
"""What chat templates write as control tokens."""

STOPS = 4
"""Stop strings that OpenAI's API takes; the text is cut at all of them here."""

ENDS: dict[str, FinishReason] = {
    "stop": "stop",
    "eos_token": "stop",
    "stop_sequence": "stop",
    "end_turn": "stop",
    "length": "length",
}

TOO_LONG = re.compile(r"context[ _]?(length|window|size)|max_model_len|max_total_tokens|too (long|many tokens)", re.I)
"""How servers say that a prompt does not fit."""


class NotSupportedError(Exception):
    """The server can't do, or did not do, what a request needs; the message names it."""


class UnreadableError(Exception):
    """An answer that is not what the API promises."""


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """What one kind of server takes beyond OpenAI's fields."""

    name: str
    fixed: dict[str, Any] = field(default_factory=dict)
    """Sent with every request: else the server cuts off improbable tokens by defaults of its own."""
    top_k: bool = False
    min_tokens: bool = False
    stop_token_ids: bool = False
    token_ids: bool = False
    """Returns the ids of what was drawn."""
    prefill: bool = False
    """Continues an assistant's message in a chat."""
    tempered: bool = False
    """Its log-probabilities are those after the temperature."""
    limit: str = "max_tokens"
    """What a chat's limit of new tokens is called."""


_WHOLE = {"min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}

DIALECTS = {
    "vllm": Dialect(
        name="vLLM", fixed=_WHOLE, top_k=True, min_tokens=True, stop_token_ids=True, token_ids=True, prefill=True
    ),
    "sglang": Dialect(
        name="SGLang", fixed=_WHOLE, top_k=True, min_tokens=True, stop_token_ids=True, prefill=True, tempered=True
    ),
    "llama.cpp": Dialect(name="llama.cpp", fixed={"min_p": 0.0, "repeat_penalty": 1.0}, top_k=True),
    "ollama": Dialect(name="Ollama"),
    "openai": Dialect(name="OpenAI", limit="max_completion_tokens"),
    "other": Dialect(name="this server"),
}

OWNERS = {
    "vllm": "vllm",
    "sglang": "sglang",
    "llamacpp": "llama.cpp",
    "library": "ollama",
    "openai": "openai",
    "openai-internal": "openai",
    "system": "openai",
}
"""What servers write as the owner of their models, and which dialect they speak."""


@dataclass(frozen=True)
class Call:
    """One request to the server: where it goes, what it says, and the most that it can cost."""

    path: str
    body: dict[str, Any]
    most: Usage


def escape(text: str) -> str:
    """Make ordinary text of what a chat template would write as a control token.

    >>> escape("<|im_end|>").replace(JOINER, "·")
    '<·|im_end|>'
    """
    return MARKERS.sub(lambda match: match[0][0] + JOINER + match[0][1:], text)


def sampling_fields(sampling: Sampling, dialect: Dialect) -> dict[str, Any]:
    """Return how tokens are drawn, in the server's words; raises NotSupportedError."""
    fields: dict[str, Any] = {**dialect.fixed, "temperature": sampling.temperature, "top_p": sampling.top_p}
    if sampling.top_k and not dialect.top_k:
        raise NotSupportedError(f"{dialect.name} takes no top_k over its OpenAI interface")
    if dialect.top_k:
        fields["top_k"] = sampling.top_k or -1
    if sampling.min_new_tokens and not dialect.min_tokens:
        raise NotSupportedError(f"{dialect.name} takes no min_tokens: an answer can't be kept from ending early")
    if sampling.min_new_tokens:
        fields["min_tokens"] = min(sampling.min_new_tokens, sampling.max_new_tokens)
    return fields


def text_call(
    model: str,
    request: GenerateRequest,
    seed: int,
    prompt: str | list[int],
    *,
    limit: int,
    stop: Sequence[str],
    dialect: Dialect,
    end_ids: Sequence[int] = (),
) -> Call:
    """Return the call that continues a text, or token ids, by up to `limit` tokens."""
    body = {
        "model": model,
        "prompt": prompt,
        "max_tokens": limit,
        "seed": seed & 0x7FFF_FFFF,
        **sampling_fields(request.sampling, dialect),
    }
    if dialect.stop_token_ids and end_ids:
        body["stop_token_ids"] = list(end_ids)
    if request.logprobs:
        body["logprobs"] = 1
    read = len(prompt) if isinstance(prompt, list) else len(prompt.encode()) + 1
    return _finish("completions", body, request, stop, dialect, Usage(read, limit))


def chat_call(model: str, request: GenerateRequest, dialogue: Dialogue, seed: int, dialect: Dialect) -> Call:
    """Return the call that answers a dialogue by the server's own chat template."""
    messages = [{"role": message.role, "content": escape(message.content)} for message in dialogue]
    body = {
        "model": model,
        "messages": messages,
        dialect.limit: request.sampling.max_new_tokens,
        "seed": seed & 0x7FFF_FFFF,
        **sampling_fields(request.sampling, dialect),
    }
    if request.prefill:
        if not dialect.prefill:
            needs = "set engine.server.tokenizer, and the prompt is made here"
            raise NotSupportedError(f"{dialect.name} can't be told to continue the beginning of an answer: {needs}")
        messages.append({"role": "assistant", "content": escape(request.prefill)})
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    if request.logprobs:
        body["logprobs"] = True
    # No token is shorter than a byte; each turn, and a system message of the template's own, has some around it.
    read = sum(len(message["content"].encode()) + 16 for message in messages) + 64
    most = Usage(read, request.sampling.max_new_tokens)
    return _finish("chat/completions", body, request, request.sampling.stop, dialect, most)


def _finish(
    path: str, body: dict[str, Any], request: GenerateRequest, stop: Sequence[str], dialect: Dialect, most: Usage
) -> Call:
    if stop:
        body["stop"] = list(stop)[:STOPS]
    if dialect.token_ids:
        body["return_token_ids"] = True
    if request.logprobs and dialect.tempered and request.sampling.temperature not in (0.0, 1.0):
        raise NotSupportedError(f"{dialect.name} gives log-probabilities after the temperature; use temperature 1")
    return Call(path, body, most)


def echo_call(model: str, prompt: list[int], dialect: Dialect) -> Call:
    """Return the call that reads token ids and says how likely each was; one more token is drawn and thrown away."""
    body: dict[str, Any] = {"model": model, "prompt": prompt, "max_tokens": 1, "echo": True, "logprobs": 1}
    body |= {"temperature": 0.0, **({"return_token_ids": True} if dialect.token_ids else {})}
    return Call("completions", body, Usage(len(prompt), 1))


def read_usage(answer: dict[str, Any], most: Usage) -> Usage:
    """Return what the server says a call cost; the most that it can have cost if it says nothing."""
    usage = answer.get("usage")
    if not isinstance(usage, dict):
        return most
    counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    whole = [count for count in counts if isinstance(count, int) and count >= 0]
    return Usage(*whole) if len(whole) == 2 else most


def read_choice(
    answer: dict[str, Any], request: GenerateRequest, *, stop: Sequence[str], renderer: "Renderer | None"
) -> Completion:
    """Return the completion in an answer; raises UnreadableError, or NotSupportedError for what is missing in it.

    With a renderer and the ids of what was drawn, text and end are made of the ids, as every engine makes them.
    """
    choice = _choice(answer)
    message = choice.get("message")
    text = message.get("content") if isinstance(message, dict) else choice.get("text")
    reason = ENDS.get(str(choice.get("finish_reason")))
    if reason is None:
        raise UnreadableError(f"the answer ended for the reason {choice.get('finish_reason')!r}")
    if not isinstance(text, str):
        raise UnreadableError("the answer has no text")
    ids = choice.get("token_ids")
    token_ids: list[int] = ids if isinstance(ids, list) and all(isinstance(id_, int) for id_ in ids) else []
    logprobs = _drawn_logprobs(choice) if request.logprobs else None
    if logprobs is not None and token_ids and len(logprobs) != len(token_ids):
        raise UnreadableError(f"the answer has {len(token_ids)} tokens, but {len(logprobs)} log-probabilities")
    if renderer is not None and token_ids:
        return _from_ids(token_ids, logprobs, request, stop, reason, renderer)
    places = [place for string in stop if (place := text.find(string)) >= 0]
    if places:
        text, reason = text[: min(places)], "stop"
        token_ids, logprobs = [], () if logprobs is not None else None  # which of them make up the rest is not known
    return Completion(text=text, token_ids=tuple(token_ids), finish_reason=reason, logprobs=logprobs)


def _from_ids(
    token_ids: list[int],
    logprobs: Sequence[float] | None,
    request: GenerateRequest,
    stop: Sequence[str],
    reason: FinishReason,
    renderer: "Renderer",
) -> Completion:
    """Return the completion that our own engines would make of these tokens."""
    from cai.engines.decoding import Row

    row = Row(
        owner=0,
        ids=[],
        sampling=request.sampling,
        seed=0,
        limit=len(token_ids),
        logprobs_wanted=logprobs is not None,
        turn=not isinstance(request.prompt, str) and not request.prefill,
        stop=tuple(stop),
    )
    for place, token in enumerate(token_ids):
        if row.accept(token, None if logprobs is None else logprobs[place], renderer):
            break
    if row.completion is None:
        raise UnreadableError("the answer's tokens have no end")
    # A server may know more end tokens than the tokenizer does.
    return replace(row.completion, finish_reason="stop" if reason == "stop" else row.completion.finish_reason)


def read_echo(answer: dict[str, Any], prompt: Sequence[int], first: int) -> tuple[float, ...]:
    """Return the log-probabilities of the ids of a prompt from `first` on.

    Raises NotSupportedError for an answer without them: servers that don't know `echo` say nothing.
    """
    choice = _choice(answer)
    echoed = choice.get("prompt_token_ids")
    if isinstance(echoed, list) and echoed != list(prompt):
        raise UnreadableError("the server read other tokens than those that it was sent")
    logprobs = choice.get("logprobs")
    values = logprobs.get("token_logprobs") if isinstance(logprobs, dict) else None
    if not isinstance(values, list) or len(values) - len(prompt) not in {0, 1}:
        raise NotSupportedError(
            "the server gives no log-probabilities of a prompt (`echo` with `logprobs` on /completions), so it can't "
            "score; vLLM and SGLang can"
        )
    return _numbers(values[first : len(prompt)])


def _choice(answer: dict[str, Any]) -> dict[str, Any]:
    choices = answer.get("choices")
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        raise UnreadableError("the answer does not have exactly one choice")
    return choices[0]


def _drawn_logprobs(choice: dict[str, Any]) -> tuple[float, ...]:
    """Return the log-probabilities of the drawn tokens, in the form of chats or of completions."""
    logprobs = choice.get("logprobs")
    values: Any = None
    if isinstance(logprobs, dict) and isinstance(logprobs.get("content"), list):
        values = [item.get("logprob") if isinstance(item, dict) else None for item in logprobs["content"]]
    elif isinstance(logprobs, dict):
        values = logprobs.get("token_logprobs")
    if not isinstance(values, list):
        raise NotSupportedError("the server gave no log-probabilities, though asked for them")
    return _numbers(values)


def _numbers(values: Sequence[Any]) -> tuple[float, ...]:
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in values):
        raise UnreadableError("a log-probability is not a finite number")
    return tuple(float(value) for value in values)
