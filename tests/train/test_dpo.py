"""Direct preference optimisation: a reference that is the policy at the start, every loss, and adapters."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from cai.engines.render import Renderer
from cai.train import dpo
from cai.train.data import Example, load_pairs
from cai.train.dpo import collate
from cai.train.readout import use_packing
from cai.train.references import content_key, pair_sums
from tests.train import rig

LORA = {"r": 4, "alpha": 8}


@torch.no_grad()
def naive_sum(model: Any, row: Example) -> float:
    """The log-probability of an answer, from logits over the whole vocabulary, one row at a time."""
    logprobs = model(input_ids=torch.tensor([[*row.prompt, *row.answer]])).logits[0].log_softmax(-1)
    start = len(row.prompt) - 1
    return sum(float(logprobs[start + i, token]) for i, token in enumerate(row.answer))


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_the_first_loss_is_ln_2_and_the_margin_0(
    tiny_model_dir: Path, tmp_path: Path, lora: dict[str, Any] | None
) -> None:
    config = rig.settings("dpo", tmp_path, tiny_model_dir, lora=lora, beta=0.5)
    found, logged = rig.train("dpo", config)
    assert abs(logged[0]["margin"]) <= 1e-5
    assert logged[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert len(logged) == 3
    assert abs(logged[-1]["margin"]) > 1e-4  # the policy has moved, the reference has not
    assert not any("lora" in name for name in found)
    model = rig.loaded_whole(AutoModelForCausalLM, config.out / "model")
    start = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    assert not torch.equal(model.model.layers[1].mlp.up_proj.weight, start.model.layers[1].mlp.up_proj.weight)
    assert (config.out / "model" / "generation_config.json").exists()
    assert AutoTokenizer.from_pretrained(config.out / "model").chat_template


def test_in_bfloat16_policy_and_reference_start_alike(tiny_model_dir: Path, tmp_path: Path) -> None:
    """Both project in bfloat16: float32 on one side is a margin of several nats on a long answer."""
    rows = [rig.pair(0, chosen=rig.sentence(1, 40), rejected=rig.sentence(2, 40))]
    data = [rig.write(tmp_path / "long.jsonl", rows)]
    config = rig.settings("dpo", tmp_path, tiny_model_dir, data=data, precision="bf16", beta=1.0)
    _, logged = rig.train("dpo", config)
    assert abs(logged[0]["reward_chosen"]) <= 1e-3
    assert abs(logged[0]["reward_rejected"]) <= 1e-3


def other_model(tmp_path: Path, like: Path) -> Path:
    from tests.engines import tiny

    tiny.llama(initializer_range=0.3).save_pretrained(tmp_path / "other")
    AutoTokenizer.from_pretrained(like).save_pretrained(tmp_path / "other")
    return tmp_path / "other"


def test_another_reference_is_taken_from_its_folder(tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = other_model(tmp_path, tiny_model_dir)
    other = AutoModelForCausalLM.from_pretrained(folder)
    config = rig.settings("dpo", tmp_path, tiny_model_dir, rows=4, reference=str(folder), beta=0.1)
    _, logged = rig.train("dpo", config)
    pairs, _ = load_pairs(config.data, Renderer(AutoTokenizer.from_pretrained(tiny_model_dir)), max_length=512)
    policy = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    margins = [
        (naive_sum(policy, pair.chosen) - naive_sum(other, pair.chosen))
        - (naive_sum(policy, pair.rejected) - naive_sum(other, pair.rejected))
        for pair in pairs
    ]
    assert logged[0]["margin"] == pytest.approx(0.1 * sum(margins) / 4, abs=1e-4)


@pytest.mark.parametrize("loss", dpo.LOSSES)
def test_every_loss_takes_steps_down(tiny_model_dir: Path, tmp_path: Path, loss: str) -> None:
    changes: dict[str, Any] = {"loss": loss, "epochs": 6, "rows": 4}
    _, logged = rig.train("dpo", rig.settings("dpo", tmp_path, tiny_model_dir, **changes))
    assert len(logged) == 6
    assert all(math.isfinite(row["loss"]) for row in logged)
    assert logged[-1]["loss"] < logged[0]["loss"]
    assert logged[-1]["margin"] > logged[0]["margin"]


def sums(targets: list[float]) -> dict[str, Tensor]:
    """Numbers of four models and lengths that are all different."""
    names = ("policy_chosen", "policy_rejected", "reference_chosen", "reference_rejected")
    made = {name: torch.randn(len(targets), generator=torch.Generator().manual_seed(i)) for i, name in enumerate(names)}
    made |= {"chosen_length": torch.arange(1, len(targets) + 1), "rejected_length": torch.arange(2, len(targets) + 2)}
    return {**made, "targets": torch.tensor(targets)}


@pytest.mark.parametrize("loss", dpo.LOSSES)
def test_swapping_a_pair_and_its_target_changes_no_loss(tmp_path: Path, loss: str) -> None:
    config = dpo.DPOConfig.model_validate({"out": tmp_path, "data": [], "loss": loss, "simpo_margin": 0.0})
    one = sums([0.8, 0.1, 0.6])
    other = dict(one)
    for left in [name for name in one if "chosen" in name]:
        right = left.replace("chosen", "rejected")
        other[left], other[right] = one[right], one[left]
    other["targets"] = 1 - one["targets"]
    torch.testing.assert_close(dpo.LOSSES[loss](one, config), dpo.LOSSES[loss](other, config))
    hard = {**one, "targets": torch.ones(3)}
    differs = dpo.LOSSES[loss](one, config) != dpo.LOSSES[loss](hard, config)
    assert differs.tolist() == ([False, True, False] if loss == "robust" else [True] * 3)


def test_soft_labels_stop_at_their_own_odds(tiny_model_dir: Path, tmp_path: Path) -> None:
    """With a target of 0.5 the start is the best there is: nothing is learnt."""
    rows = [rig.pair(number, chosen_prob=0.5) for number in range(4)]
    data = [rig.write(tmp_path / "soft.jsonl", rows)]
    _, logged = rig.train("dpo", rig.settings("dpo", tmp_path, tiny_model_dir, data=data))
    assert logged[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert logged[0]["grad_norm"] < 1e-3


def test_files_of_one_name_keep_their_own_reference(tiny_model_dir: Path, tmp_path: Path) -> None:
    data = [rig.write(tmp_path / name / "pairs.jsonl", [rig.pair(number)]) for number, name in enumerate("ab")]
    config = rig.settings("dpo", tmp_path, tiny_model_dir, data=data, batch_size=2, beta=1.0)
    _, logged = rig.train("dpo", config)
    assert abs(logged[0]["reward_chosen"]) <= 1e-5
    assert abs(logged[0]["reward_rejected"]) <= 1e-5


def test_the_result_says_what_was_done(tiny_model_dir: Path, tmp_path: Path) -> None:
    same = {**rig.pair(9), "chosen": "Same.", "rejected": "Same."}
    data = [rig.write(tmp_path / "rows.jsonl", [*(rig.pair(number) for number in range(5)), same])]
    config = rig.settings("dpo", tmp_path, tiny_model_dir, data=data)
    rig.train("dpo", config)
    result = json.loads((config.out / "result.json").read_text())
    assert (result["rows"], result["steps"], result["dropped"]) == (5, 1, {"chosen equals rejected": 1})


@pytest.mark.parametrize("loss", ["sigmoid", "ipo", "hinge"])
def test_loss_and_gradient_are_those_of_trl(tiny_model_dir: Path, tmp_path: Path, loss: str) -> None:
    from datasets import Dataset
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    from tests.engines import tiny

    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    renderer = Renderer(tokenizer)
    config = rig.settings("dpo", tmp_path, tiny_model_dir, rows=6, loss=loss, beta=0.3)
    pairs, _ = load_pairs(config.data, renderer, max_length=512)
    plain: dict[str, Any] = {"use_cpu": True, "bf16": False, "report_to": "none", "disable_tqdm": True}
    theirs = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(tiny_model_dir),
        ref_model=tiny.llama(initializer_range=0.3),
        args=DPOConfig(output_dir=str(tmp_path), loss_type=[loss], beta=0.3, **plain),
        train_dataset=Dataset.from_list([{"prompt": "x", "chosen": " y", "rejected": " z"}]),
        processing_class=tokenizer,
    )
    rows = [
        {
            "prompt_ids": list(p.chosen.prompt),
            "chosen_ids": list(p.chosen.answer),
            "rejected_ids": list(p.rejected.answer),
        }
        for p in pairs
    ]
    untyped: Any = theirs  # its methods have no types
    their_model = untyped.model
    their_loss = untyped.compute_loss(their_model, theirs.data_collator(rows))
    torch.autograd.backward(their_loss)
    ours = object.__new__(dpo.DPOTrainer)
    ours.settings = config
    monkey: Any = ours
    monkey.accelerator = theirs.accelerator
    model = use_packing(AutoModelForCausalLM.from_pretrained(tiny_model_dir), "tiny")
    reference = use_packing(tiny.llama(initializer_range=0.3), "tiny")
    known = {content_key(pair): pair_sums(reference, pair, bf16=False) for pair in pairs}
    total, readings = ours.loss_sum(model, collate(pairs, known))
    torch.autograd.backward(total / len(pairs))
    torch.testing.assert_close(total.detach() / len(pairs), their_loss.detach(), atol=1e-5, rtol=1e-5)
    found = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    wanted = {name: weight.grad for name, weight in their_model.named_parameters() if weight.grad is not None}
    assert max(float(gradient.abs().max()) for gradient in wanted.values()) > 1e-3
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
    assert 0 <= float(readings["accuracy"]) <= len(pairs)


def test_readings_by_hand(tmp_path: Path) -> None:
    config = dpo.DPOConfig.model_validate({"out": tmp_path, "data": [], "beta": 0.5})
    four = {"policy_chosen": -8.0, "policy_rejected": -6.0, "reference_chosen": -10.0, "reference_rejected": -5.0}
    one = {name: torch.tensor([value]) for name, value in (four | {"targets": 0.9}).items()}
    one |= {"chosen_length": torch.tensor([4]), "rejected_length": torch.tensor([2])}
    found = {name: float(value) for name, value in dpo.readings(one, config).items()}
    # log reference - log policy: -2 for the chosen answer, 1 for the rejected one.
    answers = {"kl": -0.5, "chosen_drop": -2.0}
    assert found == {"accuracy": 1.0, "margin": 1.5, "reward_chosen": 1.0, "reward_rejected": -0.5, **answers}
    scaled = dpo.readings(one, config.model_copy(update={"per_token": True}))
    assert {name: float(value) for name, value in scaled.items()} == {
        "accuracy": 1.0,
        "margin": 0.5,
        "reward_chosen": 0.25,
        "reward_rejected": -0.25,
        **answers,
    }
    per_token = dpo.readings(one, config.model_copy(update={"loss": "simpo"}))
    assert {name: float(value) for name, value in per_token.items()} == {
        "accuracy": 1.0,
        "margin": 0.5,
        "reward_chosen": -1.0,
        "reward_rejected": -1.5,
    }


@pytest.mark.parametrize("mode", ["adapter", "copy"])
def test_a_reference_at_every_step_gives_the_run_of_a_kept_one(tiny_model_dir: Path, tmp_path: Path, mode: str) -> None:
    changes: dict[str, Any] = {"lora": LORA, "learning_rate": 1e-2}
    kept, logged = rig.train("dpo", rig.settings("dpo", tmp_path / "kept", tiny_model_dir, **changes))
    config = rig.settings("dpo", tmp_path / mode, tiny_model_dir, reference_mode=mode, **changes)
    found, relogged = rig.train("dpo", config)
    assert abs(logged[-1]["margin"]) > 1e-2
    for row, other in zip(logged, relogged, strict=True):
        assert other == pytest.approx(row, abs=1e-4)
    assert rig.largest_difference(found, kept) <= 1e-4


@pytest.mark.parametrize("loss", ["sigmoid", "hinge"])
def test_per_token_is_the_loss_of_the_means(tmp_path: Path, loss: str) -> None:
    config = dpo.DPOConfig.model_validate({"out": tmp_path, "data": [], "loss": loss})
    one = sums([0.8, 0.1, 0.6])
    means = {**one}
    for side, lengths in (("chosen", [1, 2, 3]), ("rejected", [2, 3, 4])):
        for model in ("policy", "reference"):
            means[f"{model}_{side}"] = one[f"{model}_{side}"] / torch.tensor(lengths)
    torch.testing.assert_close(dpo.LOSSES[loss](dpo.per_token(one), config), dpo.LOSSES[loss](means, config))


def test_per_token_reaches_the_loss(tiny_model_dir: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"rows": 4, "reference": str(other_model(tmp_path, tiny_model_dir))}
    _, whole = rig.train("dpo", rig.settings("dpo", tmp_path / "a", tiny_model_dir, **changes))
    _, scaled = rig.train("dpo", rig.settings("dpo", tmp_path / "b", tiny_model_dir, per_token=True, **changes))
    assert abs(scaled[0]["margin"]) < abs(whole[0]["margin"])
    assert abs(scaled[0]["loss"] - math.log(2)) < abs(whole[0]["loss"] - math.log(2))
    assert scaled[0]["kl"] == pytest.approx(whole[0]["kl"], abs=1e-5)


def test_orpo_needs_no_reference_and_starts_at_its_own_loss(tiny_model_dir: Path, tmp_path: Path) -> None:
    config = rig.settings("dpo", tmp_path, tiny_model_dir, rows=4, loss="orpo", beta=0.3)
    _, logged = rig.train("dpo", config)
    pairs, _ = load_pairs(config.data, Renderer(AutoTokenizer.from_pretrained(tiny_model_dir)), max_length=512)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    losses = []
    for pair in pairs:
        won, lost = (naive_sum(model, side) / len(side.answer) for side in (pair.chosen, pair.rejected))
        odds = [mean - math.log(1 - math.exp(mean)) for mean in (won, lost)]
        losses.append(-won + 0.3 * math.log(1 + math.exp(odds[1] - odds[0])))
    assert logged[0]["loss"] == pytest.approx(sum(losses) / 4, abs=1e-4)
    assert "kl" not in logged[0]
