import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from cai.errors import InputError, TrainingError
from cai.train.ppo import checkpoint
from cai.train.ppo.config import PPOConfig
from cai.train.ppo.trainer import Trainer, run_ppo
from cai.types import Dialogue
from tests.train.ppo.rig import metrics, settings, trainer, vowels


def with_held_out(folder: Path, model: Path, **changes: Any) -> PPOConfig:
    folder.mkdir(parents=True, exist_ok=True)
    held_out = folder / "held_out.jsonl"
    held_out.write_text("".join(json.dumps({"prompt": f"And what of {n}?"}) + "\n" for n in range(4)))
    return settings(folder, model, **{"eval_prompts": [held_out], "eval_every": 2, **changes})


def test_held_out_prompts_are_read_every_few_steps_by_the_same_seeds(tmp_path: Path, tiny_model_dir: Path) -> None:
    config = with_held_out(tmp_path, tiny_model_dir, steps=3, learning_rate=1e-9, value_learning_rate=1e-9)
    run_ppo(config, vowels)
    rows = metrics(config.out)
    assert ["eval_score" in row for row in rows] == [False, True, True]
    assert rows[1]["eval_score"] == rows[2]["eval_score"]


def test_the_best_weights_are_saved_and_not_the_last(tmp_path: Path, tiny_model_dir: Path) -> None:
    asked = 0

    def falls(prompts: Sequence[Dialogue], answers: Sequence[str]) -> Sequence[float | None]:
        """Score held-out prompts lower each time."""
        nonlocal asked
        if prompts[0][-1].content.startswith("And"):
            asked += 1
            return [-float(asked)] * len(answers)
        return vowels(prompts, answers)

    best = with_held_out(tmp_path / "best", tiny_model_dir, steps=6, keep="best")
    run_ppo(best, falls)
    short = with_held_out(tmp_path / "short", tiny_model_dir, steps=2)
    run_ppo(short, vowels)
    result = json.loads((best.out / "result.json").read_text())
    assert result["kept_step"] == 2
    assert (best.out / "model" / "model.safetensors").read_bytes() == (
        short.out / "model" / "model.safetensors"
    ).read_bytes()
    assert not (best.out / "best").exists()


def test_another_reward_may_decide(tmp_path: Path, tiny_model_dir: Path) -> None:
    rewards = [
        {"kind": "checker", "rule": "not_empty"},
        {"kind": "checker", "rule": "json", "weight": 0, "name": "form"},
    ]
    config = with_held_out(tmp_path, tiny_model_dir, steps=2, keep="best", rewards=rewards, best_by="form")
    run_ppo(config)
    row = metrics(config.out)[-1]
    assert {"reward_form", "reward_checker", "eval_reward_form", "eval_reward_checker", "eval_score"} <= set(row)


def test_a_best_of_an_earlier_run_is_not_taken_over(tmp_path: Path, tiny_model_dir: Path) -> None:
    config = with_held_out(tmp_path, tiny_model_dir, keep="best")
    ready = trainer(tmp_path, tiny_model_dir)
    checkpoint.save_best(config.out / "best", ready.learner.policy, step=9, score=9.0)
    assert checkpoint.read_best(config.out / "best" / "checkpoint-9") == {"step": 9, "score": 9.0}
    again = Trainer(config, ready.accelerator, vowels)
    assert again.held_out.restore(again.learner.policy) is None


def test_a_step_that_is_taken_again_changes_nothing(tmp_path: Path, tiny_model_dir: Path) -> None:
    config = with_held_out(tmp_path, tiny_model_dir, keep="best")
    ready = Trainer(config, trainer(tmp_path, tiny_model_dir).accelerator, vowels)
    for score in (0.5, 0.5, 0.4):
        ready.held_out.keep_if_best(ready.learner.policy, 2, {"eval_score": score})
        with torch.no_grad():
            ready.learner.policy.value_head.bias.add_(1.0)
    assert ready.held_out.restore(ready.learner.policy) == 2
    assert ready.learner.policy.value_head.bias.tolist() == [0.0]


def test_prompts_that_are_trained_on_are_refused(tmp_path: Path, tiny_model_dir: Path) -> None:
    config = with_held_out(tmp_path, tiny_model_dir)
    with pytest.raises(InputError, match="4 of its prompts are trained on"):
        run_ppo(config.model_copy(update={"prompts": [*config.prompts, *config.eval_prompts]}), vowels)


def test_held_out_answers_without_a_reward_are_an_error(tmp_path: Path, tiny_model_dir: Path) -> None:
    def only_training(prompts: Sequence[Dialogue], answers: Sequence[str]) -> Sequence[float | None]:
        return [None if prompt[-1].content.startswith("And") else 0.0 for prompt in prompts]

    with pytest.raises(TrainingError, match="no answer to a prompt of eval_prompts"):
        run_ppo(with_held_out(tmp_path, tiny_model_dir), only_training)
