"""The preference model's training: scores at the last token, TRL's loss, a head made by the seed, held-out prompts."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor
from torch.nn.functional import logsigmoid
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from cai.engines.render import Renderer
from cai.errors import InputError
from cai.judges.preference_model import PreferenceModel, score_batch
from cai.train import reward
from cai.train.configs import RewardConfig
from cai.train.data import Example, Pair, load_pairs
from cai.train.hf import Rows
from cai.train.readout import answer_scores
from cai.train.reward import (
    agreement,
    collate,
    evaluate,
    figures,
    load_with_head,
    run_reward,
    split_by_prompt,
)
from cai.types import Message
from tests.train import rig

LORA = {"r": 4, "alpha": 8}


@pytest.fixture(scope="module")
def renderer(tiny_model_dir: Path) -> Renderer:
    return Renderer(AutoTokenizer.from_pretrained(tiny_model_dir))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory, renderer: Renderer) -> list[Pair]:
    path = rig.write(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", [rig.pair(number) for number in range(6)])
    return load_pairs([path], renderer, max_length=512)[0]


def with_head(folder: Path, seed: int, pad_id: int = 0) -> Any:
    config = RewardConfig(out=folder, data=[], seed=seed, precision="fp32")
    return load_with_head(str(folder), config, pad_id, torch.device("cpu"))


@torch.no_grad()
def naive_scores(model: Any, rows: list[Example]) -> Tensor:
    """One row at a time, without padding: the head on the decoder's last state."""
    states = [model.model(torch.tensor([[*row.prompt, *row.answer]])).last_hidden_state[0, -1] for row in rows]
    return torch.stack([model.score(state)[0] for state in states])


def test_training_scores_as_the_judge_does(tiny_model_dir: Path, renderer: Renderer, pairs: list[Pair]) -> None:
    model = with_head(tiny_model_dir, 0, renderer.pad_id).eval()
    answers = [answer for pair in pairs for answer in (pair.chosen, pair.rejected)]
    found = answer_scores(model, collate(pairs)).detach()
    torch.testing.assert_close(found, naive_scores(model, answers), atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        judged = score_batch(model, [[*answer.prompt, *answer.answer] for answer in answers], renderer.pad_id)
    torch.testing.assert_close(found, judged, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("centering", [0.0, 0.05])
def test_loss_and_gradient_are_those_of_trl(
    tiny_model_dir: Path, tmp_path: Path, renderer: Renderer, pairs: list[Pair], centering: float
) -> None:
    from trl.trainer.reward_config import RewardConfig
    from trl.trainer.reward_trainer import RewardTrainer

    model = with_head(tiny_model_dir, 0, renderer.pad_id)
    rows = [
        {f"{side}_ids": [*answer.prompt, *answer.answer] for side, answer in sides}
        for sides in ([("chosen", pair.chosen), ("rejected", pair.rejected)] for pair in pairs)
    ]
    plain: dict[str, Any] = {"use_cpu": True, "bf16": False, "report_to": "none", "disable_tqdm": True}
    theirs: Any = RewardTrainer(
        model=model,
        args=RewardConfig(output_dir=str(tmp_path), center_rewards_coefficient=centering or None, **plain),
        train_dataset=Dataset.from_list(rows),
        processing_class=renderer.tokenizer,
    )
    train_set = theirs.train_dataset
    gradients = []
    ours = object.__new__(reward.PreferenceModelTrainer)
    ours.centering = centering
    their_loss = theirs.compute_loss(model, theirs.data_collator(list(train_set)))
    our_sum, sums = ours.loss_sum(model, collate(pairs))
    for loss in (our_sum / len(pairs), their_loss):
        model.zero_grad()
        torch.autograd.backward(loss)
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    torch.testing.assert_close(our_sum / len(pairs), their_loss, atol=1e-6, rtol=1e-5)
    assert max(float(gradient.abs().max()) for gradient in gradients[1].values()) > 1e-3
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-5, rtol=1e-4)
    assert 0 <= float(sums["accuracy"]) <= len(pairs)


def test_soft_targets_are_each_rows_own(tiny_model_dir: Path, tmp_path: Path, renderer: Renderer) -> None:
    targets = [0.9, 0.2, 0.5, 0.65]
    rows = [rig.pair(number, chosen_prob=target) for number, target in enumerate(targets)]
    config = rig.settings("reward", tmp_path, tiny_model_dir, data=[rig.write(tmp_path / "soft.jsonl", rows)])
    _, logged = rig.train("reward", config)
    found, _ = load_pairs(config.data, renderer, max_length=512)
    model = with_head(tiny_model_dir, config.seed, renderer.pad_id).eval()
    chosen = naive_scores(model, [pair.chosen for pair in found])
    margin = chosen - naive_scores(model, [pair.rejected for pair in found])
    wanted = -sum(t * logsigmoid(m) + (1 - t) * logsigmoid(-m) for t, m in zip(targets, margin, strict=True)) / 4
    assert logged[0]["loss"] == pytest.approx(float(wanted), abs=1e-5)
    assert logged[0]["margin"] == pytest.approx(float(margin.mean()), abs=1e-5)
    right = [(m > 0) == (t >= 0.5) for t, m in zip(targets, margin.tolist(), strict=True)]
    assert logged[0]["accuracy"] == pytest.approx(sum(right) / 4)


def test_a_tie_agrees_with_no_target() -> None:
    margins, targets = torch.tensor([1.0, -1.0, 0.0, 0.0, -1.0]), torch.tensor([0.9, 0.9, 0.9, 0.1, 0.1])
    assert agreement(margins, targets).tolist() == [True, False, False, False, True]


def test_the_head_depends_on_the_seed_alone(tiny_model_dir: Path) -> None:
    torch.manual_seed(1)
    one = with_head(tiny_model_dir, 3).score.weight
    torch.manual_seed(2)
    torch.rand(7)
    same = with_head(tiny_model_dir, 3).score.weight
    other = with_head(tiny_model_dir, 4).score.weight
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert 0.05 < float(one.detach().std()) * one.shape[1] ** 0.5 < 2


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_a_saved_model_scores_as_it_did_in_training(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lora: dict[str, Any] | None
) -> None:
    trained: dict[str, Any] = {}
    finish = reward.finish

    def watched(trainer: Any, *rest: Any) -> None:
        trained["scores"] = judged(trainer.model.eval())
        finish(trainer, *rest)

    monkeypatch.setattr(reward, "finish", watched)
    config = rig.settings("reward", tmp_path, tiny_model_dir, lora=lora, learning_rate=1e-2)
    renderer = Renderer(AutoTokenizer.from_pretrained(tiny_model_dir))
    found, _ = load_pairs(config.data, renderer, max_length=512)
    rows = [[*answer.prompt, *answer.answer] for pair in found for answer in (pair.chosen, pair.rejected)]

    @torch.no_grad()
    def judged(model: Any) -> Tensor:
        return score_batch(model, rows, renderer.pad_id)

    run_reward(config)
    folder = config.out / "model"
    model = rig.loaded_whole(AutoModelForSequenceClassification, folder)
    again = judged(model.eval())
    torch.testing.assert_close(again, trained["scores"], atol=1e-5, rtol=1e-5)
    start = with_head(tiny_model_dir, config.seed, renderer.pad_id).eval()
    before = judged(start)
    assert float((before - again).abs().max()) > 0.01  # it has learnt something
    judge = PreferenceModel.load(str(folder))
    row = rig.pair(0)
    prompt = (Message("user", row["prompt"][0]["content"]),)
    assert judge.score([(prompt, row["chosen"])])[0] == pytest.approx(float(again[0]), abs=1e-5)
    assert model.config.num_labels == 1
    assert AutoTokenizer.from_pretrained(folder).chat_template


def test_training_on_goes_from_the_head_that_is_there(tiny_model_dir: Path, tmp_path: Path) -> None:
    config = rig.settings("reward", tmp_path, tiny_model_dir, rows=4)
    trained, _ = rig.train("reward", config)
    again = with_head(config.out / "model", 99)
    assert torch.equal(again.score.weight, trained["score.weight"])


def test_held_out_prompts_are_never_trained_on(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two pairs per prompt; max_length cuts the prompt of one of them more than the other's.
    rows = [rig.pair(number % 12) for number in range(12)]
    rows += [{**row, "rejected": "I think that " * 9} for row in rows]
    seen: list[str] = []

    class Watched(Rows):
        def __getitem__(self, index: int) -> Any:
            pair = super().__getitem__(index)
            seen.append(pair.key)
            return pair

    monkeypatch.setattr(reward, "Rows", Watched)
    data = [rig.write(tmp_path / "rows.jsonl", rows)]
    config = rig.settings("reward", tmp_path, tiny_model_dir, data=data, eval_fraction=0.4, max_length=48)
    run_reward(config)
    renderer = Renderer(AutoTokenizer.from_pretrained(tiny_model_dir))
    found, _ = load_pairs(data, renderer, max_length=48)
    train, held = split_by_prompt(found, share=0.4)
    assert len({pair.chosen.prompt for pair in found}) > len({pair.key for pair in found}) == 12
    assert len(train) + len(held) == 24
    assert len(train) % 2 == len(held) % 2 == 0
    assert held
    assert seen
    assert set(seen) <= {pair.key for pair in train}
    assert not set(seen) & {pair.key for pair in held}
    result = json.loads((config.out / "result.json").read_text())
    assert (result["rows"], result["held_out"]["pairs"]) == (len(train), len(held))
    reordered, _ = split_by_prompt(found[::-1], share=0.4)
    assert sorted(map(id, reordered)) == sorted(map(id, train))


def test_the_held_out_figures_are_those_of_the_scores(tiny_model_dir: Path, renderer: Renderer) -> None:
    model = with_head(tiny_model_dir, 0, renderer.pad_id).eval()
    rows = [Example((5, 6), (7, end), "row") for end in (8, 9)]
    low, high = sorted(rows, key=lambda row: float(naive_scores(model, [row])[0]))
    margin = naive_scores(model, [high])[0] - naive_scores(model, [low])[0]
    found = evaluate(model, [Pair(high, low, 1.0, "", "a"), Pair(high, low, 0.2, "", "b")])
    soft = -(0.2 * logsigmoid(margin) + 0.8 * logsigmoid(-margin))
    assert (found["pairs"], found["accuracy"]) == (2, 0.5)
    assert found["loss"] == pytest.approx(float(-logsigmoid(margin) + soft) / 2, abs=1e-5)
    every = figures(torch.stack([margin, margin]), torch.tensor([1.0, 0.2]))
    assert every == pytest.approx({name: found[name] for name in every}, abs=1e-5)
    prob = float(margin.sigmoid())
    assert found["brier"] == pytest.approx(((1 - prob) ** 2 + (0.2 - prob) ** 2) / 2, abs=1e-5)
    assert evaluate(model, []) == {"pairs": 0}
    by_head = evaluate(model, [Pair(high, low, 1.0, "", "a")], heads=["all", "none"])["heads"]
    assert (by_head["all"]["accuracy"], by_head["none"]) == (1.0, {"pairs": 0})


def test_prompts_of_the_evaluation_files_are_not_trained_on(tiny_model_dir: Path, tmp_path: Path) -> None:
    rows = [rig.pair(number) for number in range(8)]
    shouted = [{"role": "user", "content": rows[5]["prompt"][0]["content"].upper().replace(" ", "  ") + "!"}]
    held = [{**rows[0], "rejected": "No."}, {**rows[5], "chosen": "So it is.", "prompt": shouted}]
    files = [rig.write(tmp_path / "held.jsonl", held)]
    data = [rig.write(tmp_path / "rows.jsonl", rows)]
    config = rig.settings("reward", tmp_path, tiny_model_dir, data=data, eval_data=files, eval_fraction=0.9)
    run_reward(config)
    result = json.loads((config.out / "result.json").read_text())
    assert (result["rows"], result["held_out"]["pairs"]) == (6, 2)
    assert result["dropped"] == {"the prompt is held out": 2}
    same = config.model_copy(update={"eval_data": data, "out": tmp_path / "same"})
    with pytest.raises(InputError, match="eval_data: it has every prompt of 'data'; hold out other prompts"):
        run_reward(same)


def test_held_out_figures_do_not_depend_on_the_batch(
    tiny_model_dir: Path, renderer: Renderer, pairs: list[Pair]
) -> None:
    model = with_head(tiny_model_dir, 0, renderer.pad_id)
    one, three = (evaluate(model, pairs, size=size) for size in (1, 3))
    plain = {name for name, value in one.items() if not isinstance(value, dict)}
    assert {name: one[name] for name in plain} == pytest.approx({name: three[name] for name in plain}, abs=1e-5)
    assert one["pairs"] == 6


def test_label_noise_corrects_the_loss(tiny_model_dir: Path, tmp_path: Path, renderer: Renderer) -> None:
    config = rig.settings("reward", tmp_path, tiny_model_dir, rows=4, label_noise=0.3, centering=0.1)
    _, logged = rig.train("reward", config)
    found, _ = load_pairs(config.data, renderer, max_length=512)
    model = with_head(tiny_model_dir, config.seed, renderer.pad_id).eval()
    chosen, rejected = (naive_scores(model, [getattr(pair, side) for pair in found]) for side in ("chosen", "rejected"))
    margin = chosen - rejected
    wanted = -torch.log(0.7 * margin.sigmoid() + 0.3 * (-margin).sigmoid()) + 0.1 * (chosen + rejected).square()
    assert logged[0]["loss"] == pytest.approx(float(wanted.mean()), abs=1e-5)


def test_where_padding_is_the_end_of_turn_plain_transformers_still_reads_the_score(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    start = tmp_path / "start"
    AutoModelForCausalLM.from_pretrained(tiny_model_dir).save_pretrained(start)
    tokenizer: Any = AutoTokenizer.from_pretrained(tiny_model_dir)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(start)
    config = rig.settings("reward", tmp_path, start, rows=4)
    rig.train("reward", config)
    judge = PreferenceModel.load(str(config.out / "model"))
    found, _ = load_pairs(config.data, judge.renderer, max_length=512)
    rows = [[*pair.chosen.prompt, *pair.chosen.answer] for pair in found]
    assert len({len(row) for row in rows}) > 1
    saved: Any = AutoTokenizer.from_pretrained(config.out / "model")
    assert saved.pad_token != saved.eos_token
    model = AutoModelForSequenceClassification.from_pretrained(config.out / "model").eval()
    with torch.no_grad():
        plain = model(**saved.pad({"input_ids": rows}, return_tensors="pt")).logits[:, 0]
    assert judge.score_ids(rows) == pytest.approx(plain.tolist(), abs=1e-5)


HEADS = {"harmless": ["red_team"], "helpful": ["helpful"]}


def both_ways(count: int) -> list[dict[str, Any]]:
    """Return pairs that are labelled one way for one head and the other way for the other."""
    rows = []
    for number in range(count):
        row = rig.pair(number, kind="red_team", chosen_prob=0.9)
        rows += [row, {**row, "kind": "helpful", "chosen": row["rejected"], "rejected": row["chosen"]}]
    return rows


def two(folder: Path, model: Path, rows: list[dict[str, Any]], **changes: Any) -> Any:
    data = [rig.write(folder / "two.jsonl", rows)]
    return rig.settings("reward", folder, model, data=data, **{"heads": HEADS, **changes})


def test_each_pair_is_scored_by_its_own_head(tiny_model_dir: Path, tmp_path: Path, renderer: Renderer) -> None:
    rows = [rig.pair(number, kind="red_team" if number == 1 else "helpful") for number in range(4)]
    config = two(tmp_path, tiny_model_dir, rows, centering=0.1)
    _, logged = rig.train("reward", config)
    model = load_with_head(str(tiny_model_dir), config, renderer.pad_id, torch.device("cpu")).eval()
    found, _ = load_pairs(config.data, renderer, max_length=512)
    assert len({float(weight) for weight in model.score.weight[:, 0].detach()}) == 2  # each head has a start of its own
    weights = model.score.weight.detach().clone()
    chosen, rejected = [], []
    for pair, head in zip(found, [1, 0, 1, 1], strict=True):
        with torch.no_grad():
            model.score.weight[0] = weights[head]  # what `naive_scores` reads
        chosen.append(naive_scores(model, [pair.chosen])[0])
        rejected.append(naive_scores(model, [pair.rejected])[0])
    margin, total = torch.stack(chosen) - torch.stack(rejected), torch.stack(chosen) + torch.stack(rejected)
    wanted = (-logsigmoid(margin) + 0.1 * total.square()).mean()
    assert logged[0]["loss"] == pytest.approx(float(wanted), abs=1e-5)
    right = (margin > 0).double()
    assert logged[0]["accuracy_harmless"] == pytest.approx(float(right[1]))
    assert logged[0]["accuracy_helpful"] == pytest.approx(float(right[[0, 2, 3]].mean()))
    assert logged[0]["accuracy"] == pytest.approx(float(right.mean()))


def test_a_step_without_pairs_of_a_head_leaves_its_score_alone(
    tiny_model_dir: Path, renderer: Renderer, pairs: list[Pair], tmp_path: Path
) -> None:
    config = two(tmp_path, tiny_model_dir, both_ways(2))
    model = load_with_head(str(tiny_model_dir), config, renderer.pad_id, torch.device("cpu"))
    trainer = object.__new__(reward.PreferenceModelTrainer)
    trainer.heads = tuple(HEADS)
    loss, sums = trainer.loss_sum(model, collate([replace(pair, head=1) for pair in pairs]))
    torch.autograd.backward(loss)
    assert torch.equal(model.score.weight.grad[0], torch.zeros_like(model.score.weight.grad[0]))
    assert float(model.score.weight.grad[1].abs().max()) > 1e-3
    assert (float(sums["pairs_harmless"]), float(sums["pairs_helpful"])) == (0, 6)


def test_the_split_into_micro_batches_changes_nothing_with_heads(tiny_model_dir: Path, tmp_path: Path) -> None:
    rows = [rig.pair(number, kind="helpful" if number % 3 else "red_team") for number in range(8)]
    runs = [
        rig.train("reward", two(tmp_path / str(micro), tiny_model_dir, rows, batch_size=8, micro_batch=micro, epochs=2))
        for micro in (1, 8)
    ]
    assert rig.largest_difference(runs[0][0], runs[1][0]) < 1e-6
    for one, other in zip(runs[0][1], runs[1][1], strict=True):
        assert one == pytest.approx(other, abs=1e-4)


@pytest.mark.parametrize("lora", [None, {"r": 8, "alpha": 32}], ids=["full", "lora"])
def test_heads_learn_what_they_are_taught(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], lora: Any
) -> None:
    held = rig.write(tmp_path / "held.jsonl", both_ways(14)[24:])
    config = two(
        tmp_path, tiny_model_dir, both_ways(4), eval_data=[held], epochs=12, batch_size=8, micro_batch=8,
        learning_rate=1e-2, lora=lora,
    )  # fmt: skip
    _, logged = rig.train("reward", config)
    told = capsys.readouterr().err
    assert "contradiction" not in told  # the same pair both ways, but for two heads
    assert logged[-1]["accuracy_harmless"] == logged[-1]["accuracy_helpful"] == 1
    folder = config.out / "model"
    model = rig.loaded_whole(AutoModelForSequenceClassification, folder)
    assert model.config.id2label == {0: "harmless", 1: "helpful"}
    assert model.config.label2id == {"harmless": 0, "helpful": 1}
    harmless = PreferenceModel.load(str(folder), head="harmless")
    helpful = harmless.at("helpful")
    for number in range(4):
        row = rig.pair(number)
        prompt = (Message("user", row["prompt"][0]["content"]),)
        asked = [(prompt, row["chosen"]), (prompt, row["rejected"])]
        (good, bad), (worse, better) = harmless.score(asked), helpful.score(asked)
        assert good > bad
        assert better > worse
    result = json.loads((config.out / "result.json").read_text())
    assert result["rows_by_head"] == {"harmless": 4, "helpful": 4}
    by_head = result["held_out"]["heads"]
    assert {name: figures["pairs"] for name, figures in by_head.items()} == {"harmless": 2, "helpful": 2}
    for name in ("accuracy", "loss", "brier"):
        mean = (by_head["harmless"][name] + by_head["helpful"][name]) / 2
        assert result["held_out"][name] == pytest.approx(mean, abs=1e-6)
