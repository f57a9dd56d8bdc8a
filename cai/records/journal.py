"""A journal: one JSON line per record, appended and fsynced before anything counts the record as done.

A line that was torn by a crash is the last one; it is cut off when the journal is opened for writing, and its work is
owed again. Anything else that can't be read is damage, and is named by path and line.
"""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from cai.errors import StorageError
from cai.records.schema import TYPES, Record
from cai.storage import canonical_json, fsync_folder, storing

R = TypeVar("R", bound=Record)


def read_journal(path: Path) -> Iterator[Record]:
    """Yield the records of a journal in their order; a torn last line is left out, a missing file is empty.

    Raises StorageError for a line that is damaged.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            yield _parse(line, path, number)


def _parse(line: bytes, path: Path, number: int) -> Record:
    try:
        row = json.loads(line)
        return TYPES[row["type"]].from_json(row)
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(
            f"{path}:{number}:1: damaged record ({str(error).splitlines()[0]}); restore the file, or remove the "
            "stage's folder to make it again"
        ) from error


def of_type(records: Iterable[Record], cls: type[R]) -> list[R]:
    """Return the records that are of one type, in their order."""
    return [record for record in records if isinstance(record, cls)]


class Journal:
    """An open journal: what it holds already, and the end to append to.

    One process writes a journal. Several ranks write a file each (`rank_path`) and read them together.
    """

    def __init__(self, path: Path) -> None:
        """Open or create the file, read what is there, and cut off a torn last line."""
        self.path = path
        with storing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            created = not path.exists()
            self._file = path.open("ab")
            if created:
                fsync_folder(path.parent)
        self.records: dict[str, Record] = {record.key: record for record in read_journal(path)}
        with storing(path):
            self._cut_torn_line()

    def _cut_torn_line(self) -> None:
        with self.path.open("rb") as file:
            content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(self.path, whole)
            os.fsync(self._file.fileno())

    def __contains__(self, key: str) -> bool:
        """Tell whether the work of this key is done."""
        return key in self.records

    def append(self, record: Record) -> None:
        """Write one record and make it last; a key that is there already is left as it is.

        Raises StorageError when the disk refuses; the record is then not done, and a partial line is cut off when the
        journal is opened next.
        """
        if record.key in self.records:
            return
        with storing(self.path):
            self._file.write(canonical_json(record.to_json()) + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        self.records[record.key] = record

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> "Journal":
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self.close()


def rank_path(folder: Path, name: str, rank: int) -> Path:
    """Return the file that one rank writes: ``drafts.jsonl`` for the first, ``drafts.rank1.jsonl`` for the next."""
    return folder / (f"{name}.jsonl" if rank == 0 else f"{name}.rank{rank}.jsonl")


def read_ranks(folder: Path, name: str) -> dict[str, Record]:
    """Return the records of all ranks' journals of one name, by key."""
    found: dict[str, Record] = {}
    for path in sorted([folder / f"{name}.jsonl", *folder.glob(f"{name}.rank*.jsonl")]):
        for record in read_journal(path):
            found.setdefault(record.key, record)
    return found
