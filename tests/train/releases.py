"""Trainings as past releases left them, in tests/releases/VERSION: those of today go on from them.

PYTHONPATH=. python tests/train/releases.py    adds the present version's; done once for each release, and kept

A folder holds the model that training starts from, and for each trainer its data, `config.json`, a checkpoint under
`out`, and `next.json`: the metrics of the steps after it, as the version that wrote it took them. Paths are relative.
"""

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from cai import __version__
from cai.config import Config
from cai.train import hf
from cai.train.ppo import trainer as ppo
from cai.train.ppo.config import PPOConfig
from tests.train import rig
from tests.train.curves import WATCHED, make_model, versions
from tests.train.ppo import rig as ppo_rig

FOLDER = Path(__file__).parents[1] / "releases"
SAVED, STEPS = 4, 14
"""The step of the checkpoint, and the last one."""

HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1}
SHAPE = {"hidden_size": 12, "intermediate_size": 16, "num_hidden_layers": 1, "attention_dropout": 0.2, **HEADS}


def settings(kind: str) -> Any:
    """Return a config for the working folder, with its data written."""
    folder, model = Path(kind), Path("model")
    if kind == "ppo":
        values = {"batch_size": 4, "max_new_tokens": 6, "kl_target": 0.05, "reference_ema": 0.9, "value_clip": 0.2}
        rollout = {"ahead": True}
        return ppo_rig.settings(folder, model, steps=STEPS, save_every=SAVED, rollout=rollout, **values)
    lora = {"lora": {"r": 2, "alpha": 4}} if kind == "reward" else {}
    return rig.settings(kind, folder, model, rows=28, epochs=2, save_every=SAVED, schedule="cosine", warmup=0.4, **lora)


def config_of(kind: str) -> Config:
    """Read the config of the working folder."""
    cls = PPOConfig if kind == "ppo" else rig.KINDS[kind][0]
    return cls.model_validate_json((Path(kind) / "config.json").read_bytes())


def train(kind: str, config: Any) -> dict[str, list[float]]:
    """Train to the end, and return the watched metrics of the steps after the checkpoint."""
    if kind == "ppo":
        ppo.run_ppo(config, ppo_rig.vowels)
    else:
        rig.KINDS[kind][1](config)
    rows = rig.metrics(config.out)[SAVED:]
    return {name: [row[name] for row in rows] for name in WATCHED[kind]}


class _Stops(TrainerCallback):
    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == SAVED:
            raise KeyboardInterrupt


def interrupted(kind: str, config: Any) -> None:
    """Train up to the checkpoint."""
    before, step = hf.CountedTrainer.__init__, ppo.Trainer.step

    def with_stop(self: hf.CountedTrainer, *args: Any, **kwargs: Any) -> None:
        before(self, *args, **kwargs)
        self.add_callback(_Stops())

    def stops(self: ppo.Trainer, number: int) -> dict[str, float]:
        if number == SAVED + 1:
            raise KeyboardInterrupt
        return step(self, number)

    hf.CountedTrainer.__init__, ppo.Trainer.step = with_stop, stops  # type: ignore[method-assign,assignment]
    try:
        train(kind, config)
    except KeyboardInterrupt:
        pass
    finally:
        hf.CountedTrainer.__init__, ppo.Trainer.step = before, step  # type: ignore[method-assign]


def main() -> int:
    """Write the present version's folder."""
    folder = FOLDER / __version__
    if folder.exists():
        print(f"{folder}: is there; what a release has written stays as it is", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    work = Path(tempfile.gettempdir()) / "cai-release"  # the same everywhere: an adapter's files name its base
    work.mkdir()
    try:
        os.chdir(work)
        os.environ["CAI_CACHE"] = str(work / "cache")
        make_model(Path("model"), **SHAPE)
        for kind in WATCHED:
            config = settings(kind)
            (Path(kind) / "config.json").write_text(config.model_dump_json())
            interrupted(kind, config)
        shutil.copytree(work, folder, ignore=shutil.ignore_patterns("cache", ".lock"))
        for kind in WATCHED:
            found = train(kind, config_of(kind))
            (folder / kind / "next.json").write_text(json.dumps({"versions": versions(), "metrics": found}) + "\n")
    finally:
        shutil.rmtree(work)
    return 0


if __name__ == "__main__":
    sys.exit(main())
