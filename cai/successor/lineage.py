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
from cai.storage import atomic_write_json, canonical_json, digest, storing
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
        before = json.loads(path.read_text(encoding="utf-8"))
        same = {
            "model": before["model"]["digest"] == about["model"]["digest"],
            "constitution": before["constitution"]["digest"] == about["constitution"]["digest"],
            "seed": before["seed"] == about["seed"],
        }
        changed = [name for name in FIXED if not same[name]]
        if changed:
            fix = "give another --out, or the settings it was begun with"
            problem = f"this folder holds a run with another {' and another '.join(changed)}"
            raise InputError(Problem(str(folder), 0, 0, problem, fix))
    atomic_write_json(path, about)


class Ledger:
    """An append-only list of what happened in a run; each line holds the hash of the one before it."""

    def __init__(self, path: Path) -> None:
        """Open a ledger and check its chain; a torn last line is cut off."""
        self.path = path
        self.lines = read_ledger(path)
        if path.exists():
            whole = b"".join(canonical_json(line) + b"\n" for line in self.lines)
            with storing(path):
                os.truncate(path, len(whole))

    def append(self, event: str, stage: str, **details: Any) -> None:
        """Add one line and make it last."""
        previous = digest(self.lines[-1]) if self.lines else ""
        line = {
            "n": len(self.lines) + 1,
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "event": event,
            "stage": stage,
            **details,
            "previous": previous,
        }
        with storing(self.path), self.path.open("ab") as file:
            file.write(canonical_json(line) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.lines.append(line)


def read_ledger(path: Path) -> list[dict[str, Any]]:
    """Return a ledger's lines; raises StorageError at the first that does not follow from the one before it."""
    lines: list[dict[str, Any]] = []
    if not path.exists():
        return lines
    for number, raw in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
        if not raw.endswith(b"\n"):
            break
        try:
            line = json.loads(raw)
            good = line["n"] == number and line["previous"] == (digest(lines[-1]) if lines else "")
        except (ValueError, KeyError, TypeError):
            good = False
        if not good:
            raise StorageError(f"{path}:{number}:1: the ledger's chain is broken here; restore it from a copy")
        lines.append(line)
    return lines
