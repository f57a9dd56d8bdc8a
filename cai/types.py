"""The glossary: the few words that every layer uses.

A **dialogue** is a tuple of messages that ends with the turn of a person; a **completion** is what a model answers to
it. Everything else that flows (drafts, critiques, revisions, preferences) is a record: `cai.records.schema`.
"""

from typing import Literal, NamedTuple

Role = Literal["system", "user", "assistant"]

FinishReason = Literal["stop", "length"]
"""``stop``: the model ended its turn, or a stop string came. ``length``: cut off at the limit of new tokens."""


class Message(NamedTuple):
    """One turn of a dialogue.

    >>> Message("user", "How do I boil an egg?").role
    'user'
    """

    role: Role
    content: str


Dialogue = tuple[Message, ...]


class Usage(NamedTuple):
    """Tokens that a request cost: read (`prompt`, those of a shared prefix included) and written (`completion`)."""

    prompt: int
    completion: int
