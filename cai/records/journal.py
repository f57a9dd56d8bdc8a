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
from cai.storage import append_whole, canonical_json, fsync_folder, storing

R = TypeVar("R", bound=Record)


def read_journal(path: Path) -> Iterator[Record]:
    """Yield the records of a journal in their order; a torn last line is left out, a missing file is empty.

    Raises StorageError for a line that is damaged, or whose work an earlier line has done.
    """
    return (record for record, _ in _lines(path))


def _lines(path: Path) -> Iterator[tuple[Record, int]]:
    """Yield each record of a journal with the length of its line."""
    first: dict[str, int] = {}
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    return
                record = _parse(line, path, number)
                if record.key in first:
                    raise _damaged(path, number, f"the same key as line {first[record.key]}")
                first[record.key] = number
                yield record, len(line)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StorageError(f"{path}: can't be read: {error.strerror or error}; mend that and run again") from error


def _parse(line: bytes, path: Path, number: int) -> Record:
    try:
        row = json.loads(line.decode("utf-8"))
        cls = TYPES.get(row["type"])
        if cls is None:
            raise ValueError(f"no record is called {row['type']!r}")
        return cls.from_json(row)
    except KeyError as error:
        raise _damaged(path, number, f"no field {error}") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise _damaged(path, number, " ".join(str(error).split()[:40])) from error


def _damaged(path: Path, number: int, why: str) -> StorageError:
    fix = "restore the file, or remove the stage's folder to make it again"
    return StorageError(f"{path}:{number}:1: damaged record ({why}); {fix}")


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
        self.records: dict[str, Record] = {}
        self._end = 0
        for record, length in _lines(path):
            self.records[record.key] = record
            self._end += length
        with storing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            created = not path.exists()
            self._file = path.open("ab", buffering=0)
            if created:
                fsync_folder(path.parent)
            if os.fstat(self._file.fileno()).st_size > self._end:
                os.ftruncate(self._file.fileno(), self._end)
                os.fsync(self._file.fileno())

    def __contains__(self, key: str) -> bool:
        """Tell whether the work of this key is done."""
        return key in self.records

    def append(self, record: Record) -> None:
        """Write one record and make it last; a key that is there already is left as it is.

        Raises StorageError when the disk refuses: the record is then not done, and the file is as it was. Raises it too
        when the file is not as this journal left it.
        """
        if record.key in self.records:
            return
        line = canonical_json(record.to_json()) + b"\n"
        with storing(self.path):
            size = os.fstat(self._file.fileno()).st_size
            if size != self._end:
                raise StorageError(
                    f"{self.path}: {size} bytes where {self._end} were written; another process writes here, or the "
                    "disk kept half a record: stop the other, then give the same command again"
                )
            append_whole(self._file, line)
        self._end += len(line)
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
    """Return the records of all ranks' journals of one name, by key.

    Two ranks can hold the same key after a restart on another number of processes; the lower rank's record is taken.
    """
    found: dict[str, Record] = {}
    paths = [rank_path(folder, name, 0), *folder.glob(f"{name}.rank*.jsonl")]
    for path in sorted(paths, key=lambda path: (len(path.name), path.name)):
        for record in read_journal(path):
            found.setdefault(record.key, record)
    return found
