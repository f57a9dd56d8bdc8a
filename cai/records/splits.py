"""Train and held-out prompts, told apart by a hash before anything is generated.

Whether a prompt is held out depends on its text alone: no file order, no seed, no later edit of the set can move a
prompt from one side to the other, so nothing is ever scored on what an earlier generation was trained on.
"""

import re
import unicodedata
from collections.abc import Iterable
from typing import TypeVar

from cai.records.schema import Prompt
from cai.storage import digest
from cai.types import Dialogue

HELD_OUT_SHARE = 0.25

P = TypeVar("P", bound=Prompt)


def _normal(text: str) -> str:
    # Letter case, punctuation, spacing and ways to encode an accent must not put one prompt on both sides.
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold()))


def said_in(prompt: Prompt) -> str:
    """Return a hash of what the person says in a prompt: the same for prompts that differ in form only."""
    return said(prompt.messages)


def said(dialogue: Dialogue) -> str:
    """Return a hash of what the person says in a dialogue: the same for dialogues that differ in form only."""
    return digest(["split", [_normal(message.content) for message in dialogue if message.role == "user"]])


def is_held_out(prompt: Prompt, *, share: float = HELD_OUT_SHARE) -> bool:
    """Tell whether a prompt is kept for evaluation, by a hash of what the person says in it."""
    return int(said_in(prompt)[:12], 16) < share * 16**12


def split(prompts: Iterable[P], *, share: float = HELD_OUT_SHARE) -> tuple[list[P], list[P]]:
    """Return the prompts to train on and those held out, each in the order given."""
    train: list[P] = []
    held_out: list[P] = []
    for prompt in prompts:
        (held_out if is_held_out(prompt, share=share) else train).append(prompt)
    return train, held_out
