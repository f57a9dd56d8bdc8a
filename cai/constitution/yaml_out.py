"""From a constitution to strict YAML that people like to read: its fields in their order, nothing that can be derived.

What is left out comes back when the file is loaded, so the digest stays the same. What strict YAML can't carry (control
characters, separators that can't be seen) is refused here, before a file is written that nobody can load.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from cai.constitution.model import Constitution, Principle
from cai.constitution.render import fill
from cai.errors import InputError, Problem
from cai.strict_yaml import FORBIDDEN, scalar

WIDTH = 118
SCHEMA = "# yaml-language-server: $schema=schema.json"

_PLAIN = re.compile(r"[A-Za-zÀ-ɏ(][^\n\t\r{}\[\]]*")
_WORDS = {"yes", "no", "on", "off", "y", "n", "true", "false", "null"}
"""Unquoted, these are something else to some reader of YAML."""


def to_yaml(constitution: Constitution) -> str:
    """Return the constitution as a YAML file that loads back to the same digest.

    Raises InputError for a character that a file can't hold.
    """
    fields = constitution_fields(constitution)
    principles = fields.pop("principles")
    shots = {name: fields.pop(name) for name in ("few_shots", "comparison_shots") if name in fields}
    text = yaml_text(fields, name=constitution.name) + "\nprinciples:\n"
    text += "\n".join(_item(item, constitution.name) for item in principles)
    for name, items in shots.items():
        text += f"\n{name}:\n" + "\n".join(_item(item, constitution.name) for item in items)
    return text


def constitution_fields(constitution: Constitution) -> dict[str, Any]:
    """Return what a file has to say: plain values, without what is empty, default or derived."""
    fields = _fields(constitution)
    fields["principles"] = [principle_fields(item, constitution) for item in constitution.principles]
    return fields


def principle_fields(principle: Principle, constitution: Constitution) -> dict[str, Any]:
    """Return what a file has to say of one principle of a constitution."""
    fields = _fields(principle)
    bare = Principle.model_validate({"id": principle.id, "text": principle.text})
    derived = {name: fill(made, text=principle.text) for name, made in constitution.wordings.model_dump().items()}
    derived |= {"title": bare.title, "framing": bare.framing}
    fields["framing"] = principle.framing  # what it is when it is left out depends on the text
    return {
        name: fields[name] for name in Principle.model_fields if name in fields and fields[name] != derived.get(name)
    }


def yaml_text(fields: dict[str, Any], *, name: str) -> str:
    """Return a mapping as lines of strict YAML; `name` is what an error calls it."""
    return "".join(f"{line}\n" for line in _mapping(fields, 0, name))


def _fields(part: BaseModel) -> dict[str, Any]:
    kept = {}
    for name, field in type(part).model_fields.items():
        value = getattr(part, name)
        default = field.get_default(call_default_factory=True)
        if value in ("", None, (), []) or (not field.is_required() and value == default):
            continue
        kept[name] = _plain(value)
    return kept


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return _fields(value)
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _item(fields: dict[str, Any], name: str) -> str:
    return "".join(f"{line}\n" for line in _sequence([fields], 2, name))


def _mapping(fields: dict[str, Any], indent: int, name: str) -> Iterator[str]:
    for key, value in fields.items():
        head = f"{' ' * indent}{_scalar(str(key), name)}:"
        if isinstance(value, dict) and value:
            yield head
            yield from _mapping(value, indent + 2, name)
        elif isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
            yield head
            yield from _sequence(value, indent + 2, name)
        elif isinstance(value, list):
            flow = f"{head} [{', '.join(_flow(item, name) for item in value)}]"
            if len(flow) <= WIDTH:
                yield flow
            else:
                yield head
                yield from _sequence(value, indent + 2, name)
        elif isinstance(value, str):
            yield from _text(head, value, indent + 2, name)
        else:
            yield f"{head} {json.dumps(value)}"


def _sequence(items: list[Any], indent: int, name: str) -> Iterator[str]:
    for item in items:
        if isinstance(item, dict) and item:
            first, *others = _mapping(item, indent + 2, name)
            yield f"{' ' * indent}- {first.lstrip()}"
            yield from others
        elif isinstance(item, str):
            yield from _text(f"{' ' * indent}-", item, indent + 2, name)
        else:
            yield f"{' ' * indent}- {json.dumps(item)}"


def _text(head: str, text: str, indent: int, name: str) -> Iterator[str]:
    """Yield a text after its key: plain or quoted when it is short, else folded, else literal with its lines."""
    short = f"{head} {_scalar(text, name)}"
    block = text == text.strip() and not re.search(r"[\t\r]", text) and text
    if not block or ("\n" not in text and len(short) <= WIDTH):
        yield short
    elif "\n" not in text and "  " not in text:
        yield f"{head} >-"
        yield from _folded(text, indent)
    else:
        yield f"{head} |-"
        for line in text.split("\n"):
            yield f"{' ' * indent}{line}" if line else ""


def _folded(text: str, indent: int) -> Iterator[str]:
    line = " " * indent
    for word in text.split(" "):
        if line.strip() and len(line) + 1 + len(word) > WIDTH:
            yield line
            line = " " * indent
        line += f" {word}" if line.strip() else word
    yield line


def _scalar(text: str, name: str) -> str:
    if found := FORBIDDEN.search(text):
        problem = f"the character U+{ord(found.group()):04X}, which a file can't hold, in {text[:40]!r}"
        raise InputError(Problem(name, 0, 0, problem, "remove it"))
    plain = (
        _PLAIN.fullmatch(text)
        and text == text.strip()
        and ": " not in text
        and " #" not in text
        and not text.endswith(":")
        and text.lower() not in _WORDS
        and scalar(text) == text
    )
    return text if plain else json.dumps(text, ensure_ascii=False)


def _flow(item: Any, name: str) -> str:
    if not isinstance(item, str):
        return json.dumps(item)
    said = _scalar(item, name)
    return json.dumps(item, ensure_ascii=False) if said == item and re.search(r"[,:#]", item) else said
