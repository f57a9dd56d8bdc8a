"""Metrics that a resume cuts back, models that are whole or absent, and trackers that stay local."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from cai.train import common
from cai.train.common import MetricsLog, keep_trackers_local, read_metrics, save_model, wants_bf16
from cai.train.configs import SFTConfig


def test_a_resumed_log_has_every_step_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, main=True)
    for step in (1, 2, 3):
        log.log(step, {"loss": float(step)})
    with path.open("a") as file:
        file.write('{"step": 4, "lo')  # the process died here
    again = MetricsLog(path, main=True, resume_step=2)
    again.log(3, {"loss": 30.0})
    assert [(row["step"], row["loss"]) for row in read_metrics(path)] == [(1, 1.0), (2, 2.0), (3, 30.0)]
    assert len(path.read_text().splitlines()) == 3


def test_a_new_run_starts_an_empty_log(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n')
    MetricsLog(path, main=True)
    assert path.read_text() == ""


def test_only_the_main_process_writes(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    MetricsLog(path, main=False).log(1, {"loss": 1.0})
    assert not path.exists()


@pytest.mark.parametrize(("said", "expected"), [("fp32", False), ("bf16", True)])
def test_a_precision_that_is_said_is_taken(said: Any, expected: bool) -> None:
    assert wants_bf16(said) is expected


@pytest.mark.parametrize(("flags", "expected"), [("avx2 avx512_bf16", True), ("amx_bf16", True), ("avx2", False)])
def test_auto_asks_the_hardware(monkeypatch: pytest.MonkeyPatch, flags: str, expected: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(common, "_cpu_flags", lambda: flags)
    assert wants_bf16("auto") is expected


def test_trackers_write_into_the_run_and_stay_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"HOME": str(tmp_path), "TRACKIO_DIR": "elsewhere"})
    config = SFTConfig(out=tmp_path / "out", data=[])
    keep_trackers_local(config)
    assert "WANDB_DIR" not in os.environ
    keep_trackers_local(config.model_copy(update={"report_to": ["wandb"]}))
    assert os.environ["WANDB_DIR"] == str(tmp_path / "out" / "trackers")
    assert os.environ["WANDB_MODE"] == "offline"
    assert os.environ["TRACKIO_DIR"] == "elsewhere"


def test_a_model_that_could_not_be_saved_is_absent(tmp_path: Path) -> None:
    class Saves:
        def save_pretrained(self, folder: Path, **_: Any) -> None:
            folder.mkdir(exist_ok=True)
            (folder / "sub").mkdir(exist_ok=True)
            (folder / "config.json").write_text(json.dumps({}))

    class Fails:
        def save_pretrained(self, folder: Path, **_: Any) -> None:
            raise RuntimeError("stopped")

    good: Any = Saves()
    bad: Any = Fails()
    with pytest.raises(RuntimeError, match="stopped"):
        save_model(good, bad, tmp_path / "model", constitutions=["ab"])
    assert not (tmp_path / "model").exists()
    save_model(good, good, tmp_path / "model", constitutions=["ab"])
    (tmp_path / "model" / "old").write_text("")
    save_model(good, good, tmp_path / "model", constitutions=["ab"])
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["cai.json", "config.json", "sub"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
