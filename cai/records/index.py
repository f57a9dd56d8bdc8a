"""Where the records of some journals lie: a table on disk, so memory is the same for a thousand records and a million.

The table is a private file of SQLite's that has no name and goes with the process, however that ends. What counts is
the journals; it is made anew from them at every start.
"""

import json
import sqlite3
import weakref
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cai.errors import StorageError
from cai.records.schema import TYPES, Record

CACHE = 8_192
"""Kibibytes of a table that are held in memory."""


def open_table(*statements: str) -> sqlite3.Connection:
    """Return a database that is nowhere but in this process and, past `CACHE`, on its disk."""
    database = sqlite3.connect("", isolation_level=None)
    for line in ("PRAGMA journal_mode = OFF", "PRAGMA synchronous = OFF", f"PRAGMA cache_size = -{CACHE}"):
        database.execute(line)
    for line in (*statements, "BEGIN"):
        database.execute(line)
    return database


class Place(NamedTuple):
    """Where a record lies."""

    path: Path
    line: int
    """From 1."""
    start: int
    """Bytes before the line."""
    length: int
    """Bytes of the line, its end included."""


class Records(Mapping[str, Record]):
    """The records of journals by key, in the order in which they were found; each is read from its file when asked for.

    Of a key that two files hold, the record of the first is taken.
    """

    def __init__(self, paths: Iterable[Path] = ()) -> None:
        """Find the records of some journals; raises StorageError for a damaged line."""
        self._paths: list[Path] = []
        self._count = 0
        self._table = open_table(
            "CREATE TABLE places (number INTEGER PRIMARY KEY, key TEXT UNIQUE, file INTEGER, line INTEGER,"
            " start INTEGER, length INTEGER)"
        )
        weakref.finalize(self, self._table.close)
        for path in paths:
            for _ in self.scan(path):
                pass

    def scan(self, path: Path) -> Iterator[tuple[Record, Place]]:
        """Add a journal's records and yield those that no earlier journal holds, each with its place.

        A torn last line is left out, a missing file is empty. Raises StorageError for a line that is damaged, or whose
        work an earlier line of the file has done.
        """
        start = 0
        try:
            with path.open("rb") as file:
                for number, line in enumerate(file, start=1):
                    if not line.endswith(b"\n"):
                        return
                    record = parse(line, path, number)
                    place = Place(path, number, start, len(line))
                    start += len(line)
                    if self.add(record.key, place):
                        yield record, place
        except FileNotFoundError:
            return
        except OSError as error:
            raise StorageError(f"{path}: can't be read: {error.strerror or error}; mend that and run again") from error

    def add(self, key: str, place: Place) -> bool:
        """Note a record's place; False when another journal holds the key.

        Raises StorageError when the same one does.
        """
        if not self._paths or self._paths[-1] != place.path:
            self._paths.append(place.path)
        row = (key, len(self._paths) - 1, *place[1:])
        query = "INSERT OR IGNORE INTO places (key, file, line, start, length) VALUES (?, ?, ?, ?, ?)"
        if self._table.execute(query, row).rowcount:
            self._count += 1
            return True
        there = self.place(key)
        if there.path == place.path:
            raise damaged(place.path, place.line, f"the same key as line {there.line}")
        return False

    def place(self, key: str) -> Place:
        """Return where a record lies; raises KeyError when there is none."""
        found = self._table.execute("SELECT file, line, start, length FROM places WHERE key = ?", (key,)).fetchone()
        if found is None:
            raise KeyError(key)
        return Place(self._paths[found[0]], *found[1:])

    def __getitem__(self, key: str) -> Record:
        """Read a record from its file."""
        return read_at(self.place(key))

    def __contains__(self, key: object) -> bool:
        """Tell whether there is a record of this key, without reading it."""
        return self._table.execute("SELECT 1 FROM places WHERE key = ?", (key,)).fetchone() is not None

    def __iter__(self) -> Iterator[str]:
        """Yield the keys."""
        return (key for (key,) in self._table.execute("SELECT key FROM places ORDER BY number"))

    def __len__(self) -> int:
        """Return how many records there are."""
        return self._count


def read_at(place: Place) -> Record:
    """Read one record; raises StorageError when it is not there as it was found."""
    return parse(line_at(place), place.path, place.line)


def line_at(place: Place) -> bytes:
    """Read the line of a record."""
    try:
        with place.path.open("rb", buffering=0) as file:
            file.seek(place.start)
            return file.read(place.length)
    except OSError as error:
        why = error.strerror or error
        raise StorageError(f"{place.path}: can't be read: {why}; mend that and run again") from error


def parse(line: bytes, path: Path, number: int) -> Record:
    """Return the record of a line; raises StorageError for one that is damaged."""
    try:
        row: Any = json.loads(line.decode("utf-8"))
        cls = TYPES.get(row["type"])
        if cls is None:
            raise ValueError(f"no record is called {row['type']!r}")
        return cls.from_json(row)
    except KeyError as error:
        raise damaged(path, number, f"no field {error}") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise damaged(path, number, " ".join(str(error).split()[:40])) from error


def damaged(path: Path, number: int, why: str) -> StorageError:
    """Return the error that names a damaged line."""
    fix = "restore the file, or remove the stage's folder to make it again"
    return StorageError(f"{path}:{number}:1: damaged record ({why}); {fix}")
