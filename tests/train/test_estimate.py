"""What is said of memory and time: exact where it is a count, told to people in a line, and no part of the training."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from cai.train import estimate as module
from cai.train import preflight
from cai.train.estimate import Estimate, estimate, will_it_fit
from cai.train.loading import HEADS, with_adapter
from cai.train.rates import Rates
from tests.train import rig

CPU = torch.device("cpu")
ROWS: Any = [([5] * 20, [[7] * 30, [8] * 25]), ([9] * 12, [[6] * 18, [4] * 22])]
LORA = {"r": 4, "alpha": 8}


@pytest.fixture(autouse=True)
def _rates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "measured_rates", lambda *args, **kwargs: Rates(1e9, 1e9, 1e9))


def estimated(kind: str, tmp_path: Path, model: Path, order: tuple[int, ...] = (0, 1), **changes: Any) -> Estimate:
    config = rig.settings(kind, tmp_path, model, rows=2, **{"batch_size": 2, **changes})
    return estimate(config, str(model), ROWS, order, micro=config.micro_batch, device=CPU)


def counts(model: Any) -> tuple[int, int]:
    weights = list(model.parameters())
    return sum(map(torch.numel, weights)), sum(weight.numel() for weight in weights if weight.requires_grad)


def test_full_finetuning_is_counted_to_the_byte(tiny_model_dir: Path, tmp_path: Path) -> None:
    number, _ = counts(AutoModelForCausalLM.from_pretrained(tiny_model_dir))
    found = estimated("sft", tmp_path, tiny_model_dir)
    assert (found.weights, found.gradients, found.optimizer) == (4 * number, 4 * number, 8 * number)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    optimizer = torch.optim.AdamW(model.parameters())
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    kept = [state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    assert found.optimizer == sum(each.numel() * each.element_size() for each in kept)


@pytest.mark.parametrize("kind", ["reward", "dpo"])
def test_an_adapter_is_counted_to_the_byte(tiny_model_dir: Path, tmp_path: Path, kind: str) -> None:
    found = estimated(kind, tmp_path, tiny_model_dir, lora=LORA)
    config = rig.settings(kind, tmp_path, tiny_model_dir, lora=LORA)
    auto: Any = AutoModelForSequenceClassification if kind == "reward" else AutoModelForCausalLM
    plain = auto.from_pretrained(tiny_model_dir, **({"num_labels": 1} if kind == "reward" else {}))
    task, keep = ("SEQ_CLS", ["score"]) if kind == "reward" else ("CAUSAL_LM", [])
    number, trained = counts(with_adapter(plain, config, task=task, keep=keep))
    assert trained < number / 2
    assert (found.weights, found.gradients, found.optimizer) == (4 * number, 4 * trained, 8 * trained)
    assert found.copies == 4 * number  # a second model at the end
    assert found.peak == pytest.approx(found.around + 8 * number + 12 * trained + found.activations)


def test_4_bits_and_8_bits(tiny_model_dir: Path, tmp_path: Path) -> None:
    plain: Any = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    linear = sum(
        each.weight.numel()
        for name, each in plain.named_modules()
        if type(each) is torch.nn.Linear and name.split(".")[-1] not in HEADS
    )
    number, _ = counts(with_adapter(plain, rig.settings("sft", tmp_path, tiny_model_dir, lora=LORA), task="CAUSAL_LM"))
    found = estimated("sft", tmp_path, tiny_model_dir, lora=LORA, quantization="4bit", precision="bf16")
    assert found.weights == pytest.approx(4 * (number - linear) + 0.515875 * linear)
    assert found.copies == 2 * 4 * number
    whole = estimated("sft", tmp_path, tiny_model_dir, optimizer="adamw_8bit")
    embedded = plain.get_input_embeddings().weight.numel()
    total = whole.gradients / 4
    assert whole.optimizer == pytest.approx(2.03 * (total - embedded) + 8 * embedded)


def test_a_reference_costs_a_pass_or_a_model(tiny_model_dir: Path, tmp_path: Path) -> None:
    free, cached, copied = (
        estimated("dpo", tmp_path, tiny_model_dir, (0, 1, 1, 0), **changes)
        for changes in ({"loss": "simpo"}, {}, {"reference_mode": "copy"})
    )
    assert copied.weights == 2 * cached.weights == 2 * free.weights
    assert free.seconds < cached.seconds < copied.seconds  # never, once per row, at every step


def test_time_grows_with_the_rows_and_memory_with_the_longest(tiny_model_dir: Path, tmp_path: Path) -> None:
    one = estimated("reward", tmp_path, tiny_model_dir, (0, 1), micro_batch=1)
    two = estimated("reward", tmp_path, tiny_model_dir, (0, 1) * 3, micro_batch=1)
    both = estimated("reward", tmp_path, tiny_model_dir, (0, 1), micro_batch=2)
    assert two.seconds == pytest.approx(3 * one.seconds)
    assert two.activations == one.activations < both.activations


FITS = Estimate(2e9, 2e9, 4e9, 1e9, 5e8, 0.0, 12e9, 240.0)


def test_it_is_told_in_a_line() -> None:
    assert str(FITS) == "about 4 min 0 s and 9.5 GB; 12.5 GB free"
    assert will_it_fit(FITS) is None
    warned = will_it_fit(dataclasses.replace(FITS, free=8e9))
    assert warned is not None
    assert (warned.id, warned.severity) == ("memory", "warning")
    assert "takes about 9.5 GB, and 8.5 GB are free" in str(warned)


def test_the_training_is_the_same_with_it(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, _ = rig.train("reward", rig.settings("reward", tmp_path / "a", tiny_model_dir))
    assert "free" not in capsys.readouterr().err  # a short one says nothing
    monkeypatch.setattr(module, "SHORT", 0.0)
    monkeypatch.setattr(preflight, "will_it_fit", lambda found: will_it_fit(dataclasses.replace(found, free=0.0)))
    told, _ = rig.train("reward", rig.settings("reward", tmp_path / "b", tiny_model_dir))
    said = capsys.readouterr().err.splitlines()
    assert rig.largest_difference(plain, told) == 0.0
    assert said[0].startswith("about 1 s and ")
    assert said[1].startswith("warning memory: training takes about ")


def test_a_model_that_cannot_be_counted_is_trained(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("experts by data")

    monkeypatch.setattr(module, "SHORT", 0.0)
    monkeypatch.setattr(module, "work_of", fails)
    rig.train("sft", rig.settings("sft", tmp_path, tiny_model_dir, rows=4))
    assert "no estimate of memory and time: NotImplementedError" in capsys.readouterr().err
