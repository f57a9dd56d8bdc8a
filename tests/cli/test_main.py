"""The command line as a person meets it: help, wrong input, exit codes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def cai(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(Path(__file__).parents[2]), "COLUMNS": "100"}
    command = [sys.executable, "-m", "cai.cli.main", *words]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_help_names_every_option(tmp_path: Path) -> None:
    assert "demo" in cai("--help", cwd=tmp_path).stdout
    shown = cai("demo", "--help", cwd=tmp_path).stdout
    for option in ("--out", "--model", "--constitution", "--prompts", "--seed", "--size", "--rl", "--report-to"):
        assert option in shown


def test_version(tmp_path: Path) -> None:
    assert cai("version", cwd=tmp_path).stdout.strip() == "0.1.0"


@pytest.fixture
def wrong(tmp_path: Path) -> Path:
    (tmp_path / "empty-model").mkdir()
    (tmp_path / "bad.yaml").write_text("name: x\nversion: '1'\nprinciples:\n  - id: a\n    txt: Be kind.\n")
    (tmp_path / "broken.yaml").write_text("name: x\nprinciples: [\n")
    (tmp_path / "bad.jsonl").write_text(json.dumps({"prompt": "Hi"}) + "\n{oops}\n" + json.dumps({"text": "Hi"}) + "\n")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--size", "huge"], "--size: unknown value 'huge'; use one of smoke, demo, full"),
        (["--rl", "grpo"], "--rl: unknown value 'grpo'; use one of ppo, dpo"),
        (["--report-to", "paper"], "--report-to: unknown value 'paper'; use one of wandb, trackio, tensorboard"),
        (
            ["--model", "./nowhere"],
            "nowhere: there is no such folder; name an existing folder or a model id of the hub",
        ),
        (["--model", "./empty-model"], "no config.json here; name the folder that a model was saved into"),
        (["--constitution", "nowhere.yaml"], "nowhere.yaml: no such file; check the path"),
        (["--constitution", "harmles"], "did you mean 'harmless'?"),
        (["--constitution", "bad.yaml"], "bad.yaml:5:5: unknown key 'txt'; did you mean 'text'?"),
        (["--constitution", "broken.yaml"], "broken.yaml:3:1: bad YAML"),
        (["--prompts", "nowhere.jsonl"], "nowhere.jsonl: no such file; check the path"),
        (["--prompts", "bad.jsonl"], "bad.jsonl:2:2: bad JSON"),
    ],
)
def test_wrong_input_is_named_before_anything_is_made(wrong: Path, words: list[str], said: str) -> None:
    done = cai("demo", *words, "--out", "run", cwd=wrong)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (wrong / "run").exists()


def test_an_unknown_option_ends_with_2(tmp_path: Path) -> None:
    done = cai("demo", "--sizes", "smoke", cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_a_report_of_nothing_is_refused(tmp_path: Path) -> None:
    done = cai("report", "nowhere", cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
