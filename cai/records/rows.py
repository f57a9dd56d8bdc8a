"""Rows of .jsonl (gzipped or not), .csv and .parquet files, one by one: no long file and no long line is held whole.

A row that can't be read is a row too: it stands in its place in the stream, with its problem.
"""

import csv
import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from cai.errors import InputError, Problem

MOST_ROW = 8 << 20
"""Bytes that a row may have."""

MOST_SHOWN = 2_000
"""Characters of a bad row that are kept to be shown."""

PARQUET_BATCH = 64
"""Rows of a Parquet file that are held at once."""


@dataclass(frozen=True)
class BadRow:
    """A row that is of no use."""

    problem: Problem
    raw: str
    """What stood there, or the beginning of it."""


Row = dict[str, Any]


def read_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """Yield (line, row) of a .jsonl, .jsonl.gz, .csv or .parquet file; in Parquet, the line is the row's number.

    Raises InputError for a file that is missing or of another kind and, after the good rows, for lines that can't be
    read.
    """
    problems: list[Problem] = []
    try:
        for line, row in scan_rows(path):
            if isinstance(row, BadRow):
                problems.append(row.problem)
            else:
                yield line, row
    except InputError as error:
        problems += error.problems
    if problems:
        raise InputError(problems)


def scan_rows(path: Path) -> Iterator[tuple[int, Row | BadRow]]:
    """Yield (line, row) of a file, rows that can't be read among them.

    Raises InputError for a file that is missing or of another kind, and where nothing more can be read.
    """
    readers = {".jsonl": _scan_jsonl, ".jsonl.gz": _scan_jsonl, ".csv": _scan_csv, ".parquet": _scan_parquet}
    kind = "".join(path.suffixes[-2:] if path.suffix.lower() == ".gz" else path.suffixes[-1:]).lower()
    if path.is_dir():
        raise InputError(Problem(str(path), 0, 0, "this is a folder", "name a file"))
    if kind not in readers:
        raise InputError(Problem(str(path), 0, 0, "not a file of rows", f"use one of {', '.join(readers)}"))
    if not path.is_file():
        raise InputError(Problem(str(path), 0, 0, "no such file", "check the path"))
    try:
        yield from readers[kind](path)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(Problem(str(path), 0, 0, f"bad gzip: {error}", "make the file again")) from error
    except OSError as error:
        raise InputError(Problem(str(path), 0, 0, f"can't be read: {error.strerror or error}", "check it")) from error


def _scan_jsonl(path: Path) -> Iterator[tuple[int, Row | BadRow]]:
    packed = path.suffix.lower() == ".gz"
    with gzip.open(path) if packed else path.open("rb") as file:
        for number, line in _decoded(file, path):
            if isinstance(line, BadRow):
                yield number, line
            elif line.strip():
                yield number, _json_row(line, path, number)


def _json_row(line: str, path: Path, number: int) -> Row | BadRow:
    column, fix = 1, "mend the line"
    try:
        row = json.loads(line.rstrip("\r\n"), parse_constant=_refuse_constant)
        if isinstance(row, dict):
            return row
        why, fix = "not a JSON object", "write one object per line"
    except json.JSONDecodeError as error:
        why, column = f"bad JSON: {error.msg}", error.colno
    except RecursionError:
        why = "bad JSON: nested too deep"
    except ValueError as error:
        why = f"bad JSON: {error}"
    return BadRow(Problem(str(path), number, column, why, fix), line[:MOST_SHOWN].rstrip("\r\n"))


def _decoded(file: IO[bytes] | gzip.GzipFile, path: Path) -> Iterator[tuple[int, str | BadRow]]:
    """Yield the lines of a file with their numbers; one that is too long or not UTF-8 is a bad row."""
    number = 0
    while raw := file.readline(MOST_ROW + 1):
        number += 1
        if len(raw) > MOST_ROW:
            bad = Problem(
                str(path), number, 1, f"a line of more than {MOST_ROW >> 20} MiB", "split the row, or drop it"
            )
            yield number, BadRow(bad, raw[:MOST_SHOWN].decode("utf-8", "replace"))
            while raw and not raw.endswith(b"\n"):
                raw = file.readline(MOST_ROW + 1)
            continue
        try:
            yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            bad = Problem(str(path), number, error.start + 1, "not UTF-8", "save the file as UTF-8")
            yield number, BadRow(bad, raw[:MOST_SHOWN].decode("utf-8", "replace").rstrip("\r\n"))


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _scan_csv(path: Path) -> Iterator[tuple[int, Row | BadRow]]:
    found: list[tuple[int, BadRow]] = []

    def lines(file: IO[bytes]) -> Iterator[str]:
        for number, line in _decoded(file, path):
            if isinstance(line, BadRow):
                found.append((number, line))
            # The reader counts lines, so an unreadable one gives it an empty one, which it passes over.
            yield "" if isinstance(line, BadRow) else line

    with path.open("rb") as file:
        reader = csv.DictReader(lines(file), strict=True)
        try:
            for row in reader:
                yield from found
                found.clear()
                within = sum(value.count("\n") for value in row.values() if isinstance(value, str))
                line = reader.line_num - within
                if None in row:
                    fix = "put a text that has commas in quotes"
                    bad = Problem(str(path), line, 1, "more fields than the header names", fix)
                    yield line, BadRow(bad, str(list(row.values()))[:MOST_SHOWN])
                else:
                    yield line, row
        except csv.Error as error:
            bad = Problem(str(path), reader.reader.line_num, 1, f"bad CSV: {error}", "mend the quotes")
            raise InputError([*(row.problem for _, row in found), bad]) from error
        yield from found


def _scan_parquet(path: Path) -> Iterator[tuple[int, Row | BadRow]]:
    import pyarrow
    import pyarrow.parquet as parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for group in range(file.metadata.num_row_groups):
                about = file.metadata.row_group(group)
                if about.total_byte_size > MOST_ROW * max(1, about.num_rows):
                    # Compression makes a small file of them.
                    said = f"rows of {about.total_byte_size // max(1, about.num_rows) >> 20} MiB each"
                    fix = f"a row may have {MOST_ROW >> 20} MiB"
                    raise InputError(Problem(str(path), number + 1, 1, said, fix))
                for batch in file.iter_batches(batch_size=PARQUET_BATCH, row_groups=[group]):
                    for row in batch.to_pylist():
                        number += 1
                        yield number, row
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        why = str(error).partition("\n")[0]
        raise InputError(Problem(str(path), number + 1, 1, f"bad Parquet: {why}", "make the file again")) from error
