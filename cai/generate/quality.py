"""What makes a generated text unfit to train on. Each check is a function that gives a reason or None."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from cai.types import FinishReason

_ABOUT_ANSWER = re.compile(
    r"(?:the|this|your|my) (?:last |first |original |assistant's )*(?:answer|response|critique)\b", re.IGNORECASE
)


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
    """A loop: more than a fifth of its three-word runs have been there before."""
    words = candidate.text.lower().split()
    runs = [tuple(words[i : i + 3]) for i in range(len(words) - 2)]
    return "repetitive" if len(runs) >= 8 and len(set(runs)) < 0.8 * len(runs) else None


def leaked(candidate: Candidate) -> str | None:
    """A revision that speaks of the answer it should replace: the critique has leaked into it."""
    return "speaks of the answer in its place" if candidate.before and _ABOUT_ANSWER.match(candidate.text) else None


def unchanged(candidate: Candidate) -> str | None:
    """A revision that is the answer it was made of."""
    same = candidate.before and candidate.text.split() == candidate.before.split()
    return "equal to the answer before" if same else None


CHECKS: tuple[Callable[[Candidate], str | None], ...] = (empty, repetitive, leaked, unchanged)


def fault(candidate: Candidate) -> str | None:
    """Return the first reason not to use a text, or None."""
    return next((reason for check in CHECKS if (reason := check(candidate))), None)
