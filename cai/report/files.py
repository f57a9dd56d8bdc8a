"""Reading a run folder that may be half made.

A file that is absent is empty: its stage is owed. A file that is damaged is read as far as it goes, and the damage is
told in the report, so that one bad line hides neither itself nor the rest of the run.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cai.errors import CaiError
from cai.records.journal import read_journal
from cai.records.schema import Record

Row = dict[str, Any]


class RunFiles:
    """The files of a run folder, and what was found wrong while reading them."""

    def __init__(self, root: Path) -> None:
        """Read below `root`."""
        self.root = root
        self.problems: list[str] = []

    def object(self, *parts: str) -> Row:
        """Return a JSON object; empty when there is no such file."""
        path = self.root.joinpath(*parts)
        if not path.is_file():
            return {}
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, OSError, RecursionError) as error:
            self.problems.append(f"{path}: cannot be read: {error}")
            return {}
        return value if isinstance(value, dict) else {}

    def rows(self, *parts: str) -> list[Row]:
        """Return the objects of a JSON-lines file; what follows an unreadable line is left out."""
        path = self.root.joinpath(*parts)
        rows: list[Row] = []
        if not path.is_file():
            return rows
        lines = path.read_bytes().split(b"\n")
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                if number < len(lines):  # the last line of a file that is being written may be torn
                    self.problems.append(f"{path}:{number}:1: cannot be read: {error}")
                break
            if isinstance(row, dict):
                rows.append(row)
        return rows

    def records(self, folder: tuple[str, ...], name: str) -> list[Record]:
        """Return the records of all ranks' journals of one name, each key once."""
        place = self.root.joinpath(*folder)
        found: dict[str, Record] = {}
        for path in sorted([place / f"{name}.jsonl", *place.glob(f"{name}.rank*.jsonl")]):
            try:
                for record in read_journal(path):
                    found.setdefault(record.key, record)
            except CaiError as error:
                self.problems.append(str(error))
        return list(found.values())

    def exists(self, *parts: str) -> bool:
        """Tell whether a file or folder is there."""
        return self.root.joinpath(*parts).exists()

    def generations(self) -> list[int]:
        """Return the numbers of the ``gen-N`` folders, newest first."""
        numbers = [
            int(path.name[4:]) for path in self.root.glob("gen-*") if path.is_dir() and path.name[4:].isdecimal()
        ]
        return sorted(numbers, reverse=True)


def number(value: Any) -> float | None:
    """Return a finite number, or None for anything else (a missing value, NaN, text, a boolean).

    >>> number(3), number("3"), number(float("nan")), number(True)
    (3.0, None, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        converted = float(value)
    except OverflowError:
        return None
    return converted if math.isfinite(converted) else None


def count(value: Any) -> int:
    """Return a whole number that is at least 0; anything else is 0."""
    found = number(value)
    return max(0, int(found)) if found is not None else 0


def mapping(value: Any) -> Row:
    """Return the value if it is a mapping with text keys, otherwise an empty one."""
    return {str(key): item for key, item in value.items()} if isinstance(value, dict) else {}


def text(value: Any) -> str:
    """Return a value as short text: nothing for None, plain words for the rest.

    >>> text(None), text(True), text(1e-05), text(["a", 2])
    ('', 'yes', '1e-05', 'a, 2')
    """
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case str():
            return value
        case float():
            return f"{value:.6g}"
        case list() | tuple():
            return ", ".join(text(item) for item in value)
        case dict():
            return ", ".join(f"{key}: {text(item)}" for key, item in value.items())
        case _:
            return str(value)


def leaves(value: Row, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield a nested mapping as dotted names and texts.

    >>> list(leaves({"a": {"b": 1}, "c": "x"}))
    [('a.b', '1'), ('c', 'x')]
    """
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, dict) and item:
            yield from leaves(item, f"{name}.")
        else:
            yield name, text(item)
