"""Recipes under `accelerate launch` in two processes, on a tiny model: they end, and both ranks' work counts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def launch(recipe: str, *settings: str, processes: int = 2) -> None:
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", str(processes)]
    launcher += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*launcher, str(ROOT / "recipes" / f"{recipe}.py"), *settings],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    rows = [
        {
            "prompt": [{"role": "user", "content": f"Question number {n}?"}],
            "chosen": "A kind and rather long answer. " * (1 + n % 3),
            "rejected": "No.",
            "chosen_prob": 0.8,
        }
        for n in range(8)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def reward_model(tiny_model_dir: Path, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("reward")
    launch("reward", f"model={tiny_model_dir}", f"data=[{pairs}]", f"out={out}", "batch_size=4", "eval_fraction=0")
    return out / "model"


def metrics(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_dpo_in_two_processes_takes_the_steps_of_one(tiny_model_dir: Path, pairs: Path, tmp_path: Path) -> None:
    for processes in (1, 2):
        out = tmp_path / str(processes)
        given = [f"model={tiny_model_dir}", f"data=[{pairs}]", f"out={out}", "batch_size=4", "precision=fp32"]
        launch("dpo", *given, "learning_rate=1e-3", processes=processes)
    one, two = metrics(tmp_path / "1"), metrics(tmp_path / "2")
    assert len(one) == len(two) == 2
    # The same loss at every step: rank 1's pairs are in it, and in the gradient that led to the second step.
    for single, double in zip(one, two, strict=True):
        assert double["loss"] == pytest.approx(single["loss"], abs=1e-5)
        assert double["margin"] == pytest.approx(single["margin"], abs=1e-5)


def test_ppo_in_two_processes_shares_out_the_prompts(tiny_model_dir: Path, reward_model: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"Question {n}?"}) + "\n" for n in range(8)))
    out = tmp_path / "ppo"
    given = [f"model={tiny_model_dir}", f"reward_model={reward_model}", f"prompts=[{prompts}]", f"out={out}"]
    launch("ppo", *given, "steps=2", "batch_size=4", "max_new_tokens=8", "precision=fp32", "max_length=256")
    assert [row["step"] for row in metrics(out)] == [1, 2]
    assert (out / "model" / "model.safetensors").is_file()


def test_generate_in_two_processes_does_every_prompt_once(tiny_model_dir: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"Question {n}?"}) + "\n" for n in range(6)))
    given = [f"prompts=[{prompts}]", f"engine.model={tiny_model_dir}", "engine.dtype=float32", "rounds=0", "window=2"]
    for processes in (1, 2):
        out = tmp_path / str(processes)
        launch("generate", *given, f"out={out}", "sampling.max_new_tokens=6", processes=processes)
    assert (tmp_path / "2" / "drafts.rank1.jsonl").stat().st_size > 0
    lines = {
        processes: sorted(
            line for path in (tmp_path / processes).glob("drafts*.jsonl") for line in path.read_text().splitlines()
        )
        for processes in ("1", "2")
    }
    assert lines["1"] == lines["2"]
