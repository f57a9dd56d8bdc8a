"""What makes a generated text unfit to train on. Each check is a function that gives a reason or None."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from cai.types import FinishReason


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A text to check, with what it came from."""

    text: str
    finish_reason: FinishReason
    before: str = ""
    """The answer that a revision was made of; empty for a draft."""


def empty(candidate: Candidate) -> str | None:
    """Nothing but white space or punctuation."""
    return None if re.search(r"\w", candidate.text) else "empty"


def repetitive(candidate: Candidate) -> str | None:
    """A loop: more than half of its four-word runs have been there before."""
    words = candidate.text.split()
    runs = [tuple(words[i : i + 4]) for i in range(len(words) - 3)]
    return "repetitive" if len(runs) >= 8 and len(set(runs)) < len(runs) / 2 else None


def unchanged(candidate: Candidate) -> str | None:
    """A revision that is the answer it was made of."""
    same = candidate.before and candidate.text.split() == candidate.before.split()
    return "equal to the answer before" if same else None


CHECKS: tuple[Callable[[Candidate], str | None], ...] = (empty, repetitive, unchanged)


def fault(candidate: Candidate) -> str | None:
    """Return the first reason not to use a text, or None."""
    return next((reason for check in CHECKS if (reason := check(candidate))), None)
