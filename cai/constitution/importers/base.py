"""What readers of other people's files share: the file with its places, and what has been found in files so far."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from cai.constitution.model import Principle
from cai.constitution.prose import checked, first_words, slug
from cai.errors import InputError, Problem
from cai.strict_yaml import Place, Tree, read_text, validate

_FILLER = re.compile(
    r"(?:(?:please|(?:re)?write|revise|amend|choose|select|compare|consider|which|of|a|new|version|revision|the|these"
    r"|assistant['’]s|assistant|responses?|last|so|as|to|that['’]s|that|is|are|one|and|it|any)[\s,]+)+",
    re.I,
)
"""What many instructions begin with, and tells none from the others."""

_ASKS_WHICH = re.compile(r"(please )?(select|choose) the (assistant )?(response|answer|output)", re.I)
"""A principle that says which answer to choose is a comparison's wording as it stands."""


@dataclass(frozen=True)
class File:
    """A file as it was read."""

    name: str
    text: str
    data: Any = None
    """Its JSON, if it is JSON."""

    def place(self, needle: str) -> Place:
        """Return where a string of the file's JSON stands: its first place is near enough for a person."""
        at = max(0, *(self.text.find(json.dumps(needle, ensure_ascii=only)) for only in (True, False)))
        return self.text.count("\n", 0, at) + 1, at - self.text.rfind("\n", 0, at)

    def bad(self, problem: str, fix: str, near: str | None = None) -> InputError:
        """Return an error at the place of a string of the file's JSON."""
        line, col = self.place(near) if near is not None else (1, 1)
        return InputError(Problem(self.name, line, col, problem, fix))

    def valid(self, model: type[BaseModel], given: dict[str, Any], where: Place) -> dict[str, Any]:
        """Return what was given if the model takes it; raises InputError with its place in the file."""
        validate(model, Tree(self.name, given, {(): where}, {}))
        return given


@dataclass
class Found:
    """What the files gave so far."""

    principles: list[dict[str, Any]] = field(default_factory=list)
    few_shots: list[dict[str, Any]] = field(default_factory=list)
    comparison_shots: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What is said of the principles and is none: it becomes the description."""
    _taken: set[str] = field(default_factory=set)
    _numbers: dict[str, int] = field(default_factory=dict)
    """The last number that an id was given to differ."""

    def add(self, file: File, where: Place, given: dict[str, Any], key: str = "") -> None:
        """Take a principle, with an id that no other has; raises InputError for one that can't be."""
        text = given["text"].strip()
        filler = _FILLER.match(text)
        telling = text[filler.end() :] if filler and filler.end() < len(text) else text
        wanted = key or slug(telling, 48) or "principle"
        named = {"title": first_words(telling[:1].upper() + telling[1:]) or wanted, **given}
        named["source"] = Path(file.name).name
        if _ASKS_WHICH.match(text):
            named.setdefault("comparison", text)
        self.principles.append(file.valid(Principle, {"id": self._free(wanted), **named}, where))

    def _free(self, wanted: str) -> str:
        found, number = wanted, self._numbers.get(wanted, 1)
        while found in self._taken:
            number += 1
            found = f"{wanted}-{number}"
        self._numbers[wanted] = number
        self._taken.add(found)
        return found


def load_file(path: Path, *, as_json: bool | None) -> File:
    """Read a file, and its JSON if it is one; None tells by how it begins. Raises InputError."""
    name = str(path)
    text = checked(read_text(path, name), name)
    if not text.strip():
        raise InputError(Problem(name, 1, 1, "the file is empty", "write at least one principle"))
    if as_json is None:
        as_json = text.lstrip()[0] in '[{"'
    if not as_json:
        return File(name, text)
    try:
        data = json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        problem = Problem(name, error.lineno, error.colno, f"bad JSON: {error.msg}", "mend the line")
        raise InputError(problem) from error
    except (RecursionError, ValueError) as error:
        said = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise InputError(Problem(name, 1, 1, f"bad JSON: {said}", "mend it")) from error
    return File(name, text, data)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in names if names.count(key) > 1)!r} is there twice")
    return found


def _no_constant(word: str) -> None:
    raise ValueError(f"{word} is not JSON")
