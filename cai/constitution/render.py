"""Prompts out of templates: each placeholder is filled once, and what is filled in is never read as a template."""

import re
from collections.abc import Sequence

from cai.types import Message

_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")

SPEAKERS = {"user": "Human", "assistant": "Assistant", "system": "System"}
"""How a quoted dialogue names who speaks."""


def fill(template: str, **values: str) -> str:
    """Return a template with each ``{name}`` replaced by its value, in one pass over the template.

    Braces in a value stay as they are, whatever they look like. Raises KeyError for a name that has no value.

    >>> fill("Say {what}!", what="{what} and {{7*7}}")
    'Say {what} and {{7*7}}!'
    """
    return _PLACEHOLDER.sub(lambda match: values[match.group(1)], template)


def transcript(dialogue: Sequence[Message]) -> str:
    r"""Return a dialogue as text to quote.

    >>> transcript([Message("user", "Hi"), Message("assistant", "Hello!")])
    'Human: Hi\n\nAssistant: Hello!'
    """
    return "\n\n".join(f"{SPEAKERS[message.role]}: {message.content}" for message in dialogue)
