"""Bytes on disk: canonical hashes, files that are either old or new but never half, and locks.

What is hashed is canonical JSON: UTF-8, sorted keys, no white space, no NaN. Identity in `cai` (of records, configs,
constitutions, runs) is the SHA-256 of that.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from cai.errors import StorageError

BUFFER = 1 << 20
"""Bytes of an atomic file that are held before they are written."""

PART = ".part"
"""How the name of an atomic file ends that is not yet whole."""

MARKER = "COMPLETE"
"""The file of a folder that says that it is whole; it holds the SHA-256 of every other file, and of these."""

_CANONICAL = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)


def canonical_json(value: Any) -> bytes:
    """Return the one JSON text that stands for a value of plain types; raises ValueError for NaN and infinities."""
    return _CANONICAL.encode(value).encode("utf-8")


def digest(value: Any) -> str:
    """Return the SHA-256 of a value's canonical JSON, as 64 hex characters."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def seed_from(*parts: str | int) -> int:
    """Return a seed in [0, 2**63) that depends on all the parts and on nothing else.

    A run's seed, a record's key, a stage and an attempt go in, so a sample does not depend on how many workers there
    are or on the order in which they finish.

    >>> seed_from(1, "draft", "ab12", 0) == seed_from(1, "draft", "ab12", 0)
    True
    """
    return int(digest([str(part) for part in parts])[:16], 16) >> 1


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, as 64 hex characters."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def storing(path: Path) -> Iterator[None]:
    """Turn an OSError inside the block into a StorageError that names the path."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{path}: cannot write: {error.strerror or error}; what was written before is kept: free some room or mend "
            "the rights, then give the same command again"
        ) from error


def fsync_folder(folder: Path) -> None:
    """Make a rename or a new file inside a folder last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_files(folder: Path) -> None:
    """Make all that a folder holds last through a power cut, and its name."""
    for path in [*folder.rglob("*"), folder, folder.parent]:
        fsync_folder(path)


def mark_whole(folder: Path) -> None:
    """Let a folder count, after making all of it last: what a crash leaves has no marker."""
    with storing(folder):
        fsync_files(folder)
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MARKER)
        hashes = {path.relative_to(folder).as_posix(): hash_file(path) for path in files}
        atomic_write(folder / MARKER, _marker(hashes))


def damaged_file(folder: Path) -> Path | None:
    """Return the first file of a marked folder that is not what was written, or None."""
    try:
        content = (folder / MARKER).read_bytes()
        files: dict[str, str] = json.loads(content)["files"]
        sound = content == _marker(files)
    except (OSError, ValueError, KeyError, TypeError):
        sound = False
    if not sound:
        return folder / MARKER
    return next((folder / name for name, wanted in files.items() if _hash(folder / name) != wanted), None)


def _marker(hashes: dict[str, str]) -> bytes:
    return json.dumps({"files": hashes, "sha256": digest(hashes)}, sort_keys=True, indent=2).encode() + b"\n"


def _hash(path: Path) -> str:
    try:
        return hash_file(path)
    except OSError:
        return ""


class AtomicFile:
    """A file that is written piece by piece and seen whole: at the end of the block it is there, or what was before.

    What a process that was killed has left of one is `PART` behind a point and the name: see `remove_parts`.
    """

    def __init__(self, path: Path) -> None:
        """Write the file of this path; its folder is made when the block begins."""
        self.path = path
        self._pending = bytearray()

    def write(self, data: bytes) -> None:
        """Take the next bytes."""
        self._pending += data
        if len(self._pending) >= BUFFER:
            self._flush()

    def _flush(self) -> None:
        with storing(self.path):
            _write_whole(self._descriptor, self._pending)
        self._pending.clear()

    def __enter__(self) -> "AtomicFile":
        """Open a file beside the place."""
        with storing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            prefix = f".{self.path.name}."
            self._descriptor, self._temporary = tempfile.mkstemp(dir=self.path.parent, prefix=prefix, suffix=PART)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Put the file in its place, or leave no trace of it when the block failed."""
        try:
            try:
                if kind is None:
                    self._flush()
                    with storing(self.path):
                        os.fsync(self._descriptor)
            finally:
                os.close(self._descriptor)
            if kind is None:
                with storing(self.path):
                    os.chmod(self._temporary, 0o644)
                    os.replace(self._temporary, self.path)
        except BaseException:
            self._discard()
            raise
        if kind is not None:
            self._discard()
            return
        with storing(self.path):
            fsync_folder(self.path.parent)

    def _discard(self) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self._temporary)


def atomic_write(path: Path, data: bytes) -> None:
    """Write a file so that a reader, or a crash, sees the old content or the new one and nothing between."""
    with AtomicFile(path) as file:
        file.write(data)


def remove_parts(folder: Path) -> None:
    """Remove what processes that were killed have left of atomic files in a folder that nobody else writes now."""
    for path in folder.glob(f".*{PART}"):
        with contextlib.suppress(FileNotFoundError), storing(path):
            path.unlink()


def atomic_write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON with sorted keys, atomically."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, indent=2, allow_nan=False)
    atomic_write(path, (text + "\n").encode("utf-8"))


def append_whole(file: IO[bytes], data: bytes) -> None:
    """Append to an unbuffered file and make it last, wholly or not at all.

    When the disk refuses, the file is cut back to what it was and the OSError goes on; what is torn even so (the cut
    failed too, the power went) is a last line without its end.
    """
    end = os.fstat(file.fileno()).st_size
    try:
        _write_whole(file.fileno(), data)
        os.fsync(file.fileno())
    except BaseException:
        os.ftruncate(file.fileno(), end)
        raise


def _write_whole(descriptor: int, data: bytes | bytearray) -> None:
    """Write all bytes, in as many calls as the system needs."""
    with memoryview(data) as rest:
        done = 0
        while done < len(rest):
            done += os.write(descriptor, rest[done:])


class FolderLock:
    """An exclusive lock on a folder, held while the object is open; the system frees it when the process dies.

    A child process that is given the descriptor (`fileno`) holds it too, so a run whose parent was killed can't be
    started a second time while its child still works.
    """

    def __init__(self, folder: Path) -> None:
        """Take the lock, or raise StorageError when another process has it."""
        self.path = folder / ".lock"
        with storing(self.path):
            folder.mkdir(parents=True, exist_ok=True)
            self._file: IO[bytes] = self.path.open("ab")
        try:
            with storing(self.path):
                self._take(folder)
        except BaseException:
            self._file.close()
            raise

    def _take(self, folder: Path) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StorageError(f"{folder}: another process works in this folder; wait for it or stop it") from error

    def fileno(self) -> int:
        """Return the descriptor that holds the lock, to pass on to a child."""
        return self._file.fileno()

    def __enter__(self) -> "FolderLock":
        """Return itself: the lock is held since construction."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give the lock back."""
        self._file.close()
