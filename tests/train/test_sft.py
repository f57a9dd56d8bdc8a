"""Finetuning: the loss, the same result for any accumulation, the exact resume, and the refusal of NaN."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from cai.engines.render import Renderer
from cai.errors import InputError, TrainingError
from cai.storage import MARKER
from cai.train import hf, sft
from cai.train.data import load_chats
from cai.train.readout import answer_logprobs, use_packing
from cai.train.sft import collate, run_sft
from tests.train import rig

LORA = {"r": 4, "alpha": 8, "dropout": 0.2}


@torch.no_grad()
def naive_loss(folder: Path, config: Any, rows: int) -> float:
    """The mean cross-entropy over the whole vocabulary of the first rows' answers, one row at a time."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    examples, _ = load_chats(config.data, Renderer(tokenizer), max_length=config.max_length)
    losses = []
    for example in examples[:rows]:
        logits = model(input_ids=torch.tensor([[*example.prompt, *example.answer]])).logits[0]
        start = len(example.prompt) - 1
        losses.append(cross_entropy(logits[start:-1], torch.tensor(example.answer), reduction="none"))
    return float(torch.cat(losses).mean())


def test_the_first_loss_is_the_naive_cross_entropy(tiny_model_dir: Path, tmp_path: Path) -> None:
    config = rig.settings("sft", tmp_path, tiny_model_dir, rows=4)
    _, logged = rig.train("sft", config)
    assert [row["step"] for row in logged] == [1]
    assert logged[0]["loss"] == pytest.approx(naive_loss(tiny_model_dir, config, 4), abs=1e-5)


def test_rows_together_give_the_losses_and_gradients_of_rows_alone(tiny_model_dir: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    config = rig.settings("sft", tmp_path, tiny_model_dir, rows=3)
    examples, _ = load_chats(config.data, Renderer(tokenizer), max_length=512)
    use_packing(model, "tiny")
    results = []
    for batches in ([collate(examples)], [collate([example]) for example in examples[::-1]]):
        model.zero_grad()
        loss = -torch.cat([answer_logprobs(model, batch) for batch in batches]).sum()
        torch.autograd.backward(loss)
        results.append((loss.detach(), model.model.layers[0].mlp.up_proj.weight.grad.clone()))
    torch.testing.assert_close(results[0], results[1], atol=1e-4, rtol=1e-5)


class Stops(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


class StoppedSFT(sft.SFTTrainer):
    """Stops before the step after this one, when the checkpoint is there."""

    step = -1

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.add_callback(Stops(self.step))


def stopped(monkeypatch: pytest.MonkeyPatch, config: Any, step: int) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(StoppedSFT, "step", step)
        patched.setattr(sft, "SFTTrainer", StoppedSFT)
        with pytest.raises(KeyboardInterrupt):
            run_sft(config)


def without_clocks(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


# In the first epoch, at its end, in the second; and with draws of dropout to go on from.
@pytest.mark.parametrize(("step", "lora"), [(1, None), (3, None), (5, None), (2, LORA)])
def test_a_resume_is_exact(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, lora: dict[str, Any] | None
) -> None:
    changes: dict[str, Any] = {"save_every": 1, "epochs": 2, "lora": lora, "schedule": "cosine", "warmup": 0.4}
    whole, logged = rig.train("sft", rig.settings("sft", tmp_path / "whole", tiny_model_dir, **changes))
    config = rig.settings("sft", tmp_path / "cut", tiny_model_dir, **changes)
    stopped(monkeypatch, config, step)
    assert not (config.out / "model").exists()
    torch.manual_seed(12345)  # what a new process has drawn before does not matter
    resumed, relogged = rig.train("sft", config)
    assert json.loads((config.out / "result.json").read_text())["resumed_at"] == step
    assert [row["step"] for row in relogged] == [1, 2, 3, 4, 5, 6]
    assert without_clocks(relogged) == without_clocks(logged)
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    assert not (config.out / "checkpoints").exists()


def test_dropout_draws_differ_from_step_to_step(tiny_model_dir: Path, tmp_path: Path) -> None:
    """Else the exact resume with dropout would show nothing."""
    changes: dict[str, Any] = {"lora": LORA, "rows": 4}
    one, _ = rig.train("sft", rig.settings("sft", tmp_path / "one", tiny_model_dir, seed=0, **changes))
    dry = {**LORA, "dropout": 0.0}
    other, _ = rig.train("sft", rig.settings("sft", tmp_path / "dry", tiny_model_dir, seed=0, lora=dry, rows=4))
    assert rig.largest_difference(one, other) > 1e-6


def test_a_checkpoint_without_its_marker_is_not_used(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, logged = rig.train("sft", rig.settings("sft", tmp_path / "whole", tiny_model_dir, save_every=1))
    config = rig.settings("sft", tmp_path / "cut", tiny_model_dir, save_every=1)
    stopped(monkeypatch, config, 2)
    last = config.out / "checkpoints" / "checkpoint-2"
    (last / MARKER).unlink()
    (last / "model.safetensors").write_bytes(b"torn")
    resumed, relogged = rig.train("sft", config)
    assert json.loads((config.out / "result.json").read_text())["resumed_at"] == 1
    assert without_clocks(relogged) == without_clocks(logged)
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_a_stop_after_the_last_step_only_saves(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, logged = rig.train("sft", rig.settings("sft", tmp_path / "whole", tiny_model_dir, save_every=2))
    config = rig.settings("sft", tmp_path / "cut", tiny_model_dir, save_every=2)

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(sft, "finish", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_sft(config)
    resumed, relogged = rig.train("sft", config)
    assert json.loads((config.out / "result.json").read_text())["resumed_at"] == 3
    assert without_clocks(relogged) == without_clocks(logged)
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def broken_model(source: Path, folder: Path, tokenizer: Any) -> Path:
    """A copy of a model whose head has a NaN: every loss is NaN."""
    AutoModelForCausalLM.from_pretrained(source).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    found = load_file(folder / "model.safetensors")
    found["model.norm.weight"][0] = float("nan")
    save_file(found, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_loss_that_is_not_finite_stops_before_the_update(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = broken_model(tiny_model_dir, tmp_path / "nan", AutoTokenizer.from_pretrained(tiny_model_dir))
    config = rig.settings("sft", tmp_path, model, rows=3, batch_size=3, micro_batch=1)
    trainers: list[sft.SFTTrainer] = []

    class Kept(sft.SFTTrainer):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            trainers.append(self)

    monkeypatch.setattr(sft, "SFTTrainer", Kept)
    with pytest.raises(TrainingError, match=r"not finite at step 1; rows .*rows\.jsonl:\d") as raised:
        run_sft(config)
    assert str(config.data[0]) in str(raised.value)
    assert not (config.out / "model").exists()
    assert not (config.out / "result.json").exists()
    before = load_file(model / "model.safetensors")
    after: Any = trainers[0].model
    for name, value in after.state_dict().items():
        if name in before:
            assert torch.equal(torch.nan_to_num(value), torch.nan_to_num(before[name])), name


def test_a_gradient_that_is_not_finite_leaves_no_model(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Explodes(sft.SFTTrainer):
        def loss_sum(self, model: Any, batch: Any) -> Any:
            total, sums = super().loss_sum(model, batch)
            return total + (total - total.detach()).abs().sqrt().sum(), sums  # finite; its slope at 0 is not

    monkeypatch.setattr(sft, "SFTTrainer", Explodes)
    config = rig.settings("sft", tmp_path, tiny_model_dir, save_every=1)
    with pytest.raises(TrainingError, match="the gradient is not finite at step 1"):
        run_sft(config)
    assert not list((config.out / "checkpoints").glob("checkpoint-*"))
    assert not (config.out / "model").exists()


def test_a_finished_folder_is_not_done_again(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = rig.settings("sft", tmp_path, tiny_model_dir, rows=4)
    rig.train("sft", config)
    before = (config.out / "model" / "model.safetensors").stat()

    def no_loading(*_: Any, **__: Any) -> None:
        raise AssertionError("loaded a model")

    monkeypatch.setattr(sft, "AutoModelForCausalLM", no_loading)
    run_sft(config)
    assert (config.out / "model" / "model.safetensors").stat() == before


def test_bad_rows_are_named_before_a_model_is_loaded(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = rig.write(tmp_path / "bad.jsonl", [rig.chat(0), {"messages": rig.chat(1)["messages"][:1]}])
    config = rig.settings("sft", tmp_path, tiny_model_dir, data=[data])
    monkeypatch.setattr(sft, "AutoModelForCausalLM", None)
    with pytest.raises(InputError, match=r"bad\.jsonl:2:1: the dialogue does not end with the assistant"):
        run_sft(config)


def test_a_batch_that_processes_cannot_share_is_refused(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = rig.settings("sft", tmp_path, tiny_model_dir)
    monkeypatch.setattr(sft, "AutoModelForCausalLM", None)
    monkeypatch.setattr(hf, "world", lambda: 3)
    with pytest.raises(InputError, match="batch_size: a batch of 4 rows can't be shared by 3 processes"):
        run_sft(config)


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_the_output_loads_with_plain_transformers(
    tiny_model_dir: Path, tmp_path: Path, lora: dict[str, Any] | None
) -> None:
    config = rig.settings("sft", tmp_path, tiny_model_dir, rows=4, lora=lora)
    rig.train("sft", config)
    folder = config.out / "model"
    model = rig.loaded_whole(AutoModelForCausalLM, folder)
    templates = [AutoTokenizer.from_pretrained(place).chat_template for place in (folder, tiny_model_dir)]
    assert templates[0] == templates[1]
    assert templates[0]
    assert (folder / "generation_config.json").exists()
    assert not list(folder.glob("adapter*"))
    start = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    changed = model.model.layers[0].mlp.up_proj.weight - start.model.layers[0].mlp.up_proj.weight
    assert changed.abs().max() > 0
    result = json.loads((config.out / "result.json").read_text())
    assert (result["rows"], result["steps"], result["dropped"]) == (4, 1, {})


def test_gradient_checkpointing_changes_no_weight(tiny_model_dir: Path, tmp_path: Path) -> None:
    plain, _ = rig.train("sft", rig.settings("sft", tmp_path / "a", tiny_model_dir, rows=4, lora=LORA))
    changes: dict[str, Any] = {"gradient_checkpointing": True, "lora": LORA}
    other, _ = rig.train("sft", rig.settings("sft", tmp_path / "b", tiny_model_dir, rows=4, **changes))
    assert rig.largest_difference(plain, other) <= 1e-6
