"""What all trainers share: precision, metrics, and output that is whole or absent.

A trainer's output folder has the same shape everywhere:

    model/            the trained model and its tokenizer, loadable with plain transformers; there only when finished
    adapter/          with `lora` the adapter alone, which PEFT loads over the model that training started from
    checkpoints/      the state to go on from; removed when finished
    metrics.jsonl     one line per logged step, with the step's number
    result.json       a summary; its presence says that the stage is done

One run at a time works in it (`alone`).
"""

import contextlib
import copy
import functools
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cai.engines.embedded import model_digest
from cai.processes import is_main
from cai.storage import FolderLock, atomic_write, fsync_files, fsync_folder, remove_parts, storing
from cai.train.configs import LoraSettings as LoraSettings
from cai.train.configs import Precision
from cai.train.configs import TrainConfig as TrainConfig
from cai.train.made_under import mark

RESULT = "result.json"
"""A summary; its presence says that a training is done."""

STATE = ("checkpoints", "best")
"""What a training goes on from, of no use when it is done."""

ADAPTER = "adapter"
"""The folder of what was trained with `lora`, beside ``model``."""

C = TypeVar("C", bound=TrainConfig)
P = ParamSpec("P")


def alone(train: Callable[Concatenate[C, P], None]) -> Callable[Concatenate[C, P], None]:
    """Let a training have `config.out` for itself, and leave what is done as it is.

    The main process holds the folder's lock for all processes of the run; the system frees it when that one dies.
    Raises StorageError, before anything is read, when another run has it.
    """

    @functools.wraps(train)
    def locked(config: C, /, *args: P.args, **kwargs: P.kwargs) -> None:
        if (config.out / RESULT).exists() and not _left_over(config.out):
            return
        with FolderLock(config.out) if is_main() else contextlib.nullcontext():
            if is_main():
                _clear(config.out)
            if not (config.out / RESULT).exists():
                train(config, *args, **kwargs)

    return locked


def _left_over(out: Path) -> list[Path]:
    """Return what a training that is done had no time to remove."""
    return [path for path in (out / name for name in STATE) if path.exists()]


def _clear(out: Path) -> None:
    """Remove what a process that was killed has left of files, and of a training that is done."""
    remove_parts(out)
    if (out / RESULT).exists():
        with storing(out):
            for path in _left_over(out):
                shutil.rmtree(path)


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
    if weights is not None:  # gathered, tied weights are copies of each other, which Transformers would write twice
        weights = {name: value for name, value in weights.items() if name not in model.all_tied_weights_keys}
    with appearing(folder) as partial:
        model.save_pretrained(partial, state_dict=weights)
        tokenizer.save_pretrained(partial)
        mark(partial, constitutions)


def save_adapted(adapted: Any, tokenizer: PreTrainedTokenizerBase, out: Path, *, constitutions: list[str]) -> None:
    """Save a model's adapter apart, as PEFT loads it, in ``adapter``, and the model that it makes, in ``model``.

    A preference model's adapter comes with its config, which says what its scores are.
    """
    base = adapted.get_base_model()
    with appearing(out / ADAPTER) as partial:
        adapted.save_pretrained(partial, save_embedding_layers=False)
        tokenizer.save_pretrained(partial)
        if hasattr(base, "score"):
            config = copy.deepcopy(base.config)
            config.architectures = [type(base).__name__]
            config.save_pretrained(partial)
        mark(partial, constitutions, base=model_digest(base.config._name_or_path))
    save_model(adapted.merge_and_unload(), tokenizer, out / "model", constitutions=constitutions)


@contextlib.contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """Give a folder to write into, which then takes this one's place whole or not at all."""
    partial = folder.with_name(f".{folder.name}.partial")
    with storing(folder):
        shutil.rmtree(partial, ignore_errors=True)
        yield partial
        fsync_files(partial)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(partial, folder)
        fsync_folder(folder.parent)
