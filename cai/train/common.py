"""What all trainers share: precision, metrics, and output that is whole or absent.

A trainer's output folder has the same shape everywhere:

    model/            the trained model and its tokenizer, loadable with plain transformers; there only when finished
    checkpoints/      the state to go on from; removed when finished
    metrics.jsonl     one line per logged step, with the step's number
    result.json       a summary; its presence says that the stage is done
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cai.storage import atomic_write, fsync_folder, storing
from cai.train.configs import LoraSettings as LoraSettings
from cai.train.configs import Precision
from cai.train.configs import TrainConfig as TrainConfig
from cai.train.made_under import mark


def wants_bf16(precision: Precision) -> bool:
    """Tell whether to compute in bfloat16 here."""
    if precision != "auto":
        return precision == "bf16"
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    return "avx512_bf16" in _cpu_flags() or "amx_bf16" in _cpu_flags()


def keep_trackers_local(config: TrainConfig) -> None:
    """Give trackers a folder of the stage's own; wandb stays offline where nobody has logged in to it.

    What the environment says already is left as it is.
    """
    if not config.report_to:
        return
    folder = config.out / "trackers"
    with storing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for name in ("WANDB_DIR", "TRACKIO_DIR", "TENSORBOARD_LOGGING_DIR"):
        os.environ.setdefault(name, str(folder))
    os.environ.setdefault("WANDB_PROJECT", "cai")
    if not os.environ.get("WANDB_API_KEY") and not Path("~/.netrc").expanduser().exists():
        os.environ.setdefault("WANDB_MODE", "offline")
        os.environ.setdefault("WANDB_SILENT", "true")


def _cpu_flags() -> str:
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""


class MetricsLog:
    """The file metrics.jsonl: written by the main process only, and cut back to the step a resumed run goes on from."""

    def __init__(self, path: Path, *, main: bool, resume_step: int = 0) -> None:
        """Open for appending; lines after `resume_step` belong to steps that will be done again and are dropped."""
        self._main = main
        self.path = path
        if main:
            with storing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                kept = [row for row in read_metrics(path) if row["step"] <= resume_step]
                atomic_write(path, b"".join(json.dumps(row).encode() + b"\n" for row in kept))

    def log(self, step: int, values: dict[str, float]) -> None:
        """Append one line."""
        if self._main:
            with storing(self.path), self.path.open("a") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the logged steps; a torn last line is left out."""
    rows = []
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                break
    return rows


def fsync_files(folder: Path) -> None:
    """Make all that a folder holds last through a power cut."""
    for path in [*folder.rglob("*"), folder]:
        fsync_folder(path)


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    constitutions: list[str],
    weights: dict[str, Any] | None = None,
) -> None:
    """Save model and tokenizer as safetensors so that the folder appears whole or not at all.

    `constitutions` are the digests of those it was made under; `weights` are the model's where it has pieces only.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    if weights is not None:  # gathered, tied weights are copies of each other, which Transformers would write twice
        weights = {name: value for name, value in weights.items() if name not in model.all_tied_weights_keys}
    with storing(folder):
        shutil.rmtree(partial, ignore_errors=True)
        model.save_pretrained(partial, state_dict=weights)
        tokenizer.save_pretrained(partial)
        mark(partial, constitutions)
        fsync_files(partial)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(partial, folder)
        fsync_folder(folder.parent)
