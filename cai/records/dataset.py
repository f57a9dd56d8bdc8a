"""Rows as a data set folder that `datasets.load_dataset` reads: `data/train-*` as Parquet or JSON lines, and a card.

The card itself is `cai.report.card`'s. Rows are copied as a stream; columns are TRL's (`cai.records.export`).
"""

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cai.errors import InputError, Problem
from cai.records.export import Row, json_line
from cai.records.rows import read_rows
from cai.storage import PART, AtomicFile, fsync_folder, remove_parts, storing

if TYPE_CHECKING:
    import pyarrow

Format = Literal["parquet", "jsonl"]

ROWS_PER_FILE = 100_000

GROUP = 1_000
"""Rows of a Parquet file that are written together."""

TURNS = ("messages", "prompt", "chosen", "rejected")
"""Columns of turns: lists of role and content."""

NUMBERS = ("chosen_prob", "spread")


def rows_file(run: Path) -> Path:
    """Return the file of rows that a finished run made; raises InputError where there is none."""
    for name in ("sft.jsonl", "pairs.jsonl"):
        if (run / name).is_file() and (run / "result.json").is_file():
            return run / name
    fix = "name the folder of a finished run of cai generate or cai label"
    raise InputError(Problem(str(run), 0, 0, "no sft.jsonl or pairs.jsonl with its result.json", fix))


def write_dataset(rows: Path, out: Path, *, form: Format = "parquet") -> int:
    """Write the rows of a file into the `data` folder of a data set; return how many there are.

    Every file is there whole or not at all, and files of an earlier, longer data set are removed. Raises InputError
    when there is no row or one has columns that the first has not.
    """
    count = sum(1 for _ in read_rows(rows))
    if not count:
        raise InputError(Problem(str(rows), 0, 0, "no rows", "a data set needs at least one"))
    folder = out / "data"
    with storing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    remove_parts(folder)
    files = -(-count // ROWS_PER_FILE)
    source = _checked(rows)
    written = set()
    for number in range(files):
        path = folder / f"train-{number:05}-of-{files:05}.{form}"
        part = islice(source, ROWS_PER_FILE)
        if form == "parquet":
            _write_parquet(path, part)
        else:
            with AtomicFile(path) as file:
                for row in part:
                    file.write(json_line(row))
        written.add(path)
    with storing(folder):
        for old in set(folder.glob("train-*")) - written:
            old.unlink()
    return count


def _checked(path: Path) -> Iterator[Row]:
    columns: list[str] | None = None
    for line, row in read_rows(path):
        columns = columns or list(row)
        if set(row) != set(columns):
            odd = ", ".join(sorted(set(row) ^ set(columns)))
            raise InputError(Problem(str(path), line, 1, f"other columns than the first row's ({odd})", "mend the row"))
        yield {name: row[name] for name in columns}


def _write_parquet(path: Path, rows: Iterator[Row]) -> None:
    import pyarrow
    from pyarrow import parquet

    first = next(rows)
    schema = pyarrow.schema([(name, _type(name)) for name in first])
    temporary = path.with_name(f".{path.name}{PART}")
    with storing(path):
        with parquet.ParquetWriter(temporary, schema, compression="zstd") as writer:
            group = [first, *islice(rows, GROUP - 1)]
            while group:
                writer.write_table(pyarrow.Table.from_pylist(group, schema=schema))
                group = list(islice(rows, GROUP))
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        fsync_folder(path.parent)


def _type(name: str) -> "pyarrow.DataType":
    import pyarrow

    text: Any = pyarrow.string()
    if name in TURNS:
        return pyarrow.list_(pyarrow.struct([("role", text), ("content", text)]))
    if name == "principles":
        return pyarrow.list_(text)
    return pyarrow.float64() if name in NUMBERS else text
