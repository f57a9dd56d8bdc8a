"""A journal: one JSON line per record, appended and fsynced before anything counts the record as done.

A line that was torn by a crash is the last one; it is cut off when the journal is opened for writing, and its work is
owed again. Anything else that can't be read is damage, and is named by path and line.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from cai.errors import StorageError
from cai.records.index import Place, Records
from cai.records.schema import Record
from cai.storage import append_whole, canonical_json, fsync_folder, storing

R = TypeVar("R", bound=Record)


def read_journal(path: Path) -> Iterator[Record]:
    """Yield the records of a journal in their order; a torn last line is left out, a missing file is empty.

    Raises StorageError for a line that is damaged, or whose work an earlier line has done.
    """
    return (record for record, _ in Records().scan(path))


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
        self.records = Records()
        """What is in the file: a record is read from there when it is asked for."""
        self._end = 0
        for _, place in self.records.scan(path):
            self._end += place.length
        with storing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            created = not path.exists()
            # A link in the file's place could lead to somebody's input.
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._file = os.fdopen(os.open(path, flags, 0o644), "ab", buffering=0)
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
        self.records.add(record.key, Place(self.path, len(self.records) + 1, self._end, len(line)))
        self._end += len(line)

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


def read_ranks(folder: Path, name: str) -> Records:
    """Return the records of all ranks' journals of one name, by key.

    Two ranks can hold the same key after a restart on another number of processes; the lower rank's record is taken.
    """
    return Records(rank_paths(folder, name))


def rank_paths(folder: Path, name: str) -> list[Path]:
    """Return the files of all ranks' journals of one name, the lowest rank's first."""
    paths = {rank_path(folder, name, 0), *folder.glob(f"{name}.rank*.jsonl")}
    return sorted(paths, key=lambda path: (len(path.name), path.name))
