r"""The one renderer: dialogues and texts to token ids, for every engine, every stage and all training.

What generation saw and what training sees are the same ids because both come from here: a training example is
`prompt_ids(all but the last turn) + answer_ids(last turn)`, never a second rendering of the whole.

Content can't become control. The chat template is rendered with a placeholder for each content; the template's own
text may use the tokenizer's added tokens, contents are put in afterwards and encoded by a copy of the tokenizer that
has none. A run of template text and content between two control tokens is encoded as one piece, so harmless content
gets the ids that the tokenizer itself would give.

Left out: templates that look into contents (Qwen 3 cuts ``<think>`` out of earlier turns) see placeholders, so they
leave contents whole. In a transcript (``\n\nHuman:``) the marks of the turns are ordinary text, and no encoding can
tell a forged one apart.
"""

import copy
import functools
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

import tokenizers
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from cai.errors import InputError, Problem
from cai.types import Dialogue, Message

TRANSCRIPT = (
    "{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ m['content'] }}"
    "{% elif m['role'] == 'user' %}{{ '\\n\\nHuman: ' + m['content'] }}"
    "{% else %}{{ '\\n\\nAssistant: ' + m['content'] }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '\\n\\nAssistant:' }}{% endif %}"
)
"""How a dialogue reads to a model without a chat template: the transcripts of Bai et al. 2022."""

DATE = "26 Jul 2024"
"""What templates that print today's date (Llama 3.1) are told: a run that lasts past midnight stays one run."""

OPEN, CLOSE = "\ue000", "\ue001"
"""Private-use characters around a placeholder's number. They are replaced before any content is put in."""

ENCODED = 1024
"""Runs of text whose ids are remembered."""

Piece = tuple[str, int]
"""Ordinary text and the message (or part of a raw text) that it belongs to; -1 for the template's own."""

Segment = int | list[Piece]
"""A control token, or a run of ordinary text between two of them."""


class Renderer:
    """Turns prompts and answers into ids by one tokenizer and its chat template."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, end_ids: Iterable[int] = ()) -> None:
        """Learn the template's ways by rendering probes; `end_ids` are further end-of-turn tokens of the model."""
        if not getattr(tokenizer, "is_fast", False):
            raise _problem("this tokenizer has no fast version", "convert it to a tokenizer.json first")
        self.tokenizer: Any = tokenizer
        self._template: str | None = None if tokenizer.chat_template else TRANSCRIPT
        added = {id_: token for id_, token in self.tokenizer.added_tokens_decoder.items() if token.content.strip()}
        self.control_ids: frozenset[int] = frozenset(added)
        self._control = {token.content: id_ for id_, token in added.items()}
        self._pattern = _control_pattern(added.values())
        self._first, self._rest = _plain_encoders(self.tokenizer.backend_tokenizer)
        # What many prompts share (a constitution, few-shot examples) is encoded once.
        self._encoded = functools.lru_cache(maxsize=ENCODED)(self._encode)
        self._bos = self._added_bos()
        self._folds_system: bool | None = None
        self._probe_turns()
        ends = {*end_ids, *self._end_of_turn}
        if self.tokenizer.eos_token_id is not None:
            ends.add(self.tokenizer.eos_token_id)
        self.end_ids: frozenset[int] = frozenset(ends & self.control_ids) or frozenset(ends)
        pad = self.tokenizer.pad_token_id
        self.pad_id: int = pad if pad is not None else min(self.end_ids, default=0)
        self._anchor = self._decoding_anchor()

    def prompt_ids(self, prompt: Dialogue | str, prefill: str = "") -> list[int]:
        """Return the ids that a model continues: the dialogue up to where an answer begins, then the prefill."""
        ids = self._ids(self._layout(prompt))
        return ids + self.answer_ids(prefill, end_of_turn=False, turn=not isinstance(prompt, str)) if prefill else ids

    def answer_ids(self, text: str, *, end_of_turn: bool, turn: bool = True) -> list[int]:
        """Return the ids of an answer, or of a part of one.

        `turn` says that the text stands at the beginning of a turn, where some templates put a space; it is False
        after a prefill and after a raw text.
        """
        ids = self._plain((self._lead if turn else "") + text, first=False)
        return ids + self._end_of_turn if end_of_turn else ids

    def answer_text(self, ids: Iterable[int], *, turn: bool = True) -> str:
        """Return what `answer_ids` would have made these ids from."""
        text = self.decode(ids)
        return text.removeprefix(self._lead) if turn else text

    def example(self, dialogue: Dialogue) -> tuple[list[int], list[int]]:
        """Return the ids of a dialogue that ends with an assistant's turn, and 1 where the loss counts: that turn."""
        if not dialogue or dialogue[-1].role != "assistant":
            raise _problem("a training example must end with a turn of the assistant", "cut the dialogue there")
        prompt = self.prompt_ids(dialogue[:-1])
        answer = self.answer_ids(dialogue[-1].content, end_of_turn=True)
        return prompt + answer, [0] * len(prompt) + [1] * len(answer)

    def shared_length(self, prompt: Dialogue | str, shared: int) -> int:
        """Return how many leading ids of the prompt are fixed by its first `shared` messages (characters of a text).

        The count stops at the last control token or word that no continuation can change.
        """
        if shared <= 0:
            return 0
        if isinstance(prompt, str):
            segments: list[Segment] = [*self._bos, [(prompt[:shared], 0), (prompt[shared:], 1)]]
            shared = 1 if len(prompt) > shared else 2
        else:
            segments = self._layout(prompt)
        count = 0
        for segment in segments:
            if isinstance(segment, int):
                count += 1
            elif all(tag < shared for _, tag in segment):
                count += len(self._run(segment, first=count == 0))
            else:
                return count + self._fixed(segment, shared, first=count == 0)
        return count

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids as it stands after other text: special tokens skipped, nothing cleaned up."""
        text: str = self.tokenizer.decode(
            [*self._anchor, *ids], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text[1:] if self._anchor else text

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """What begins the next person's turn where a template does that with ordinary text (a transcript)."""
        return self._stop_strings

    # --- the template

    def _render(self, messages: Iterable[Message], *, answer: bool) -> str:
        """Render messages to text; InputError says why the template refuses them."""
        dicts = [{"role": message.role, "content": message.content} for message in messages]
        try:
            text: str = self.tokenizer.apply_chat_template(
                dicts,
                tokenize=False,
                add_generation_prompt=answer,
                chat_template=self._template,
                date_string=DATE,
            )
        except (TemplateError, TypeError, KeyError, IndexError) as error:
            refusal = f"the chat template refuses this dialogue: {error}"
            raise _problem(refusal, "change the order of its roles") from error
        return text

    def _probe_turns(self) -> None:
        """Learn what stands around an answer: the space before it, the tokens that end it, the next turn's mark."""
        question, answer = Message("user", _placeholder(0)), Message("assistant", _placeholder(1))
        start = self._render([question], answer=True)
        whole = self._render([question, answer, Message("user", _placeholder(2))], answer=False)
        last = self._render([question, answer], answer=False)
        before, _, after = last.partition(_placeholder(1))
        lead = before.removeprefix(start) if before.startswith(start) else ""
        # Anything but white space here (an empty <think> block) is not what the model was asked to continue.
        self._lead = lead if lead.isspace() else ""
        ending: list[int] = []
        for segment in self._segments(after, {}):
            ending += [segment] if isinstance(segment, int) else self._run(segment, first=False)
            if isinstance(segment, int):
                break
        else:
            eos = self.tokenizer.eos_token_id
            ending = [eos] if eos is not None else ending
        self._end_of_turn = ending
        between = whole.partition(_placeholder(1))[2].partition(_placeholder(2))[0]
        mark = between.rstrip(" ")
        self._stop_strings = (mark,) if mark.strip() and not self._pattern.search(between) else ()

    def _has_system(self) -> bool:
        """Whether the template has a place for a system message."""
        if self._folds_system is None:
            probe = [Message("system", _placeholder(0)), Message("user", _placeholder(1))]
            try:
                self._folds_system = _placeholder(0) not in self._render(probe, answer=True)
            except InputError:
                self._folds_system = True
        return not self._folds_system

    def _layout(self, prompt: Dialogue | str) -> list[Segment]:
        """Return a prompt as control tokens and runs of ordinary text, with exactly one BOS where there is one."""
        if isinstance(prompt, str):
            return [*self._bos, [(prompt, 0)]]
        if not prompt or prompt[-1].role == "assistant":
            raise _problem("a prompt must end with the turn of a person", "give the beginning of an answer as prefill")
        contents: dict[int, list[Piece]] = {}
        messages: list[Message] = []
        fold: list[Piece] = []
        for index, message in enumerate(prompt):
            if message.role == "system" and not self._has_system():
                fold += [(message.content + "\n\n", index)]
                continue
            pieces = [*fold, (message.content, index)]
            fold = []
            placed, contents[index] = _set_aside(pieces, index)
            messages.append(Message(message.role, placed))
        text = self._render(messages, answer=True)
        dropped = [index for index, pieces in contents.items() if pieces and _placeholder(index) not in text]
        if dropped:
            raise _problem(f"the chat template drops message {dropped[0] + 1}", "use another template or role")
        segments = self._segments(text, contents)
        if self._bos and segments[:1] != self._bos:
            return [*self._bos, *segments]
        return segments[1:] if self._bos and segments[:2] == self._bos * 2 else segments

    def _segments(self, text: str, contents: dict[int, list[Piece]]) -> list[Segment]:
        """Split rendered text at the template's control tokens, and put the contents in."""
        segments: list[Segment] = []
        run: list[Piece] = []
        for number, part in enumerate(re.split(f"{OPEN}(\\d+){CLOSE}", text)):
            if number % 2:
                run += contents[int(part)]
                continue
            for is_control, piece in _split(self._pattern, part):
                if is_control:
                    segments += [run] if run else []
                    segments.append(self._control[piece])
                    run = []
                elif piece:
                    run.append((piece, -1))
        return [*segments, run] if run else segments

    # --- encoding

    def _ids(self, segments: list[Segment]) -> list[int]:
        ids: list[int] = []
        for segment in segments:
            ids += [segment] if isinstance(segment, int) else self._run(segment, first=not ids)
        return ids

    def _run(self, pieces: list[Piece], *, first: bool) -> list[int]:
        return self._plain("".join(text for text, _ in pieces), first=first)

    def _plain(self, text: str, *, first: bool) -> list[int]:
        """Encode ordinary text; whatever it says, no control token comes out."""
        return list(self._encoded(text, first)) if text else []

    def _encode(self, text: str, first: bool) -> list[int]:
        encoding = (self._first if first else self._rest).encode(text, add_special_tokens=False)
        ids: list[int] = encoding.ids
        if self.control_ids.isdisjoint(ids):
            return ids
        # Some vocabularies hold their control tokens as ordinary pieces too: cut through the piece, encode both sides.
        place = next(place for place, id_ in enumerate(ids) if id_ in self.control_ids)
        start, end = encoding.offsets[place]
        if end - start < 2:
            raise _problem(f"the tokenizer encodes {text[start:end]!r} as a control token", "use another tokenizer")
        return self._plain(text[: start + 1], first=first) + self._plain(text[start + 1 :], first=False)

    def _fixed(self, pieces: list[Piece], shared: int, *, first: bool) -> int:
        """Return how many leading tokens of a run lie before its first unshared content, whatever that says."""
        length = 0
        for text, tag in pieces:
            if tag >= shared:
                break
            length += len(text)
        text = "".join(text for text, _ in pieces)
        # Tokens reach over the seam at most from the white space before the word that touches it.
        words = re.match(r"(.*\S)\s", text[:length], re.DOTALL)
        encoding = (self._first if first else self._rest).encode(text, add_special_tokens=False)
        if words is None or not self.control_ids.isdisjoint(encoding.ids):
            return 0
        return sum(end <= words.end(1) for _, end in encoding.offsets)

    def _added_bos(self) -> list[Segment]:
        """Return the BOS that the tokenizer puts before a text, if it does."""
        bos = self.tokenizer.bos_token_id
        return [bos] if bos is not None and self.tokenizer("a")["input_ids"][:1] == [bos] else []

    def _decoding_anchor(self) -> list[int]:
        """Return ids to decode before others where the decoder eats a text's leading space (SentencePiece)."""
        ids = self._rest.encode(" a", add_special_tokens=False).ids
        text = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        anchor: list[int] = self._rest.encode("a", add_special_tokens=False).ids
        return anchor if text != " a" else []


def _problem(what: str, fix: str) -> InputError:
    return InputError(Problem("prompt", 0, 0, what, fix))


def _placeholder(number: int) -> str:
    return f"{OPEN}{number}{CLOSE}"


def _set_aside(pieces: list[Piece], number: int) -> tuple[str, list[Piece]]:
    """Return what the template gets in place of a content, and what is put back.

    White space around the content stays with the placeholder, so a template that trims contents trims it.
    """
    whole = "".join(text for text, _ in pieces)
    if not whole.strip():
        return whole, []
    start, end = len(whole) - len(whole.lstrip()), len(whole.rstrip())
    kept: list[Piece] = []
    place = 0
    for text, tag in pieces:
        kept.append((text[max(start - place, 0) : max(end - place, 0)], tag))
        place += len(text)
    return whole[:start] + _placeholder(number) + whole[end:], kept


def _control_pattern(tokens: Iterable[Any]) -> re.Pattern[str]:
    """Return a pattern of the added tokens, longest first, with the white space that they take in on a side."""
    longest_first = sorted(tokens, key=lambda token: -len(token.content))
    return re.compile(
        "|".join(
            (r"\s*" if token.lstrip else "") + f"({re.escape(token.content)})" + (r"\s*" if token.rstrip else "")
            for token in longest_first
        )
        or "(?!)"
    )


def _split(pattern: re.Pattern[str], text: str) -> Iterator[tuple[bool, str]]:
    """Yield ordinary text (False) and the added tokens in it (True), in order."""
    place = 0
    for match in pattern.finditer(text):
        yield False, text[place : match.start()]
        yield True, next(group for group in match.groups() if group is not None)
        place = match.end()
    yield False, text[place:]


def _plain_encoders(backend: tokenizers.Tokenizer) -> tuple[tokenizers.Tokenizer, tokenizers.Tokenizer]:
    """Return copies of a tokenizer without control tokens: for the beginning of a prompt, and for later in it.

    They differ where a tokenizer puts a space before the first word of a text only (SentencePiece's ``first``).
    """
    config = json.loads(backend.to_str())
    config.update(truncation=None, padding=None, post_processor=None)
    config["added_tokens"] = [token for token in config["added_tokens"] if not token["content"].strip()]
    for token in config["added_tokens"]:
        if isinstance(config["model"]["vocab"], dict):
            # Else it would get a new id: those of added tokens outside the vocabulary are counted on from its size.
            config["model"]["vocab"].setdefault(token["content"], token["id"])
    later = copy.deepcopy(config["pre_tokenizer"])
    parts = (later or {}).get("pretokenizers", [later]) if later else []
    for part in parts:
        if part.get("prepend_scheme") == "first":
            part["prepend_scheme"] = "never"
    first = tokenizers.Tokenizer.from_str(json.dumps(config))
    if later == config["pre_tokenizer"]:
        return first, first
    return first, tokenizers.Tokenizer.from_str(json.dumps({**config, "pre_tokenizer": later}))
