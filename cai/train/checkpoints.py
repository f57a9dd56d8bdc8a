"""The checkpoints of a training: whole with a marker that is written last, or not counted.

The marker holds the SHA-256 of every file, and of these. Before a training goes on, the newest checkpoint's files are
compared with it: what a disk has lost or changed since is named, and the checkpoint before is taken.
"""

import json
import shutil
import sys
from pathlib import Path

from cai.processes import is_main, wait_for_all
from cai.storage import atomic_write_json, digest, hash_file, storing
from cai.train.common import fsync_files

MARKER = "COMPLETE"


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the last checkpoint that was written to its end, or None."""
    return max((path.parent for path in folder.glob(f"checkpoint-*/{MARKER}")), key=_step, default=None)


def mark_whole(checkpoint: Path) -> None:
    """Let a checkpoint count, after making all of it last. For the main process, when every process has written."""
    with storing(checkpoint):
        fsync_files(checkpoint)
        files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != MARKER)
        hashes = {path.relative_to(checkpoint).as_posix(): hash_file(path) for path in files}
        atomic_write_json(checkpoint / MARKER, {"files": hashes, "sha256": digest(hashes)})


def damaged_file(checkpoint: Path) -> Path | None:
    """Return the first file of a marked checkpoint that is not what was written, or None."""
    try:
        marker = json.loads((checkpoint / MARKER).read_text("utf-8"))
        files: dict[str, str] = marker["files"]
        sound = marker["sha256"] == digest(files)
    except (OSError, ValueError, KeyError, TypeError):
        sound = False
    if not sound:
        return checkpoint / MARKER
    return next((checkpoint / name for name, wanted in files.items() if _hash(checkpoint / name) != wanted), None)


def set_damaged_aside(folder: Path) -> None:
    """Leave the newest checkpoint that is sound as the newest, in every process alike.

    Damaged ones after it are named on stderr and renamed to `damaged-N`; what was never finished is removed: both would
    count among those that are kept when older ones are removed.
    """
    if is_main() and folder.is_dir():
        with storing(folder):
            for path in sorted(folder.glob("checkpoint-*"), key=_step, reverse=True):
                if not (path / MARKER).exists():
                    shutil.rmtree(path)
                    continue
                found = damaged_file(path)
                if found is None:
                    break
                aside = path.with_name(f"damaged-{_step(path)}")
                shutil.rmtree(aside, ignore_errors=True)
                path.rename(aside)
                print(f"{found}: damaged since it was written; set aside as {aside.name}", file=sys.stderr)
    wait_for_all()


def _hash(path: Path) -> str:
    try:
        return hash_file(path)
    except OSError:
        return ""


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])
