"""What is no finite number, in a loss or a gradient, moves no weight, and the rows are named."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cai.errors import TrainingError
from cai.train.dpo import DPOTrainer
from cai.train.hf import CountedTrainer
from cai.train.reward import PreferenceModelTrainer
from cai.train.sft import SFTTrainer
from tests.train import rig

TRAINERS: dict[str, type[CountedTrainer]] = {"sft": SFTTrainer, "reward": PreferenceModelTrainer, "dpo": DPOTrainer}


def breaks(monkeypatch: pytest.MonkeyPatch, kind: str, how: str) -> tuple[list[CountedTrainer], dict[str, Tensor]]:
    """Let the second step's loss or gradient be no number; return what will be the trainer, and its weights before."""
    made: list[CountedTrainer] = []
    weights: dict[str, Tensor] = {}
    plain = TRAINERS[kind].loss_sum

    def broken(self: Any, model: Any, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        total, sums = plain(self, model, batch)
        if self.state.global_step != 1:
            return total, sums
        made.append(self)
        weights.update({name: value.detach().clone() for name, value in self.model.state_dict().items()})
        if how == "gradient":
            return total + (total - total.detach()).abs().sqrt(), sums  # finite; its slope at 0 is not
        return total * float(how), sums

    monkeypatch.setattr(TRAINERS[kind], "loss_sum", broken)
    return made, weights


@pytest.mark.parametrize("how", ["nan", "inf", "-inf", "gradient"])
@pytest.mark.parametrize("kind", rig.KINDS)
def test_no_weight_is_moved_and_the_rows_are_named(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, how: str
) -> None:
    made, before = breaks(monkeypatch, kind, how)
    what = "gradient" if how == "gradient" else "loss"
    config = rig.settings(kind, tmp_path, tiny_model_dir, rows=8)
    with pytest.raises(TrainingError, match=f"the {what} is not finite at step 2; rows .*; no weight was") as raised:
        rig.train(kind, config)
    assert str(raised.value).count("rows.jsonl:") == 4
    after: Any = made[0].model
    assert all(torch.equal(before[name], value) for name, value in after.state_dict().items())
    assert not (config.out / "model").exists()


def test_a_loss_is_refused_before_a_backward_pass_that_updates(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As DeepSpeed's does."""
    made, before = breaks(monkeypatch, "sft", "nan")
    monkeypatch.setattr(CountedTrainer, "moves_in_backward", True)
    step = CountedTrainer.training_step

    def updates(self: Any, model: Any, *args: Any, **kwargs: Any) -> Tensor:
        loss = step(self, model, *args, **kwargs)
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.01)
        return loss

    monkeypatch.setattr(CountedTrainer, "training_step", updates)
    with pytest.raises(TrainingError, match=r"the loss is not finite at step 2; rows .*; no weight was") as raised:
        rig.train("sft", rig.settings("sft", tmp_path, tiny_model_dir, rows=8))
    assert str(raised.value).count("rows.jsonl:") == 2  # of the micro-batch
    after: Any = made[0].model
    assert all(torch.equal(before[name], value) for name, value in after.state_dict().items())


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_a_reference_that_is_not_finite_is_named_and_not_kept(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    def poisoned(model: Any, pair: Any, *, bf16: bool) -> tuple[float, float]:
        return (value if pair.chosen.name.endswith(":2") else -1.0, -2.0)

    config = rig.settings("dpo", tmp_path, tiny_model_dir, rows=8)
    with monkeypatch.context() as patched:
        patched.setattr("cai.train.references.pair_sums", poisoned)
        with pytest.raises(TrainingError, match=r"log-probabilities of 1 pairs are not finite \(.*rows.jsonl:2\)"):
            rig.train("dpo", config)
    rig.train("dpo", config)  # what was wrong then is not remembered
