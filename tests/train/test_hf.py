"""What the trainers share: arguments, checkpoints, adapters, and the same weights from one process and from two."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, SchedulerType
from transformers.trainer_utils import SaveStrategy

from cai.errors import InputError
from cai.train import hf, sft
from cai.train.configs import SFTConfig
from cai.train.hf import MARKER, Rows, newest_checkpoint, peak_memory_mb, training_arguments, with_adapter
from tests.train import rig

ROOT = Path(__file__).parent.parent.parent


def config(tmp_path: Path, **changes: Any) -> SFTConfig:
    return SFTConfig(out=tmp_path, data=[], precision="fp32", **changes)


@pytest.mark.parametrize(
    ("batch_size", "micro_batch", "processes", "expected"),
    [
        (16, 4, 1, (4, 4)),
        (16, 5, 1, (4, 4)),
        (6, 4, 1, (3, 2)),
        (7, 4, 1, (1, 7)),
        (8, 4, 2, (4, 1)),
        (8, 64, 2, (4, 1)),
    ],
)
def test_a_step_is_exactly_the_batch(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    batch_size: int,
    micro_batch: int,
    processes: int,
    expected: tuple[int, int],
) -> None:
    monkeypatch.setattr(hf, "world", lambda: processes)
    made = training_arguments(config(tmp_path, batch_size=batch_size, micro_batch=micro_batch), 1000)
    assert (made.per_device_train_batch_size, made.gradient_accumulation_steps) == expected


def test_fewer_rows_than_a_batch_are_one_step(tmp_path: Path) -> None:
    made = training_arguments(config(tmp_path, batch_size=16), 6)
    assert made.per_device_train_batch_size * made.gradient_accumulation_steps == 6


@pytest.mark.parametrize(("batch_size", "rows", "processes"), [(6, 100, 4), (8, 3, 2), (1, 100, 2)])
def test_a_batch_that_does_not_divide_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_size: int, rows: int, processes: int
) -> None:
    monkeypatch.setattr(hf, "world", lambda: processes)
    with pytest.raises(InputError, match=f"can't be shared by {processes} processes; make it a multiple"):
        training_arguments(config(tmp_path, batch_size=batch_size), rows)


def test_the_schedule_counts_optimizer_steps(tmp_path: Path) -> None:
    made = training_arguments(config(tmp_path, batch_size=10, warmup=0.25, schedule="cosine"), 200)
    assert (made.warmup_steps, SchedulerType(made.lr_scheduler_type).value) == (5, "cosine")
    plain = training_arguments(config(tmp_path, save_every=0), 200)
    assert SchedulerType(plain.lr_scheduler_type).value == "constant_with_warmup"
    assert (plain.report_to, SaveStrategy(plain.save_strategy).value) == ([], "no")
    tracked = training_arguments(config(tmp_path, report_to=["tensorboard"], save_every=7), 200)
    assert (tracked.report_to, tracked.save_steps) == (["tensorboard"], 7)


def test_the_newest_whole_checkpoint_is_taken_by_number(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path / "none") is None
    for step, whole in ((2, True), (10, True), (9, True), (11, False)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if whole:
            (tmp_path / f"checkpoint-{step}" / MARKER).touch()
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-10"


def test_rows_come_in_their_order() -> None:
    rows = Rows(["a", "b", "c"], [2, 0, 1, 1])
    assert [rows[index] for index in range(len(rows))] == ["c", "a", "b", "b"]


def test_an_adapter_trains_little_and_starts_as_nothing(tiny_model_dir: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    assert with_adapter(model, config(tmp_path), task="CAUSAL_LM") is model
    ids = torch.tensor([[5, 6, 7]])
    before = model(ids).logits.detach()
    wrapped = with_adapter(model, config(tmp_path, lora={"r": 2}), task="CAUSAL_LM").eval()
    trained = [name for name, value in wrapped.named_parameters() if value.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    torch.testing.assert_close(wrapped(ids).logits.detach(), before)


def test_peak_memory_is_in_megabytes() -> None:
    assert 50 < peak_memory_mb() < 100_000


def test_checkpoints_hold_their_marker_and_two_are_kept(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[list[str]] = []
    finish = sft.finish

    def looks(trainer: Any, tokenizer: Any, config: Any, result: Any) -> None:
        kept.append(sorted(path.parent.name for path in (config.out / "checkpoints").glob(f"*/{MARKER}")))
        finish(trainer, tokenizer, config, result)

    monkeypatch.setattr(sft, "finish", looks)
    rig.train("sft", rig.settings("sft", tmp_path, tiny_model_dir, save_every=1))
    assert kept == [["checkpoint-2", "checkpoint-3"]]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_give_the_weights_of_one(tiny_model_dir: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"micro_batch": 1, "save_every": 2, "learning_rate": 1e-4}
    settings = {kind: rig.settings(kind, tmp_path / kind, tiny_model_dir, **changes) for kind in rig.KINDS}
    path = tmp_path / "configs.json"
    path.write_text(json.dumps({kind: one.to_plain() for kind, one in settings.items()}))
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    launcher += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    command = [*launcher, rig.__file__, str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    start = load_file(tiny_model_dir / "model.safetensors")["model.norm.weight"]
    for kind in rig.KINDS:
        alone = rig.settings(kind, tmp_path / "alone" / kind, tiny_model_dir, learning_rate=1e-4, micro_batch=4)
        one, logged = rig.train(kind, alone)
        assert float((one["model.norm.weight"] - start).abs().max()) > 1e-4
        assert rig.largest_difference(one, rig.weights(settings[kind].out)) <= 1e-6
        relogged = rig.metrics(settings[kind].out)
        assert [row["step"] for row in relogged] == [1, 2, 3]
        for row, other in zip(logged, relogged, strict=True):
            assert other == pytest.approx(row, abs=1e-4), kind
