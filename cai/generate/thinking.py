"""The thinking part of a reasoning model's text, told apart from its answer by the marks around it.

Left out: marks that an engine takes out of the text before it comes here (control tokens that decoding skips), and
servers that send the thinking in a field of its own; their texts are answers already.
"""

import re
from collections.abc import Iterable

from pydantic import Field

from cai.config import Config

Marks = tuple[str, str]

KNOWN: tuple[Marks, ...] = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<seed:think>", "</seed:think>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
)
"""Marks that models are known to use."""


class ThinkingConfig(Config):
    """How a model thinks."""

    marks: list[Marks] = Field(default_factory=list)
    """What the model writes before and after its thinking, as [[before, after]]; the common marks are known."""
    opened: bool = False
    """The chat template writes the mark before the thinking: a text without the mark after it is all thinking."""
    tokens: int = Field(0, ge=0)
    """Tokens for thinking, on top of those for the answer."""


def split_thinking(text: str, config: ThinkingConfig) -> tuple[str, str | None]:
    """Return thinking and answer of a text; None for an answer that was never begun.

    Thinking stands between its marks at the beginning of a text and, for models that think on the way, later in it.
    The mark before it is lacking where the template wrote it; the one after it then has a line of its own.

    >>> split_thinking("<think>Be kind.</think>Please don't.", ThinkingConfig())
    ('Be kind.', "Please don't.")
    """
    marks = [*config.marks, *KNOWN]
    for before, after in marks:
        if text.lstrip().startswith(before):
            return _between(text, before, after)
    for before, after in marks:
        alone = re.search(rf"{'' if config.opened else r'(?m:^)[ ]*'}{re.escape(after)}", text)
        if alone and before not in text[: alone.start()]:
            return _between(before + text, before, after)
    return (text.strip(), None) if config.opened else ("", text.strip())


def _between(text: str, before: str, after: str) -> tuple[str, str | None]:
    thoughts: list[str] = []
    said: list[str] = []
    for number, part in enumerate(text.split(before)):
        thought, ended, answer = part.partition(after) if number else ("", after, part)
        thoughts.append(thought.strip())
        if not ended:
            return "\n\n".join(filter(None, thoughts)), None
        said.append(answer.strip())
    return "\n\n".join(filter(None, thoughts)), "\n\n".join(filter(None, said))


def join_thinking(thinking: str, answer: str, config: ThinkingConfig) -> str:
    """Return the text that a reasoning model would have written, for training; without thinking, the answer."""
    if not thinking:
        return answer
    before, after = [*config.marks, *KNOWN][0]
    return f"{'' if config.opened else before}\n{thinking}\n{after}\n\n{answer}".lstrip("\n")


def cut(text: str, stops: Iterable[str]) -> str:
    """Return a text up to the first of some strings, without white space around it."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(places, default=len(text))].strip()
