"""A strict reader of YAML 1.2: every value keeps its place, and what can surprise or attack is refused by line.

Refused: duplicate keys (both lines are named), anchors, aliases and merge keys (they can grow without bound), tags
(they can name code), directives, several documents, deep nesting, tabs, control characters, anything that is not UTF-8,
more than 1 MiB; and unquoted words that other readers take for something else (``no``, ``007``, ``0x1f``, ``.inf``).
"""

import difflib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

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

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_PARTS = 30_000
"""Keys and values: about a second of reading. A constitution of 1,000 principles with all their wordings has 20,000."""
MAX_PROBLEMS = 100
"""After so many the reading stops."""

Location = tuple[str | int, ...]
Place = tuple[int, int]

M = TypeVar("M", bound="BaseModel")

_PLAIN_WORDS = {"yes", "no", "on", "off", "y", "n"}
_LINE_END = re.compile(r"\r\n|\r|\n")
FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")
"""Controls, separators that only some take for a line's end, byte order marks inside, halves of characters."""

_ODD_NUMBER = re.compile(r"[-+]?(?:0[0-9_]+|0x[0-9a-f_]+|0o[0-7_]+|0b[01_]+|\.inf)|\.nan", re.IGNORECASE)
"""Numbers in one version of YAML and words, or other numbers, in the next."""

_FIXES = {
    "string_type": "write a text, in quotes if it looks like something else",
    "string_too_short": "write a text, or leave the key out",
    "string_too_long": "shorten it",
    "tuple_type": "write a list: one '- ' per item",
    "list_type": "write a list: one '- ' per item",
    "model_type": "write it as 'key: value' lines",
    "model_attributes_type": "write it as 'key: value' lines",
    "dict_type": "write it as 'key: value' lines",
}
"""What to do about a complaint of pydantic, by its type."""


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
        return self.values.get(self.known(location), (1, 1))

    def known(self, location: Location) -> Location:
        """Return the part of a location that the file has; pydantic puts names of union members in between."""
        here: Location = ()
        for part in location:
            if (*here, part) in self.values:
                here = (*here, part)
        return here


def load(source: Path | str, *, name: str | None = None) -> Tree:
    """Read a file (a Path) or a text; `name` is what errors call it.

    Raises InputError for a file that can't be read and for all that this module refuses.
    """
    shown = name or str(source if isinstance(source, Path) else "text")
    text = read_text(source, shown) if isinstance(source, Path) else source.removeprefix("\ufeff")
    if len(text) > MAX_BYTES:
        raise InputError(Problem(shown, 0, 0, "larger than 1 MiB", "split it into several files"))
    _check_text(text, shown)
    return _Reader(shown).read(text)


def validate(model: type[M], tree: Tree) -> M:
    """Return the model of a tree's data; raises InputError with the place of every part that does not fit."""
    from pydantic import ValidationError

    try:
        return model.model_validate(tree.data)
    except ValidationError as error:
        raise InputError(problems_of(error, tree, model)) from error


def problems_of(error: "ValidationError", tree: Tree, model: type["BaseModel"]) -> list[Problem]:
    """Return one problem per complaint of pydantic, with its place in the file."""
    found = []
    for item in error.errors():
        location = tuple(item["loc"])
        line, col = tree.place(location)
        shown = ".".join(map(str, location)) or "the file"
        if item["type"] == "extra_forbidden":
            line, col = tree.keys.get(tree.known(location), (line, col))
            problem = f"unknown key {location[-1]!r}"
            fix = suggestion(str(location[-1]), known_keys(model, location[:-1]))
        elif item["type"] == "missing":
            problem, fix = f"{shown!r} is missing", "add it"
        else:
            message = item["msg"].removeprefix("Value error, ")
            said, _, advice = message.partition("; ")
            problem, fix = f"{shown}: {said}", advice or _FIXES.get(item["type"], "mend the value")
            if item["type"] == "literal_error" and isinstance(item["input"], str):
                fix = suggestion(item["input"], re.findall(r"'([^']*)'", item["ctx"]["expected"]))
        found.append(Problem(tree.name, line, col, problem, fix))
    return found


def known_keys(model: type["BaseModel"], location: Location) -> list[str]:
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


def _models_in(annotation: Any) -> Iterable[type["BaseModel"]]:
    if hasattr(annotation, "model_fields"):
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


def read_text(path: Path, name: str) -> str:
    """Return a file's text; raises InputError for one that can't be read, is too large or is not UTF-8."""
    try:
        if path.is_dir():
            raise InputError(Problem(name, 0, 0, "this is a folder", "name a file"))
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        said = getattr(error, "strerror", None) or str(error)
        raise InputError(Problem(name, 0, 0, f"can't be read: {said}", "check the path")) from error
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
    problems = []
    for number, line in enumerate(_LINE_END.split(text), start=1):
        if found := FORBIDDEN.search(line):
            problem = f"the character U+{ord(found.group()):04X}, which can't be seen"
            problems.append(Problem(name, number, found.start() + 1, problem, "remove it"))
        if line.startswith("%"):
            problems.append(Problem(name, number, 1, "a directive (%)", "remove it, or quote the text"))
        if "\t" in line:
            fix = 'use spaces; in a text, "\\t" inside double quotes'
            problems.append(Problem(name, number, line.index("\t") + 1, "a tab", fix))
    if problems:
        raise InputError(problems)


class _Reader:
    """Builds the tree from the parser's events, so nothing is ever constructed that the file asks for."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.values: dict[Location, Place] = {}
        self.keys: dict[Location, Place] = {}
        self.problems: list[Problem] = []
        """What does not stop the reading, so that all of it is told at once."""
        self.last: Place = (1, 1)

    def read(self, text: str) -> Tree:
        try:
            events = self._guarded(self._parsed(text))
            first = next((event for event in events if isinstance(event, NodeEvent)), None)
            if first is None or (isinstance(first, ScalarEvent) and first.style is None and not first.value):
                raise InputError(Problem(self.name, 1, 1, "the file is empty", "write the settings it should hold"))
            data = self._node(first, events, ())
            for _ in events:
                pass
        except InputError as error:
            raise InputError([*self.problems, *error.problems]) from error.__cause__
        if self.problems:
            raise InputError(self.problems)
        return Tree(self.name, data, self.values, self.keys)

    def _parsed(self, text: str) -> Iterator[Any]:
        try:
            for event in YAML(typ="safe", pure=True).parse(text):
                self.last = self._place(event)
                yield event
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line, col = (mark.line + 1, mark.column + 1) if mark else self.last
            # After a forgotten closing quote or bracket the end of the file says little: its beginning says more.
            opened = error.context_mark
            since = f" (it begins in line {opened.line + 1})" if opened and opened.line + 1 < line else ""
            problem = f"bad YAML: {error.problem}{since}"
            raise InputError(Problem(self.name, line, col, problem, "mend the line")) from error
        except Exception as error:  # a slip of the parser's own, as for "\UFFFFFFFF": the text is bad all the same
            said = str(error).partition("\n")[0] if isinstance(error, YAMLError) else "it can't be understood"
            raise InputError(Problem(self.name, *self.last, f"bad YAML after this: {said}", "mend it")) from error

    def _guarded(self, events: Iterable[Any]) -> Iterator[Any]:
        depth = documents = parts = 0
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
            parts += isinstance(event, NodeEvent)
            if parts > MAX_PARTS:
                raise self._refused(event, f"more than {MAX_PARTS} keys and values", "split it into several files")
            if isinstance(event, AliasEvent):
                raise self._refused(event, f"an alias (*{event.anchor})", "write the value out")
            if isinstance(event, NodeEvent) and event.anchor:
                raise self._refused(event, f"an anchor (&{event.anchor})", "write the value out where it is needed")
            tag = getattr(event, "tag", None)
            if isinstance(event, NodeEvent) and tag:
                raise self._refused(event, f"a tag ({tag})", "remove it")
            yield event

    def _node(self, event: Any, events: Iterator[Any], location: Location) -> Any:
        self.values[location] = self._place(event)
        if isinstance(event, MappingStartEvent):
            return self._mapping(events, location)
        if isinstance(event, SequenceStartEvent):
            items: list[Any] = []
            while not isinstance(event := next(events), SequenceEndEvent):
                items.append(self._node(event, events, (*location, len(items))))
            return items
        return self._scalar(event)

    def _mapping(self, events: Iterator[Any], location: Location) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while not isinstance(event := next(events), MappingEndEvent):
            if not isinstance(event, ScalarEvent):
                raise self._refused(event, "a key that is not a word", "use plain words as keys")
            key = self._text(event)
            if key == "<<" and event.style is None:
                raise self._refused(event, "a merge key (<<)", "write the keys out")
            here = (*location, key)
            if key in found:
                line = self.keys[here][0]
                self._note(event, f"the key {key!r} is there already, in line {line}", "keep one of them")
            else:
                self.keys[here] = self._place(event)
            value = next(events)
            found[key] = self._node(value, events, here)
            if isinstance(value, ScalarEvent) and value.style is None and not value.value:
                self.values[here] = self._place(event)  # the parser puts "nothing" where the next thing is
        return found

    def _scalar(self, event: Any) -> Any:
        text = self._text(event)
        if event.style is not None:
            return text
        quoted = f'write "{text}" in quotes if it is a text'
        if text.lower() in _PLAIN_WORDS:
            problem = f"an unquoted {text!r}: a word to some, true or false to others"
            self._note(event, problem, f"{quoted}, else true or false")
        elif _ODD_NUMBER.fullmatch(text):
            self._note(event, f"an unquoted {text!r}: a number to some, a word to others", f"{quoted}, else digits")
        value = scalar(text)
        if isinstance(value, float) and not math.isfinite(value):
            self._note(event, f"the number {text} is too large", f"{quoted}, else a smaller number")
        return value

    def _text(self, event: Any) -> str:
        text = str(event.value)
        if found := FORBIDDEN.search(text):
            self._note(event, f"an escape that stands for the character U+{ord(found.group()):04X}", "remove it")
        return text

    def _place(self, event: Any) -> Place:
        mark = event.start_mark
        return mark.line + 1, mark.column + 1

    def _note(self, event: Any, problem: str, fix: str) -> None:
        self.problems.append(Problem(self.name, *self._place(event), problem, fix))
        if len(self.problems) >= MAX_PROBLEMS:
            raise InputError(self.problems.pop())

    def _refused(self, event: Any, problem: str, fix: str) -> InputError:
        return InputError(Problem(self.name, *self._place(event), problem, fix))


_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,99})")
_FLOAT = re.compile(r"[-+]?(?:(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]{1,9})?|[0-9]+[eE][-+]?[0-9]{1,9})")


def scalar(text: str) -> Any:
    """Return what an unquoted word means: null, true, false, a decimal number of YAML's core schema, else the text.

    >>> [scalar(word) for word in ("3", "2e-5", "true", "null", "1.0.0")]
    [3, 2e-05, True, None, '1.0.0']
    """
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    if text in ("true", "True", "TRUE", "false", "False", "FALSE"):
        return text.lower() == "true"
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text
