import json
import math
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from cai.errors import InputError, TrainingError
from cai.judges.trl_reward import TRLReward
from cai.processes import cpu_launch_command
from cai.train.common import read_metrics
from cai.train.group_config import GroupConfig, GRPOConfig, RLOOConfig
from cai.train.grpo import Totals, run_group
from cai.train.rewards.sum import Rewards
from cai.types import Dialogue, Message
from tests.judges.test_preference_model import classifier
from tests.train.ppo.rig import vowels
from tests.train.rig import largest_difference
from tests.train.zero import launched, needs_deepspeed

ROOT = Path(__file__).parents[2]


def settings(folder: Path, model: Path, cls: type[GroupConfig] = GRPOConfig, **changes: Any) -> GroupConfig:
    folder.mkdir(parents=True, exist_ok=True)
    prompts = folder / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"What of {n}?"}) + "\n" for n in range(6)))
    values = {
        "model": str(model), "out": folder / "out", "prompts": [prompts], "steps": 2, "batch_size": 2, "micro_batch": 2,
        "generations": 4, "max_new_tokens": 8, "learning_rate": 1e-3, "precision": "fp32", "save_every": 1,
    }  # fmt: skip
    return cls(**{**values, **changes})


@pytest.mark.parametrize("cls", [GRPOConfig, RLOOConfig])
def test_what_a_finished_run_leaves(tmp_path: Path, tiny_model_dir: Path, cls: type[GroupConfig]) -> None:
    config = settings(tmp_path, tiny_model_dir, cls)
    run_group(config, vowels)
    assert {path.name for path in config.out.iterdir()} == {"model", "metrics.jsonl", "result.json", ".lock"}
    rows = read_metrics(config.out / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2]
    assert {"score", "score_std", "length", "cut_off", "entropy", "grad_norm"} <= set(rows[0])
    assert 0 < rows[0]["score"] < 1
    AutoTokenizer.from_pretrained(config.out / "model")
    trained = AutoModelForCausalLM.from_pretrained(config.out / "model")
    start = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    assert not trained.model.norm.weight.equal(start.model.norm.weight)
    before = (config.out / "result.json").stat().st_mtime_ns
    run_group(config, vowels)
    assert (config.out / "result.json").stat().st_mtime_ns == before


def test_an_adapter_is_merged_into_the_whole_model(tmp_path: Path, tiny_model_dir: Path) -> None:
    config = settings(tmp_path, tiny_model_dir, steps=1, lora={"r": 2})
    run_group(config, vowels)
    trained = AutoModelForCausalLM.from_pretrained(config.out / "model").state_dict()
    start = AutoModelForCausalLM.from_pretrained(tiny_model_dir).state_dict()
    assert trained.keys() == start.keys()
    moved = {name for name in start if not trained[name].equal(start[name])}
    assert moved
    assert all("proj" in name for name in moved)


def test_a_run_that_broke_off_goes_on_from_its_checkpoint(tmp_path: Path, tiny_model_dir: Path) -> None:
    calls = 0

    def breaks(prompts: Sequence[Dialogue], answers: Sequence[str]) -> Sequence[float | None]:
        nonlocal calls
        calls += 1
        return [math.nan if calls == 3 else score for score in vowels(prompts, answers)]

    config = settings(tmp_path, tiny_model_dir, steps=4)
    with pytest.raises(TrainingError, match="is not a finite number"):
        run_group(config, breaks)
    done = [row["step"] for row in read_metrics(config.out / "metrics.jsonl")]
    assert done == [1, 2]
    assert not (config.out / "model").exists()
    run_group(config, vowels)
    assert [row["step"] for row in read_metrics(config.out / "metrics.jsonl")] == [1, 2, 3, 4]


def test_the_config_gives_the_rewards(tmp_path: Path, tiny_model_dir: Path) -> None:
    rewards = [{"kind": "checker", "rule": "not_empty", "weight": 2.0}]
    config = settings(tmp_path, tiny_model_dir, steps=1, rewards=rewards)
    run_group(config)
    assert read_metrics(config.out / "metrics.jsonl")[0]["score"] == pytest.approx(2.0)


def test_bad_input_is_named_before_a_model_is_loaded(tmp_path: Path, tiny_model_dir: Path) -> None:
    with pytest.raises(InputError, match="reward_model: no preference model is named"):
        run_group(settings(tmp_path, tiny_model_dir))
    with pytest.raises(InputError, match="nowhere"):
        run_group(settings(tmp_path, tiny_model_dir, reward_model=tmp_path / "nowhere"))
    told = classifier(tiny_model_dir, tmp_path / "told", told=True)
    with pytest.raises(InputError, match="judges by a principle; give its entry of 'rewards' a 'principle'"):
        run_group(settings(tmp_path, tiny_model_dir, reward_model=told))
    with pytest.raises(InputError, match="no prompt of at most 2 tokens"):
        run_group(settings(tmp_path, tiny_model_dir, max_length=10), vowels)


def test_rewards_in_the_form_that_trl_calls() -> None:
    def scores(prompts: Sequence[Dialogue], answers: Sequence[str]) -> Sequence[float | None]:
        assert prompts[0] == (Message("user", "hi"),)
        return [None if answer == "none" else float(answer) for answer in answers]

    reward = TRLReward(Totals(Rewards.of(scores)))
    prompts = [[{"role": "user", "content": "hi"}]] * 2

    def said(*answers: str) -> list[list[dict[str, str]]]:
        return [[{"role": "assistant", "content": answer}] for answer in answers]

    assert reward(prompts=prompts, completions=said("1.5", "none"), completion_ids=[]) == [1.5, None]
    with pytest.raises(TrainingError, match="1 answers is not a finite number"):
        reward(prompts=prompts, completions=said("inf", "1"))
    with pytest.raises(TrainingError, match="no answer of this step has a reward"):
        reward(prompts=prompts, completions=said("none", "none"))


@needs_deepspeed
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_under_zero_3_two_processes_end_where_two_do_without_it(tmp_path: Path, tiny_model_dir: Path) -> None:
    found = []
    for name in ("plain", "cut"):
        config = settings(tmp_path / name, tiny_model_dir)
        path = tmp_path / f"{name}.json"
        path.write_text(config.model_dump_json())
        target = ["-m", "tests.train.zero", "grpo", str(path)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
        done = (
            launched(3, target)
            if name == "cut"
            else subprocess.run(
                cpu_launch_command(2, target), env=environment, capture_output=True, text=True, check=False
            )
        )
        assert done.returncode == 0, done.stderr[-3000:]
        found.append(load_file(config.out / "model" / "model.safetensors"))
    assert largest_difference(*found) <= 5e-6
    start = load_file(tiny_model_dir / "model.safetensors")
    assert largest_difference(start, found[0]) > 1e-3
