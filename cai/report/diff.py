"""What changed between two texts, word by word."""

import difflib
import re
from typing import Literal, NamedTuple

Change = Literal["same", "gone", "new"]

UNLIKE = 0.25
"""Below this share of common letters the later answer is marked whole: scattered words in common mislead."""

LONGEST = 6000
"""Tokens of both texts together beyond which no words are compared: the matcher's time grows with their product."""

_TOKEN = re.compile(r"\s+|\w+(?:['’-]\w+)*|[^\w\s]")


class Segment(NamedTuple):
    """A stretch of text that both have, that only the earlier one has, or that only the later one has."""

    change: Change
    text: str


def compare_words(before: str, after: str) -> list[Segment]:
    """Return the segments of both texts in order.

    The earlier text is all segments but the new ones; the later is all but those that are gone.

    >>> [tuple(segment) for segment in compare_words("Use a sharp knife", "Use a dull knife")]
    [('same', 'Use a '), ('gone', 'sharp'), ('new', 'dull'), ('same', ' knife')]
    """
    if before == after:
        return [Segment("same", before)] if before else []
    old, new = _TOKEN.findall(before), _TOKEN.findall(after)
    if len(old) + len(new) > LONGEST:
        return _changed(before, after)
    matcher = difflib.SequenceMatcher(str.isspace, old, new, autojunk=False)
    if _likeness(matcher, old, new) < UNLIKE:
        return _changed(before, after)
    segments: list[Segment] = []
    gone = made = ""
    for tag, i1, i2, j1, j2 in matcher.get_opcodes():
        left, right = "".join(old[i1:i2]), "".join(new[j1:j2])
        bridge = tag == "equal" and (gone or made) and left.isspace() and j2 < len(new) and i2 < len(old)
        if tag != "equal" or bridge:  # a lone space between two changes belongs to them
            gone, made = gone + left, made + right
            continue
        segments += _changed(gone, made)
        gone = made = ""
        segments.append(Segment("same", left))
    return segments + _changed(gone, made)


def share_changed(segments: list[Segment]) -> float:
    """Return the share of both texts' characters that the two do not have in common, from 0 to 1."""
    same = 2 * sum(len(segment.text) for segment in segments if segment.change == "same")
    other = sum(len(segment.text) for segment in segments if segment.change != "same")
    return other / (same + other) if same + other else 0.0


def _likeness(matcher: difflib.SequenceMatcher[str], old: list[str], new: list[str]) -> float:
    """Return the share of both texts' letters that the two have in common; spaces are in every text."""
    common = sum(len(token) for at, _, size in matcher.get_matching_blocks() for token in old[at : at + size]
                 if not token.isspace())  # fmt: skip
    total = sum(len(token) for token in (*old, *new) if not token.isspace())
    return 2 * common / total if total else 1.0


def _changed(gone: str, made: str) -> list[Segment]:
    return [Segment("gone", gone)] * bool(gone) + [Segment("new", made)] * bool(made)
