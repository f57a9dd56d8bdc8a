"""The whole loop on the real model: once left alone, once killed again and again, once with DPO in PPO's place."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.model, pytest.mark.slow, pytest.mark.timeout(1500)]

ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "passive"}
STAGES = ("prompts", "generate", "sft", "label", "reward", "ppo", "evaluate")
KILLED_IN = ("generate", "sft", "label", "reward", "ppo")


def command(out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "cai.cli.main", "demo", "--size", "smoke", "--out", str(out), *more]


def run(out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(out, *more), env=ENVIRONMENT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was left alone."""
    out = tmp_path_factory.mktemp("whole") / "run"
    done = run(out)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "no difference shown" in done.stdout or "better" in done.stdout or "worse" in done.stdout
    assert str(out / "report.html") in done.stdout
    return out


def records_and_weights(run: Path) -> dict[str, bytes]:
    """Everything that must not depend on how a run came to its end: journals, data, summaries and weights."""
    skipped = {"ledger.jsonl", "metrics.jsonl", "costs.jsonl"}
    found = [path for pattern in ("*.jsonl", "*.safetensors", "summary.json") for path in run.rglob(pattern)]
    return {str(path.relative_to(run)): path.read_bytes() for path in found if path.name not in skipped}


def test_a_run_makes_all_that_it_should(whole: Path) -> None:
    about = json.loads((whole / "run.json").read_text())
    assert about["constitution"]["name"] == "harmless"
    assert len(about["constitution"]["digest"]) == 64
    assert {"cai", "torch", "transformers"} <= set(about["versions"])
    for stage in STAGES:
        assert (whole / "gen-1" / stage / "manifest.json").is_file()
    counts = json.loads((whole / "gen-1/generate/result.json").read_text())["counts"]
    assert counts["drafts"] >= 8
    assert 0 < counts["revisions"] <= counts["critiques"] <= 8
    assert counts["training_rows"] >= 4
    measures = json.loads((whole / "gen-1/evaluate/summary.json").read_text())["measures"]
    assert {name for name, measure in measures.items() if measure["trained_on"]} == {"direction", "preference_model"}
    assert (whole / "report.html").stat().st_size > 50_000


def test_a_done_stage_is_not_done_again(whole: Path) -> None:
    start = time.monotonic()
    again = run(whole)
    assert again.returncode == 0
    assert again.stdout.count("done before") == len(STAGES)
    assert time.monotonic() - start < 30


def test_other_settings_are_refused_in_the_same_folder(whole: Path) -> None:
    other = run(whole, "--seed", "7")
    assert other.returncode == 2
    assert "another seed" in other.stderr
    assert "Traceback" not in other.stderr


def test_killed_five_times_it_ends_with_the_same_bytes(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    for stage in KILLED_IN:
        kill_inside(out, stage)
    done = run(out)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("done before") >= 4
    expected, found = records_and_weights(whole), records_and_weights(out)
    assert sorted(found) == sorted(expected)
    assert [name for name in expected if expected[name] != found[name]] == []


def kill_inside(out: Path, stage: str) -> None:
    """Start the run, let it come some seconds into a stage, and kill it without a warning."""
    process = subprocess.Popen(
        command(out), env={**ENVIRONMENT, "PYTHONUNBUFFERED": "1"}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    for line in process.stdout:
        if f"gen-1/{stage}: " in line.decode() and "done before" not in line.decode():
            break
    time.sleep(9)
    assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_ctrl_c_ends_with_130_and_a_word(whole: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        command(tmp_path / "run"),
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    time.sleep(8)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on from here" in said
    assert "Traceback" not in said


def test_dpo_is_a_drop_in_for_ppo(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "elsewhere"
    shutil.copytree(whole, out, copy_function=os.link)
    done = run(out, "--rl", "dpo")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("done before") == 5
    assert (out / "gen-1/dpo/model/model.safetensors").is_file()
    assert (out / "gen-1/evaluate.old-1").is_dir()
