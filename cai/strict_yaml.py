"""A strict reader of YAML 1.2: every value keeps its place, and what can surprise or attack is refused by line.

Refused: duplicate keys (both lines are named), anchors, aliases and merge keys (they can grow without bound), tags
(they can name code), several documents, deep nesting, control characters, anything that is not UTF-8, more than 1 MiB.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from cai.errors import InputError, Problem

MAX_BYTES = 1 << 20
MAX_DEPTH = 32

Location = tuple[str | int, ...]
Place = tuple[int, int]

M = TypeVar("M", bound=BaseModel)

_PLAIN_WORDS = {"yes", "no", "on", "off", "y", "n"}
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffe\uffff]")


@dataclass(frozen=True)
class Tree:
    """What a file says, in plain Python types, and where each part of it stands.

    `values` maps the location of a value to its line and column; `keys` that of a mapping's entry to its key's.
    """

    name: str
    data: Any
    values: Mapping[Location, Place]
    keys: Mapping[Location, Place]

    def place(self, location: Location) -> Place:
        """Return where a value is, or the nearest thing around it that the file has."""
        while location and location not in self.values:
            location = location[:-1]
        return self.values.get(location, (1, 1))


def load(source: Path | str, *, name: str | None = None) -> Tree:
    """Read a file (a Path) or a text; `name` is what errors call it.

    Raises InputError for a file that can't be read and for all that this module refuses.
    """
    shown = name or str(source if isinstance(source, Path) else "text")
    text = _read(source, shown) if isinstance(source, Path) else source
    _check_text(text, shown)
    return _Reader(shown).read(text)


def validate(model: type[M], tree: Tree) -> M:
    """Return the model of a tree's data; raises InputError with the place of every part that does not fit."""
    try:
        return model.model_validate(tree.data)
    except ValidationError as error:
        raise InputError(problems_of(error, tree, model)) from error


def problems_of(error: ValidationError, tree: Tree, model: type[BaseModel]) -> list[Problem]:
    """Return one problem per complaint of pydantic, with its place in the file."""
    found = []
    for item in error.errors():
        location = tuple(item["loc"])
        line, col = tree.place(location)
        shown = ".".join(map(str, location)) or "the file"
        if item["type"] == "extra_forbidden":
            line, col = tree.keys.get(location, (line, col))
            problem = f"unknown key {location[-1]!r}"
            fix = suggestion(str(location[-1]), known_keys(model, location[:-1]))
        elif item["type"] == "missing":
            problem, fix = f"{shown!r} is missing", "add it"
        else:
            message = item["msg"].removeprefix("Value error, ")
            said, _, advice = message.partition("; ")
            problem, fix = f"{shown}: {said}", advice or "mend the value"
        found.append(Problem(tree.name, line, col, problem, fix))
    return found


def known_keys(model: type[BaseModel], location: Location) -> list[str]:
    """Return the keys that a model allows at a location, as far as its annotations tell."""
    current: Any = model
    for part in location:
        if isinstance(part, int):
            continue
        field = getattr(current, "model_fields", {}).get(part)
        if field is None:
            return []
        current = next(iter(_models_in(field.annotation)), None)
    return list(getattr(current, "model_fields", {}))


def _models_in(annotation: Any) -> Iterable[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _models_in(inner)


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return a fix for an unknown word: the nearest known one, or all of them.

    >>> suggestion("wieght", ["weight", "text"])
    "did you mean 'weight'?"
    """
    names = list(known)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"use one of {', '.join(names)}" if names else "remove it"


def _read(path: Path, name: str) -> str:
    if path.is_dir():
        raise InputError(Problem(name, 0, 0, "this is a folder", "name a file"))
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(Problem(name, 0, 0, f"can't be read: {error.strerror}", "check the path")) from error
    if len(raw) > MAX_BYTES:
        raise InputError(Problem(name, 0, 0, "larger than 1 MiB", "split it into several files"))
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(Problem(name, 1, 1, "UTF-16, not UTF-8", "save the file as UTF-8"))
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        col = error.start - (raw.rfind(b"\n", 0, error.start) + 1) + 1
        raise InputError(Problem(name, line, col, "not UTF-8", "save the file as UTF-8")) from error


def _check_text(text: str, name: str) -> None:
    for number, line in enumerate(text.split("\n"), start=1):
        found = _FORBIDDEN.search(line)
        if found:
            code = ord(found.group())
            raise InputError(Problem(name, number, found.start() + 1, f"control character U+{code:04X}", "remove it"))
        indent = line[: len(line) - len(line.lstrip())]
        if "\t" in indent:
            raise InputError(Problem(name, number, indent.index("\t") + 1, "a tab in the indentation", "use spaces"))


class _Reader:
    """Builds the tree from the parser's events, so nothing is ever constructed that the file asks for."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.values: dict[Location, Place] = {}
        self.keys: dict[Location, Place] = {}
        self.resolver = YAML(typ="safe", pure=True)

    def read(self, text: str) -> Tree:
        try:
            events = iter(self._guarded(YAML(typ="safe", pure=True).parse(text)))
            first = next((event for event in events if isinstance(event, NodeEvent)), None)
            if first is None:
                raise InputError(Problem(self.name, 1, 1, "the file is empty", "write the settings it should hold"))
            data = self._node(first, events, ())
            for _ in events:
                pass
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line, col = (mark.line + 1, mark.column + 1) if mark else (1, 1)
            raise InputError(Problem(self.name, line, col, f"bad YAML: {error.problem}", "mend the line")) from error
        except YAMLError as error:
            raise InputError(Problem(self.name, 1, 1, f"bad YAML: {str(error).splitlines()[0]}", "mend it")) from error
        return Tree(self.name, data, self.values, self.keys)

    def _guarded(self, events: Iterable[Any]) -> Iterable[Any]:
        depth = documents = 0
        for event in events:
            if isinstance(event, DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise self._refused(event, "a second document", "keep one document in the file")
            elif isinstance(event, (MappingStartEvent, SequenceStartEvent)):
                depth += 1
                if depth > MAX_DEPTH:
                    raise self._refused(event, f"nested more than {MAX_DEPTH} deep", "flatten it")
            elif isinstance(event, (MappingEndEvent, SequenceEndEvent)):
                depth -= 1
            if isinstance(event, AliasEvent):
                raise self._refused(event, f"an alias (*{event.anchor})", "write the value out")
            if isinstance(event, NodeEvent) and event.anchor:
                raise self._refused(event, f"an anchor (&{event.anchor})", "write the value out where it is needed")
            tag = getattr(event, "tag", None)
            if isinstance(event, NodeEvent) and tag:
                raise self._refused(event, f"a tag ({tag})", "remove it")
            yield event

    def _node(self, event: Any, events: Any, location: Location) -> Any:
        place = self._place(event)
        self.values[location] = place
        if isinstance(event, MappingStartEvent):
            return self._mapping(events, location)
        if isinstance(event, SequenceStartEvent):
            items: list[Any] = []
            while not isinstance(event := next(events), SequenceEndEvent):
                items.append(self._node(event, events, (*location, len(items))))
            return items
        return self._scalar(event)

    def _mapping(self, events: Any, location: Location) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while not isinstance(event := next(events), MappingEndEvent):
            if not isinstance(event, ScalarEvent):
                raise self._refused(event, "a key that is not a word", "use plain words as keys")
            key = str(event.value)
            if key == "<<" and event.style is None:
                raise self._refused(event, "a merge key (<<)", "write the keys out")
            here = (*location, key)
            if key in found:
                line = self.keys[here][0]
                raise self._refused(event, f"the key {key!r} is there already, in line {line}", "keep one of them")
            self.keys[here] = self._place(event)
            found[key] = self._node(next(events), events, here)
        return found

    def _scalar(self, event: Any) -> Any:
        text = event.value
        if event.style is not None:
            return text
        if text.lower() in _PLAIN_WORDS:
            problem = f"an unquoted {text!r}: a word to some, true or false to others"
            raise self._refused(event, problem, f'write "{text}" in quotes, true, or false')
        return scalar(text)

    def _place(self, event: Any) -> Place:
        mark = event.start_mark
        return mark.line + 1, mark.column + 1

    def _refused(self, event: Any, problem: str, fix: str) -> InputError:
        return InputError(Problem(self.name, *self._place(event), problem, fix))


_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})")
_FLOAT = re.compile(r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)(?:[eE][-+]?[0-9]{1,3})?")


def scalar(text: str) -> Any:
    """Return what an unquoted word means: null, true, false, a number of YAML's core schema, else the text.

    >>> [scalar(word) for word in ("3", "2e-5", "true", "null", "1.0.0")]
    [3, 2e-05, True, None, '1.0.0']
    """
    if text in ("", "null", "~"):
        return None
    if text in ("true", "false"):
        return text == "true"
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text
