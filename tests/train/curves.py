"""Fifty steps of each trainer, pinned: what a change here, or in a library, does to a training shows in them.

PYTHONPATH=. python tests/train/curves.py    makes curves.json anew, after a change that is meant to change them

The figures are those of the versions that curves.json names; others sum floats in another order, and may draw other
random numbers. With the same minor versions of torch and transformers, whatever the processor, figures may differ by
TIGHT; with others by LOOSE, which a bug in a loss, a mask or a schedule passes at once.
"""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers

from cai.train.ppo.trainer import run_ppo
from tests.engines import tiny
from tests.train import rig
from tests.train.ppo import rig as ppo_rig

STEPS = 50
FILE = Path(__file__).with_suffix(".json")
WATCHED = {
    "sft": ("loss",),
    "reward": ("loss", "margin"),
    "dpo": ("loss", "margin"),
    "ppo": ("score", "value_loss", "kl", "entropy"),
}
"""Trainers, and which of their metrics are pinned."""

TIGHT, LOOSE = 1e-5, 1e-3
"""At any step; means may differ by a tenth of TIGHT."""

Curves = dict[str, list[float]]


def curves_of(kind: str, folder: Path, model: Path, **changes: Any) -> Curves:
    """Train for 50 steps and return the watched metrics."""
    values: dict[str, Any]
    if kind == "ppo":
        values = {"batch_size": 4, "epochs": 1, "minibatches": 1, "micro_batch": 4, "max_new_tokens": 6}
        # A rate at which rounding stays rounding: another processor then draws the same tokens.
        values |= {"learning_rate": 1e-4, "value_learning_rate": 1e-3}
        config = ppo_rig.settings(folder, model, steps=STEPS, **{**values, **changes})
        run_ppo(config, ppo_rig.vowels)
    else:
        values = {"rows": 40, "epochs": 5, "learning_rate": 3e-4, "micro_batch": 4, "schedule": "cosine", "warmup": 0.1}
        config = rig.settings(kind, folder, model, **{**values, **changes})
        rig.KINDS[kind][1](config)
    rows = rig.metrics(config.out)
    assert len(rows) == STEPS
    return {name: [row[name] for row in rows] for name in WATCHED[kind]}


def versions() -> dict[str, str]:
    """Return what figures depend on besides the code here."""
    return {"torch": torch.__version__.partition("+")[0], "transformers": transformers.__version__}


def same_minor(pinned: dict[str, str]) -> bool:
    """Tell whether figures were made with the minor versions that are here."""
    return all(version.split(".")[:2] == pinned[name].split(".")[:2] for name, version in versions().items())


def apart(ours: list[float], pinned: list[float]) -> tuple[float, float]:
    """Return the largest difference of a step, and that of the means."""
    differences = [one - other for one, other in zip(ours, pinned, strict=True)]
    return max(map(abs, differences)), abs(sum(differences)) / len(differences)


def make_model(folder: Path, **changes: Any) -> Path:
    """Save the tiny model and its tokenizer."""
    tiny.llama(**changes).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


def main() -> None:
    """Write the file."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        os.environ["CAI_CACHE"] = f"{name}/cache"
        model = make_model(Path(name) / "model")
        found = {kind: curves_of(kind, Path(name) / kind, model) for kind in WATCHED}
    FILE.write_text(json.dumps({"versions": versions(), "curves": found}) + "\n")


if __name__ == "__main__":
    main()
