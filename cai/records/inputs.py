"""What a folder's records were made from, noted before the first of them: another start must have the same."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cai.errors import InputError, Problem, StorageError
from cai.processes import is_main
from cai.storage import atomic_write_json, hash_file

NAME = "inputs.json"


def file_hashes(paths: Iterable[Path]) -> list[str]:
    """Return the SHA-256 of each file; raises InputError for one that can't be read."""
    hashes = []
    for path in paths:
        try:
            hashes.append(hash_file(path))
        except FileNotFoundError as error:
            raise InputError(Problem(str(path), 0, 0, "no such file", "check the path")) from error
        except OSError as error:
            problem = f"can't be read: {error.strerror or error}"
            raise InputError(Problem(str(path), 0, 0, problem, "check it")) from error
    return hashes


def check_unchanged(paths: Sequence[Path], hashes: Sequence[str]) -> None:
    """Raise InputError when a file has changed since it was hashed."""
    changed = [path for path, before, now in zip(paths, hashes, file_hashes(paths), strict=True) if before != now]
    if changed:
        fix = "restore it and give the same command again, or name another folder for 'out'"
        raise InputError([Problem(str(path), 0, 0, "the file has changed during the work", fix) for path in changed])


def hold_inputs(folder: Path, inputs: dict[str, Any]) -> None:
    """Note what a folder is made from; raises InputError when it was made from something else before."""
    before = noted_inputs(folder)
    if before is None:
        if is_main():
            atomic_write_json(folder / NAME, inputs)
        return
    problems = [
        Problem(str(folder), 0, 0, f"what is here was made with another {_said(key, before, inputs)}", FIX)
        for key in sorted({*before, *inputs})
        if before.get(key) != inputs.get(key)
    ]
    if problems:
        raise InputError(problems)


FIX = "restore it, or name another folder for 'out'"


def noted_inputs(folder: Path) -> dict[str, Any] | None:
    """Return what a folder was made from, or None where nothing is noted; raises StorageError for a damaged note."""
    try:
        noted = json.loads((folder / NAME).read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StorageError(f"{folder / NAME}: can't be read ({error}); remove the folder to make it again") from error
    if not isinstance(noted, dict):
        raise StorageError(f"{folder / NAME}: not a note of inputs; remove the folder to make it again")
    return noted


def _said(key: str, before: dict[str, Any], now: dict[str, Any]) -> str:
    one, other = (json.dumps(each.get(key), ensure_ascii=False) for each in (before, now))
    return key if max(len(one), len(other)) > 60 else f"{key} ({one}, and now {other})"
