"""Prompts out of templates: each placeholder is filled once, and what is filled in is never read as a template."""

import re
from collections.abc import Sequence

from cai.errors import InputError, Problem
from cai.types import Message

_PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")

SPEAKERS = {"user": "Human", "assistant": "Assistant", "system": "System"}
"""How a quoted dialogue names who speaks."""


def placeholders(template: str) -> list[str]:
    """Return the names in a template's ``{name}`` places, in their order; a name that is there twice is given twice.

    Other braces (``{}``, ``{"key": 1}``, ``{% if %}``) are text.
    """
    return _PLACEHOLDER.findall(template)


def fill(template: str, /, **values: str) -> str:
    """Return a template with each ``{name}`` replaced by its value, in one pass over the template.

    Braces in a value stay as they are, whatever they look like. Raises InputError for a name that has no value: then
    the template is wrong, and half-filled it would only make a bad prompt.

    >>> fill("Say {what}!", what="{what} and {{7*7}}")
    'Say {what} and {{7*7}}!'
    """

    def value(match: re.Match[str]) -> str:
        if match.group(1) in values:
            return values[match.group(1)]
        line = template.count("\n", 0, match.start()) + 1
        col = match.start() - template.rfind("\n", 0, match.start())
        fix = f"use {', '.join(f'{{{name}}}' for name in values) or 'none'}"
        raise InputError(Problem("template", line, col, f"unknown placeholder {match.group()}", fix))

    return _PLACEHOLDER.sub(value, template)


def transcript(dialogue: Sequence[Message]) -> str:
    r"""Return a dialogue as text to quote.

    >>> transcript([Message("user", "Hi"), Message("assistant", "Hello!")])
    'Human: Hi\n\nAssistant: Hello!'
    """
    return "\n\n".join(f"{SPEAKERS[message.role]}: {message.content}" for message in dialogue)
