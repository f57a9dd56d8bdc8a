"""What the trainers share: arguments, checkpoints, adapters, and the same weights from one process and from two."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, SchedulerType, TrainerCallback
from transformers.trainer_utils import SaveStrategy

from cai.errors import InputError, TrainingError
from cai.processes import cpu_launch_command
from cai.storage import MARKER
from cai.train import hf, sft
from cai.train.checkpoints import newest_checkpoint
from cai.train.configs import SFTConfig
from cai.train.hf import Rows, keep_freed_memory, peak_memory_mb, training_arguments
from tests.engines import tiny
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


@pytest.mark.parametrize("kind", rig.KINDS)
def test_the_micro_batch_changes_no_weight(tiny_model_dir: Path, tmp_path: Path, kind: str) -> None:
    """Two steps of eight rows, as 1 x 8, 2 x 4 and 8 x 1. More of this: benchmarks/exact.py."""
    found = {}
    for size in (8, 4, 1):
        changes: dict[str, Any] = {"rows": 16, "batch_size": 8, "micro_batch": size, "learning_rate": 2e-5}
        found[size], logged = rig.train(kind, rig.settings(kind, tmp_path / str(size), tiny_model_dir, **changes))
        assert [row["step"] for row in logged] == [1, 2]
    start = load_file(tiny_model_dir / "model.safetensors")
    assert rig.largest_difference({name: found[8][name] for name in start}, start) > 2e-5  # the steps did something
    assert rig.largest_difference(found[8], found[4]) <= 1e-6
    assert rig.largest_difference(found[8], found[1]) <= 1e-6


def test_rows_come_in_their_order() -> None:
    rows = Rows(["a", "b", "c"], [2, 0, 1, 1])
    assert [rows[index] for index in range(len(rows))] == ["c", "a", "b", "b"]


def test_memory_is_kept_without_a_word() -> None:
    keep_freed_memory()
    assert torch.ones(1 << 20).sum() == 1 << 20


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


def test_the_result_has_the_last_readings_and_the_rate(tiny_model_dir: Path, tmp_path: Path) -> None:
    settings = rig.settings("dpo", tmp_path, tiny_model_dir, rows=8)
    _, logged = rig.train("dpo", settings)
    result = json.loads((settings.out / "result.json").read_text())
    assert result["last"]["loss"] == logged[-1]["loss"]
    assert {"accuracy", "margin", "reward_chosen", "reward_rejected", "kl", "chosen_drop", "grad_norm"} <= result[
        "last"
    ].keys()
    assert result["tokens_per_second"] > 0
    assert result["peak_memory_mb"] > 50


def test_a_gradient_that_is_not_finite_moves_no_weight(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainers: list[sft.SFTTrainer] = []

    class Explodes(sft.SFTTrainer):
        def loss_sum(self, model: Any, batch: Any) -> Any:
            trainers.append(self)
            total, sums = super().loss_sum(model, batch)
            return total + (total - total.detach()).abs().sqrt().sum(), sums  # finite; its slope at 0 is not

    monkeypatch.setattr(sft, "SFTTrainer", Explodes)
    settings = rig.settings("sft", tmp_path, tiny_model_dir, rows=4)
    with pytest.raises(TrainingError, match=r"the gradient is not finite at step 1; rows .*; no weight") as raised:
        sft.run_sft(settings)
    assert all(f"rows.jsonl:{line}" in str(raised.value) for line in (1, 2, 3, 4))
    after: Any = trainers[0].model
    for name, value in load_file(tiny_model_dir / "model.safetensors").items():
        assert torch.equal(after.state_dict()[name], value), name


ONE_RANK_BREAKS = """
import sys
from cai.errors import TrainingError
from cai.processes import leave, rank
from cai.train import sft
from cai.train.configs import SFTConfig
class Breaks(sft.SFTTrainer):
    def loss_sum(self, model, batch):
        total, sums = super().loss_sum(model, batch)
        return total * (float("nan") if rank() == 1 and self.state.global_step == 1 else 1.0), sums
sft.SFTTrainer = Breaks
try:
    sft.run_sft(SFTConfig.model_validate_json(open(sys.argv[1]).read()))
except TrainingError as error:
    open(sys.argv[1] + f".rank{rank()}", "w").write(str(error))
leave(0)
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_loss_that_breaks_in_one_process_stops_both(tiny_model_dir: Path, tmp_path: Path) -> None:
    settings = rig.settings("sft", tmp_path, tiny_model_dir, save_every=1)
    (tmp_path / "config.json").write_text(settings.model_dump_json())
    (tmp_path / "breaks.py").write_text(ONE_RANK_BREAKS)
    command = cpu_launch_command(2, [str(tmp_path / "breaks.py"), str(tmp_path / "config.json")])
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    first, second = ((tmp_path / f"config.json.rank{rank}").read_text() for rank in (0, 1))
    assert first == second
    assert "the loss is not finite at step 2" in first
    assert first.count("rows.jsonl:") == 2  # the two rows of the process that it broke in
    assert newest_checkpoint(settings.out / "checkpoints") == settings.out / "checkpoints" / "checkpoint-1"
    assert not (settings.out / "model").exists()


class StopsAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("kind", ["reward", "dpo"])
def test_a_resume_is_exact_with_dropout_in_the_model(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    model = tmp_path / "dropout"
    tiny.llama(attention_dropout=0.2).save_pretrained(model)
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(model)
    whole, logged = rig.train(kind, rig.settings(kind, tmp_path / "whole", model, save_every=1))
    dry, _ = rig.train(kind, rig.settings(kind, tmp_path / "dry", tiny_model_dir))
    assert rig.largest_difference(whole, dry) > 1e-6  # there is dropout
    settings = rig.settings(kind, tmp_path / "cut", model, save_every=1)
    before = hf.CountedTrainer.__init__

    def stopping(self: hf.CountedTrainer, *args: Any, **kwargs: Any) -> None:
        before(self, *args, **kwargs)
        self.add_callback(StopsAt(2))

    with monkeypatch.context() as patched:
        patched.setattr(hf.CountedTrainer, "__init__", stopping)
        with pytest.raises(KeyboardInterrupt):
            rig.KINDS[kind][1](settings)
    torch.manual_seed(12345)
    resumed, relogged = rig.train(kind, settings)
    assert json.loads((settings.out / "result.json").read_text())["resumed_at"] == 2
    assert [row["loss"] for row in relogged] == [row["loss"] for row in logged]
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_fsdp_that_accelerate_leaves_out_is_refused(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    settings = rig.settings("sft", tmp_path, tiny_model_dir, rows=4)
    with pytest.raises(InputError, match=r"--use_fsdp: accelerate cuts no model into pieces on a CPU; .* GPUs"):
        sft.run_sft(settings)
    assert not (settings.out / "model").exists()
