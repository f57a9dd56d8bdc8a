"""What inverse constitutional AI (arXiv 2406.06560) found: principles that say which response to select.

Its package `inverse-cai` writes them in several shapes, and all of these are read: the constitution as one numbered
text in JSON, lists, mappings of clusters to principles or of principles to votes, annotated pairs, a CSV with the
constitution of each run or the principles of each comparison. What comes again, word for word, is one principle.
"""

import ast
import csv
import io
import re
from collections.abc import Iterable, Iterator
from typing import Any

from cai.constitution.importers.base import File, Found
from cai.constitution.importers.lists import list_items
from cai.errors import InputError, Problem
from cai.strict_yaml import Place

COLUMNS = ("constitution", "principle", "principles", "text")
"""Names of the CSV column, or of the key in JSON, that holds the principles; the first that is there counts."""

MAX_DEPTH = 32


def read_inverse(file: File, found: Found) -> None:
    """Take the principles of one of its files."""
    if file.data is not None:
        entries = _strings(file, file.data)
    elif file.name.lower().endswith(".txt"):
        entries = ((item.text, (item.line, item.col)) for item in list_items(file.text))
    else:
        entries = _column(file)
    seen: set[str] = set()
    for text, where in entries:
        if text.strip() and text not in seen:
            seen.add(text)
            found.add(file, where, {"text": text})


def _strings(file: File, data: Any, depth: int = 0) -> Iterator[tuple[str, Place]]:
    """Yield the principles in any of the shapes that they come in, with their places."""
    if isinstance(data, str):
        where = file.place(data)
        yield from ((item.text, where) for item in list_items(data))
        return
    items: Iterable[Any]
    if isinstance(data, dict) and isinstance(data.get("annotators"), dict):
        # Annotated pairs: who annotated them, principles among others, and the pairs themselves.
        who = [item for item in data["annotators"].values() if isinstance(item, dict)]
        items = [item.get("description") for item in who if item.get("type") == "principle"]
    elif isinstance(data, dict):
        known = next((data[key] for key in (*COLUMNS, "summaries", "description") if key in data), None)
        voted = known is None and bool(data) and all(map(_is_votes, data.values()))
        items = list(data) if voted else data.values() if known is None else [known]
    elif isinstance(data, list):
        items = data
    else:
        raise file.bad(f"not a text: {data!r}", "write principles as texts")
    if depth > MAX_DEPTH:
        raise file.bad("nested too deep", "write a list of texts")
    for item in items:
        yield from _strings(file, item, depth + 1)


def _is_votes(value: Any) -> bool:
    """Tell whether this is what was counted for a principle: then its key is the principle."""
    counts = value.values() if isinstance(value, dict) else [value]
    return all(isinstance(count, (int, float)) for count in counts) and value != {}


def _column(file: File) -> Iterator[tuple[str, Place]]:
    reader = csv.reader(io.StringIO(file.text), strict=True)
    column: int | None = None
    line = 1
    try:
        for row in reader:
            here, line = line, reader.line_num + 1
            if column is None:
                column = _column_of(file, [cell.strip().lower() for cell in row])
            elif row and column >= len(row):
                problem = f"{len(row)} cells, and the principle should be in cell {column + 1}"
                raise InputError(Problem(file.name, here, 1, problem, "fill the row, or quote the commas"))
            elif row:
                yield from ((text, (here, 1)) for text in _in_cell(row[column]))
    except csv.Error as error:
        raise InputError(Problem(file.name, reader.line_num, 1, f"bad CSV: {error}", "mend the row")) from error


def _column_of(file: File, header: list[str]) -> int:
    for name in COLUMNS:
        if name in header:
            return header.index(name)
    problem = f"no column of principles among {header}"
    raise InputError(Problem(file.name, 1, 1, problem, f"name one of {', '.join(COLUMNS)}"))


def _in_cell(cell: str) -> Iterator[str]:
    """Yield the principles of a cell: a text with numbers, or a list as Python writes one."""
    if re.fullmatch(r"\s*\[(['\"]).*\1\]\s*", cell, re.S):
        try:
            listed = ast.literal_eval(cell.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            listed = None
        if isinstance(listed, list) and all(isinstance(item, str) for item in listed):
            yield from listed
            return
    yield from (item.text for item in list_items(cell))
