"""DPO in rounds: each on answers of the policy of its time, held to the right reference, gone on with after a stop."""

import json
import os
import statistics
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from cai.engines.embedded import model_digest
from cai.errors import StorageError
from cai.judges.preference_model import PreferenceModel
from cai.processes import cpu_launch_command
from cai.records.loaders import load_prompts
from cai.storage import FolderLock
from cai.successor import online_dpo
from cai.successor.online_config import OnlineDPOConfig
from cai.successor.online_dpo import prompts_of, run_online_dpo
from cai.train.common import read_metrics
from cai.types import Dialogue
from tests.judges.test_preference_model import classifier
from tests.train import rig
from tests.train.ppo.rig import vowels

ROOT = Path(__file__).parents[2]


def settings(folder: Path, model: Path, **changes: Any) -> OnlineDPOConfig:
    """Return a config for the tiny model, with 7 prompts and a preference model of random weights as the judge."""
    judge = folder / "judge"
    if not judge.exists():
        classifier(model, judge)
    prompts = rig.write(folder / "prompts.jsonl", [{"prompt": rig.sentence(number, 5)} for number in range(7)])
    values: dict[str, Any] = {
        "model": str(model), "out": folder / "out", "prompts": [prompts], "rounds": 2, "batch_size": 2,
        "learning_rate": 1e-3, "precision": "fp32", "save_every": 1, "warmup": 0.0,
        "label": {
            "judge": {"kind": "preference_model", "engine": {"model": str(judge), "dtype": "float32"}},
            "engine": {"dtype": "float32"}, "sampling": {"temperature": 1.0, "max_new_tokens": 8}, "window": 4,
        },
    }  # fmt: skip
    return OnlineDPOConfig.model_validate({**values, **changes})


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_round_is_on_answers_of_the_policy_of_its_time(tmp_path: Path, tiny_model_dir: Path) -> None:
    config = settings(tmp_path, tiny_model_dir, prompts_per_round=4)
    run_online_dpo(config)
    out = config.out
    assert {path.name for path in out.iterdir()} == {"rounds", "model", "metrics.jsonl", "result.json", ".lock"}
    first, second = (out / "rounds" / name for name in "12")
    trained = [load_file(folder / "dpo" / "model" / "model.safetensors") for folder in (first, second)]
    start = load_file(tiny_model_dir / "model.safetensors")
    assert rig.largest_difference(start, trained[0]) > 1e-4
    assert rig.largest_difference(*trained) > 1e-4
    assert rig.largest_difference(trained[1], load_file(out / "model" / "model.safetensors")) == 0
    AutoModelForCausalLM.from_pretrained(out / "model")
    asked = [{prompt.key for prompt in load_prompts([folder / "prompts.jsonl"])} for folder in (first, second)]
    assert [len(each) for each in asked] == [4, 4]
    assert len(asked[0] | asked[1]) == 7  # none twice before all have come
    for folder, policy in ((first, tiny_model_dir), (second, first / "dpo" / "model")):
        made = [row["provenance"]["model"] for row in rows(folder / "label" / "responses.jsonl")]
        assert len(set(made)) == 1
        assert made[0] == model_digest(str(policy))
    result = json.loads((out / "result.json").read_text())
    assert result["steps"] == sum(each["dpo"]["steps"] for each in result["rounds"])
    logged = read_metrics(out / "metrics.jsonl")
    assert [row["step"] for row in logged] == list(range(1, result["steps"] + 1))
    assert {row["round"] for row in logged} == {1, 2}


def test_answers_become_what_the_judge_likes(
    tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def score(self: PreferenceModel, answers: Sequence[tuple[Dialogue, str]], **_: Any) -> list[float]:
        return [20.0 * share_of_vowels(text) for _, text in answers]

    monkeypatch.setattr(PreferenceModel, "score", score)
    prompts = rig.write(tmp_path / "many.jsonl", [{"prompt": rig.sentence(number, 5)} for number in range(32)])
    changes: dict[str, Any] = {"rounds": 3, "epochs": 4, "learning_rate": 1e-2, "batch_size": 4, "save_every": 0}
    config = settings(tmp_path, tiny_model_dir, prompts=[prompts], **changes)
    run_online_dpo(config)
    answers = [rows(config.out / "rounds" / name / "label" / "responses.jsonl") for name in "123"]
    first, second, third = (statistics.mean(share_of_vowels(row["text"]) for row in each) for each in answers)
    assert first < second < third
    assert third > first + 0.1  # its standard error is 0.02


def share_of_vowels(text: str) -> float:
    return float(vowels([()], [text])[0] or 0.0)


def test_a_run_that_was_stopped_ends_as_one_that_was_not(
    tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = (settings(tmp_path / name, tiny_model_dir, save_every=0) for name in "wb")
    run_online_dpo(whole)
    for stage in ("run_label", "run_dpo"):
        kept = getattr(online_dpo, stage)
        calls: list[int] = []

        def stopped(config: Any, kept: Any = kept, calls: list[int] = calls) -> None:
            calls.append(1)
            if len(calls) == 2:
                raise KeyboardInterrupt
            kept(config)

        with monkeypatch.context() as patched:
            patched.setattr(online_dpo, stage, stopped)
            with pytest.raises(KeyboardInterrupt):
                run_online_dpo(broken)
        assert not (broken.out / "model").exists()
    run_online_dpo(broken)
    for name in ("model/model.safetensors", "metrics.jsonl"):
        assert (whole.out / name).read_bytes() == (broken.out / name).read_bytes()
    before = (broken.out / "result.json").stat().st_mtime_ns
    run_online_dpo(broken)
    assert (broken.out / "result.json").stat().st_mtime_ns == before


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_processes_make_the_same_round(tmp_path: Path, tiny_model_dir: Path) -> None:
    alone, both = (settings(tmp_path / name, tiny_model_dir, rounds=1) for name in ("alone", "both"))
    run_online_dpo(alone)
    given = [f"{name}={json.dumps(value)}" for name, value in both.to_plain().items() if name in both.model_fields_set]
    command = cpu_launch_command(2, [str(ROOT / "recipes" / "online_dpo.py"), *given])
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found, expected = (config.out / "rounds" / "1" for config in (both, alone))
    assert rows(found / "label" / "pairs.jsonl") == rows(expected / "label" / "pairs.jsonl")
    models = (load_file(folder / "dpo" / "model" / "model.safetensors") for folder in (found, expected))
    assert rig.largest_difference(*models) <= 1e-5
    assert (both.out / "model" / "model.safetensors").exists()


def test_prompts_come_round(tmp_path: Path, tiny_model_dir: Path) -> None:
    config = settings(tmp_path, tiny_model_dir, prompts_per_round=3)
    prompts = load_prompts(config.prompts)
    seen = [[prompt.key for prompt in prompts_of(prompts, config, number)] for number in range(1, 8)]
    assert len({*seen[0], *seen[1]}) == 6  # none again before all have come
    assert len({*seen[0], *seen[1], *seen[2]}) == 7
    assert all(len(set(each)) == len(each) for each in seen)
    assert seen == [[prompt.key for prompt in prompts_of(prompts, config, number)] for number in range(1, 8)]
    many = settings(tmp_path, tiny_model_dir, prompts_per_round=50)
    assert {prompt.key for prompt in prompts_of(prompts, many, 2)} == {prompt.key for prompt in prompts}
    every = settings(tmp_path, tiny_model_dir)
    assert prompts_of(prompts, every, 2) == prompts


def test_a_second_run_in_its_folder_is_refused(tmp_path: Path, tiny_model_dir: Path) -> None:
    config = settings(tmp_path, tiny_model_dir)
    with FolderLock(config.out), pytest.raises(StorageError, match="another process works in this folder"):
        run_online_dpo(config)
    assert not (config.out / "rounds").exists()
