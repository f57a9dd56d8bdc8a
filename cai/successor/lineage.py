"""What a run was made from, and what happened in it: `run.json`, and a ledger whose lines are chained by hash."""

import json
import os
import platform
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from cai import __version__
from cai.constitution import Constitution
from cai.errors import InputError, Problem, StorageError
from cai.storage import append_whole, atomic_write_json, canonical_json, digest, storing
from cai.successor.plan import RunConfig

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "safetensors", "numpy")
"""Whose versions a run notes: another version can mean other numbers."""

FIXED = ("model", "constitution", "seed")
"""Settings that one folder can have only one of; the size and the stages' settings may change, and re-make stages."""


def describe_run(config: RunConfig, constitution: Constitution, model_digest: str) -> dict[str, Any]:
    """Return what identifies a run: settings, constitution, first model, seed, versions, machine."""
    return {
        "config": config.to_plain(),
        "constitution": {
            "name": constitution.name,
            "version": constitution.version,
            "digest": constitution.digest,
            "principles": [
                {"id": principle.id, "title": principle.title, "text": principle.text}
                for principle in constitution.principles
            ],
        },
        "model": {"name": config.model, "digest": model_digest},
        "seed": config.seed,
        "versions": {"cai": __version__, "python": platform.python_version(), **_versions()},
        "machine": {"platform": platform.platform(), "cores": os.cpu_count() or 1},
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def open_run(folder: Path, about: dict[str, Any]) -> None:
    """Write run.json, or check that the folder's run is this one.

    Raises InputError when the folder holds a run of another model, constitution or seed.
    """
    path = folder / "run.json"
    if path.exists():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
            same = {
                "model": before["model"]["digest"] == about["model"]["digest"],
                "constitution": before["constitution"]["digest"] == about["constitution"]["digest"],
                "seed": before["seed"] == about["seed"],
            }
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StorageError(f"{path}: can't be read ({error}); restore it, or give another --out") from error
        changed = [name for name in FIXED if not same[name]]
        if changed:
            fix = "give another --out, or the settings it was begun with"
            problem = f"this folder holds a run with another {' and another '.join(changed)}"
            raise InputError(Problem(str(folder), 0, 0, problem, fix))
    atomic_write_json(path, about)


class Ledger:
    """An append-only list of what happened in a run; each line holds the hash of the one before it.

    Beside it, `ledger.head.json` holds the number and the hash of the last line: without it, a chain whose end was
    changed or cut off would look whole.
    """

    def __init__(self, path: Path) -> None:
        """Open a ledger and check its chain; a torn last line is cut off."""
        self.path = path
        self.lines = read_ledger(path)
        self._end = sum(len(canonical_json(line)) + 1 for line in self.lines)
        if path.exists() and path.stat().st_size > self._end:
            with storing(path), path.open("ab", buffering=0) as file:
                os.ftruncate(file.fileno(), self._end)
                os.fsync(file.fileno())

    def append(self, event: str, stage: str, **details: Any) -> None:
        """Add one line and make it last."""
        previous = digest(self.lines[-1]) if self.lines else ""
        line = {
            **details,
            "n": len(self.lines) + 1,
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "event": event,
            "stage": stage,
            "previous": previous,
        }
        with storing(self.path), self.path.open("ab", buffering=0) as file:
            append_whole(file, canonical_json(line) + b"\n")
        self.lines.append(line)
        # A kill right here leaves the head a line behind, which `read_ledger` takes.
        atomic_write_json(head_path(self.path), {"n": line["n"], "digest": digest(line)})


def head_path(path: Path) -> Path:
    """Return the file that holds the head of a ledger."""
    return path.with_suffix(".head.json")


def read_ledger(path: Path) -> list[dict[str, Any]]:
    """Return a ledger's lines, without a torn last one.

    Raises StorageError at the first line that does not follow from the one before it, that is not as it was written, or
    that the head knows and the ledger has no more.
    """
    lines: list[dict[str, Any]] = []
    if path.exists():
        with path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                if not raw.endswith(b"\n"):
                    break
                lines.append(_checked(raw, number, lines[-1] if lines else None, path))
    _check_head(lines, path)
    return lines


def _checked(raw: bytes, number: int, before: dict[str, Any] | None, path: Path) -> dict[str, Any]:
    try:
        line = json.loads(raw.decode("utf-8"))
        previous = digest(before) if before else ""
        # The text itself, too: white space or a key given twice would not show in the hash of what was read.
        good = line["n"] == number and line["previous"] == previous and canonical_json(line) + b"\n" == raw
    except (ValueError, KeyError, TypeError, RecursionError):
        good = False
    if not good:
        raise _broken(path, number)
    return dict(line)


def _check_head(lines: list[dict[str, Any]], path: Path) -> None:
    if not head_path(path).exists():
        if len(lines) > 1:
            raise StorageError(f"{head_path(path)}: the ledger's head is missing; restore it from a copy")
        return
    try:
        head = json.loads(head_path(path).read_text(encoding="utf-8"))
        number, expected = int(head["n"]), str(head["digest"])
        if number < 1:
            raise ValueError(f"there is no line {number}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{head_path(path)}: damaged ({error}); restore it from a copy") from error
    if len(lines) < number:
        raise _broken(path, len(lines) + 1)
    if digest(lines[number - 1]) != expected:
        raise _broken(path, number)


def _broken(path: Path, number: int) -> StorageError:
    return StorageError(f"{path}:{number}:1: the ledger's chain is broken here; restore it from a copy")
