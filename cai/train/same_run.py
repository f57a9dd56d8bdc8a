"""A training goes on with the settings and the data that it was begun with, or not at all.

A checkpoint says both. Weights half of one learning rate and half of another are of no run that anybody described.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cai.errors import InputError, Problem
from cai.storage import atomic_write_json, digest, hash_file
from cai.train.configs import TrainConfig

ABOUT = "run.json"
"""The file of a checkpoint that says so, where it has no other place for it."""

FREE = {"out", "data", "eval_data", "prompts", "save_every", "report_to", "micro_batch"}
"""Settings that may change between two starts; what is read from files is compared by its content."""


class SameRun:
    """What `transformers.Trainer`'s checkpoints say of the run that they are of."""

    def __init__(self, config: TrainConfig, files: Sequence[Path]) -> None:
        """Take the settings, and the content of the files that are trained on, in their order."""
        self._config, self._data = config, digest([hash_file(path) for path in files])

    def write(self, checkpoint: Path) -> None:
        """Say it in a checkpoint that has not its marker yet."""
        atomic_write_json(checkpoint / ABOUT, {"settings": settings_of(self._config), "data": self._data})

    def refuse_another(self, checkpoint: Path) -> None:
        """Raise InputError where a checkpoint is of another run; one of a version that said nothing is let pass."""
        if not (checkpoint / ABOUT).exists():
            return
        then = json.loads((checkpoint / ABOUT).read_text("utf-8"))
        others = [] if then["data"] == self._data else ["the data's content"]
        refuse_changed(checkpoint, then["settings"], self._config, others=others)


def settings_of(config: TrainConfig, *, free: Collection[str] = FREE) -> dict[str, Any]:
    """Return the settings that a run keeps."""
    return {name: value for name, value in config.to_plain().items() if name not in free}


def refuse_changed(
    checkpoint: Path,
    saved: Mapping[str, Any],
    config: TrainConfig,
    *,
    free: Collection[str] = FREE,
    others: Sequence[str] = (),
) -> None:
    """Raise InputError where a checkpoint's settings are not the config's, or something else, in words, has changed."""
    now, then = settings_of(config, free=free), _settings_then(checkpoint, saved, config, free)
    changed = [*(name for name, value in now.items() if then[name] != value), *others]
    if changed:
        problem = f"this run was begun with other settings ({', '.join(changed)})"
        fix = "go on with the old ones, or remove the folder to start anew"
        raise InputError(Problem(str(config.out), 0, 0, problem, fix))


def _settings_then(
    checkpoint: Path, saved: Mapping[str, Any], config: TrainConfig, free: Collection[str]
) -> dict[str, Any]:
    """Return a checkpoint's settings; what an older version had no setting for is at its default.

    Raises InputError where it has settings that are no more.
    """
    given = {name: value for name, value in config.to_plain().items() if name in free}
    try:
        found: dict[str, Any] = type(config).model_validate({**given, **saved}).to_plain()
    except ValidationError as error:
        names = ", ".join(sorted({".".join(map(str, each["loc"])) for each in error.errors()}))
        problem = f"it was written with settings that this version of cai does not have ({names})"
        raise InputError(Problem(str(checkpoint), 0, 0, problem, "go on with the version that wrote it")) from error
    return found
