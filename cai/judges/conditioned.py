"""A preference model that is told by which principle it judges (SALMON: Sun et al. 2023, arXiv 2310.05910).

The principle stands before the dialogue, in the system's turn, and is never cut off. That a model reads one, and in
which words, is kept with its tokenizer, as its chat template is: it stays through adapters, merging and copies.
"""

from collections.abc import Mapping
from typing import Any

from cai.engines.render import Renderer
from cai.types import Dialogue, Message

WORDING = "Judge the assistant's last answer by this: {text}"
"""How a principle is put; `{text}` is its place."""

KEY = "principle_wording"
"""In `tokenizer_config.json`."""


def wording_of(tokenizer: Any) -> str | None:
    """Return the words in which a tokenizer's model reads principles; None for a model that reads none."""
    return wording_in(tokenizer.init_kwargs)


def wording_in(settings: Mapping[str, Any]) -> str | None:
    """Return the same of what `tokenizer_config.json` holds."""
    found = settings.get(KEY)
    return found if isinstance(found, str) and "{text}" in found else None


def remember(tokenizer: Any) -> None:
    """Let a tokenizer say, also when it is saved and loaded, that its model reads principles."""
    tokenizer.init_kwargs[KEY] = wording_of(tokenizer) or WORDING


def told(dialogue: Dialogue, principle: str, wording: str = WORDING) -> Dialogue:
    """Return a dialogue that begins with a principle, before what the system says; "" leaves it as it is.

    >>> told((Message("user", "A fox?"),), "Be kind.")[0].content
    "Judge the assistant's last answer by this: Be kind."
    """
    if not principle.strip():
        return dialogue
    text = wording.replace("{text}", principle.strip())
    if dialogue and dialogue[0].role == "system":
        return (Message("system", f"{text}\n\n{dialogue[0].content}"), *dialogue[1:])
    return (Message("system", text), *dialogue)


def kept_ids(renderer: Renderer, dialogue: Dialogue, principle: str) -> int:
    """Return how many leading ids of a told dialogue are its principle's (and the system's), which are not cut off."""
    return renderer.shared_length(dialogue, 1) if principle.strip() else 0
