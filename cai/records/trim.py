"""Texts that were cut off at the limit of tokens, brought back to their last whole sentence."""

import re

_END = re.compile(r"[.!?…][\"'”’)\]]*(?=\s|$)|```(?=\s*$)")
"""Where a sentence, or a block of code, ends."""


def to_last_sentence(text: str) -> str:
    """Return a text up to its last whole sentence; empty when it has none.

    A text that stops in mid-sentence must not be trained on with an end of turn behind it: that teaches a model to stop
    anywhere.

    >>> to_last_sentence("I can't help with that. You could ask a fr")
    "I can't help with that."
    """
    ends = [match.end() for match in _END.finditer(text)]
    return text[: ends[-1]].rstrip() if ends else ""
