"""One stage in its folder: is it done, was it cut off, or does what is there belong to other settings?

`stage.json` is written before a stage begins and says what it is made from (its fingerprint); `manifest.json` is
written after it ends and lists what it made, by hash. A folder with the fingerprint and without the manifest is
resumed; one with another fingerprint is set aside and made again.
"""

import json
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from cai import __version__
from cai.storage import atomic_write_json, digest, fsync_folder, hash_file, storing
from cai.successor.plan import StagePlan

State = Literal["new", "begun", "done"]

UNHASHED = ("checkpoints", "trackers")
"""Folders inside a stage that are not part of what it made."""


@dataclass(frozen=True)
class Fingerprint:
    """What a stage's result depends on."""

    digest: str
    reads: dict[str, str]
    """Inputs by name, each with the hash of its content."""


def fingerprint(plan: StagePlan, run: Path) -> Fingerprint:
    """Hash a stage's settings, the content of all it reads, and the version of the code.

    Places don't count: paths inside the run are named from the run's folder, others by their content alone.
    """
    reads = {
        _name(path, run): content_hash(path) if path.exists() else f"name:{_name(path, run)}" for path in plan.reads
    }
    settings = _without_places(plan.config.to_plain(), run)
    # In the order of the settings, so that two inputs that changed places are a change.
    return Fingerprint(digest([plan.name, settings, list(reads.values()), plan.processes, __version__]), reads)


def _name(path: Path, run: Path) -> str:
    return str(path.relative_to(run)) if path.is_relative_to(run) else str(path)


def _without_places(value: Any, run: Path) -> Any:
    if isinstance(value, dict):
        return {key: _without_places(item, run) for key, item in value.items() if key not in ("report_to",)}
    if isinstance(value, list):
        return [_without_places(item, run) for item in value]
    if isinstance(value, str) and Path(value).is_relative_to(run):
        return f"RUN/{Path(value).relative_to(run)}"
    if isinstance(value, str) and (os.sep in value) and Path(value).exists():
        return Path(value).name
    return value


def content_hash(path: Path) -> str:
    """Return a hash of a file's or a folder's content; of the name itself when there is neither (a hub id)."""
    if path.is_file():
        return _hash_of(path)
    if path.is_dir():
        return digest(files_of(path))
    return f"name:{path}"


def _hash_of(path: Path) -> str:
    about = path.stat()
    return _hash_once(path, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)


@lru_cache(maxsize=4096)
def _hash_once(path: Path, *_state: int) -> str:
    return hash_file(path)


def files_of(folder: Path) -> dict[str, str]:
    """Return the hash of every file that a folder holds, by its name inside it; hidden ones are left out."""
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in relative.parts)
        if path.is_file() and not hidden and relative.parts[0] not in UNHASHED:
            found[str(relative)] = _hash_of(path)
    return found


def state(plan: StagePlan, expected: Fingerprint) -> State:
    """Tell how far a stage is.

    A folder that was made from something else, that holds files of unknown origin, or whose files are not those of its
    manifest, is set aside (``NAME.old-1``) and counts as new.
    """
    begun, manifest = _read(plan.folder / "stage.json"), _read(plan.folder / "manifest.json")
    if begun is not None and begun.get("fingerprint") == expected.digest:
        if manifest is None:
            return "begun"
        if manifest.get("files") == _made(plan):
            return "done"
    if plan.folder.is_dir() and any(not path.name.startswith(".") for path in plan.folder.iterdir()):
        _set_aside(plan.folder)
    return "new"


def _made(plan: StagePlan) -> dict[str, str]:
    return {name: value for name, value in files_of(plan.folder).items() if name not in ("stage.json", "manifest.json")}


def begin(plan: StagePlan, expected: Fingerprint) -> None:
    """Note what the stage is made from, before it makes anything."""
    about = {"stage": plan.name, "fingerprint": expected.digest, "reads": expected.reads, "version": __version__}
    atomic_write_json(plan.folder / "stage.json", {**about, "config": plan.config.to_plain()})


def finish(plan: StagePlan, seconds: float) -> dict[str, str]:
    """Note what the stage made, by hash, and return that; from here on it is done."""
    made = _made(plan)
    atomic_write_json(plan.folder / "manifest.json", {"files": made, "seconds": round(seconds, 1)})
    return made


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _set_aside(folder: Path) -> None:
    number = 1
    while (other := folder.with_name(f"{folder.name}.old-{number}")).exists():
        number += 1
    with storing(folder):
        os.rename(folder, other)
        fsync_folder(folder.parent)
