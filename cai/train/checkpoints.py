"""The checkpoints of a training, `checkpoints/checkpoint-N`: whole with a marker that is written last, or not counted.

The marker holds the SHA-256 of every file, and of these (`cai.storage.mark_whole`). Before a training goes on, the
newest checkpoint's files are compared with it: what a disk has lost or changed since is named, and the checkpoint
before is taken. Older ones are removed when a new one is whole, by their numbers: clocks go back.
"""

import re
import shutil
import sys
from pathlib import Path

from cai.processes import is_main, wait_for_all
from cai.storage import MARKER, damaged_file, mark_whole, storing

KEPT = 2
"""So many are kept: should the newest be damaged, there is one to go on from."""


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the last checkpoint that was written to its end, or None."""
    return next(reversed(_whole(folder)), None)


def complete(checkpoint: Path, *, keep: int = KEPT) -> None:
    """Let a checkpoint count, and remove older ones. For the main process, when every process has written."""
    mark_whole(checkpoint)
    with storing(checkpoint.parent):
        for path in _whole(checkpoint.parent)[:-keep]:
            (path / MARKER).unlink()  # first: what a crash leaves of it doesn't count
            shutil.rmtree(path)


def set_damaged_aside(folder: Path) -> None:
    """Leave the newest checkpoint that is sound as the newest, in every process alike.

    Damaged ones after it are renamed to `damaged-N`, and what was never finished is removed; each is named on stderr.
    """
    if is_main():
        with storing(folder):
            for path in _all(folder):
                if not (path / MARKER).exists():
                    print(f"{path}: never finished; removed", file=sys.stderr)
                    shutil.rmtree(path)
            for path in reversed(_whole(folder)):
                found = damaged_file(path)
                if found is None:
                    break
                aside = path.with_name(f"damaged-{_step(path)}")
                shutil.rmtree(aside, ignore_errors=True)
                path.rename(aside)
                print(f"{found}: damaged since it was written; set aside as {aside.name}", file=sys.stderr)
    wait_for_all()


def _whole(folder: Path) -> list[Path]:
    """Return the checkpoints that have their marker, oldest first."""
    return [path for path in _all(folder) if (path / MARKER).exists()]


def _all(folder: Path) -> list[Path]:
    return sorted((path for path in folder.glob("checkpoint-*") if re.fullmatch(r".*-\d+", path.name)), key=_step)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])
