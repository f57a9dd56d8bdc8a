"""The command line as a person meets it: help, wrong input, exit codes."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

MOST_SECONDS = 5.0


def cai(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(Path(__file__).parents[2]), "COLUMNS": "100"}
    command = [sys.executable, "-m", "cai.cli.main", *words]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_help_names_every_option(tmp_path: Path) -> None:
    assert "demo" in cai("--help", cwd=tmp_path).stdout
    shown = cai("demo", "--help", cwd=tmp_path).stdout
    for option in ("--out", "--model", "--constitution", "--prompts", "--seed", "--size", "--rl", "--report-to"):
        assert option in shown
    assert "--processes" in shown
    assert "smoke (under 3 minutes" in shown


def test_version(tmp_path: Path) -> None:
    assert cai("version", cwd=tmp_path).stdout.strip() == "0.1.0"


@pytest.fixture
def wrong(tmp_path: Path) -> Path:
    (tmp_path / "empty-model").mkdir()
    (tmp_path / "weightless").mkdir()
    (tmp_path / "weightless" / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "a-file").write_text("hello\n")
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "number.jsonl").write_text(json.dumps({"prompt": "Hi"}) + "\n" + json.dumps({"prompt": 3}) + "\n")
    (tmp_path / "twice.yaml").write_text("name: x\nversion: '1'\nname: y\nprinciples: []\n")
    (tmp_path / "bad.yaml").write_text("name: x\nversion: '1'\nprinciples:\n  - id: a\n    txt: Be kind.\n")
    (tmp_path / "broken.yaml").write_text("name: x\nprinciples: [\n")
    (tmp_path / "bad.jsonl").write_text(json.dumps({"prompt": "Hi"}) + "\n{oops}\n" + json.dumps({"text": "Hi"}) + "\n")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--size", "huge"], "--size: unknown value 'huge'; use one of smoke, demo, full"),
        (["--rl", "reinforce"], "--rl: unknown value 'reinforce'; use one of ppo, dpo, online_dpo, grpo, rloo"),
        (["--report-to", "paper"], "--report-to: unknown value 'paper'; use one of wandb, trackio, tensorboard"),
        (
            ["--model", "./nowhere"],
            "nowhere: there is no such folder; name an existing folder or a model id of the hub",
        ),
        (["--model", "./empty-model"], "no config.json here; name the folder that a model was saved into"),
        (["--model", "/nowhere"], "/nowhere: there is no such folder; name an existing folder"),
        (["--model", "./weightless"], "weightless: no weights here (*.safetensors); save the model here again"),
        (["--model", "./a-file"], "a-file: this is a file, not a model's folder; name the folder that has config.json"),
        (["--constitution", "empty-model"], "empty-model: this is a folder; name a file"),
        (["--constitution", "twice.yaml"], "twice.yaml:3:1: the key 'name' is there already, in line 1; "),
        (["--prompts", "empty-model"], "empty-model: this is a folder; name a file"),
        (["--prompts", "empty.jsonl"], "empty.jsonl: no prompts; give a file with at least one"),
        (["--prompts", "number.jsonl"], "number.jsonl:2:1: 'prompt' is a"),
        (["--prompts", "a-file"], "a-file: not a file of rows; use one of .jsonl, .jsonl.gz, .csv, .parquet"),
        (["--constitution", "nowhere.yaml"], "nowhere.yaml: no such file; check the path"),
        (["--constitution", "harmles"], "did you mean 'harmless'?"),
        (["--constitution", "bad.yaml"], "bad.yaml:5:5: unknown key 'txt'; did you mean 'text'?"),
        (["--constitution", "broken.yaml"], "broken.yaml:3:1: bad YAML"),
        (["--prompts", "nowhere.jsonl"], "nowhere.jsonl: no such file; check the path"),
        (["--prompts", "bad.jsonl"], "bad.jsonl:2:2: bad JSON"),
    ],
)
def test_wrong_input_is_named_before_anything_is_made(wrong: Path, words: list[str], said: str) -> None:
    before = sorted(wrong.rglob("*"))
    start = time.monotonic()
    done = cai("demo", *words, "--out", "run", cwd=wrong)
    assert time.monotonic() - start < MOST_SECONDS
    assert done.returncode == 2
    assert said in done.stderr
    for line in done.stderr.splitlines():
        assert re.fullmatch(r"[^\s:]+(:\d+:\d+)?: [^;]+; .+", line), line
    assert done.stdout == ""
    assert sorted(wrong.rglob("*")) == before, "nothing is made"


@pytest.mark.parametrize("out", ["a-file", "a-file/run"])
def test_a_file_where_the_runs_folder_should_be_is_left_alone(wrong: Path, out: str) -> None:
    done = cai("demo", "--out", out, cwd=wrong)
    assert done.returncode == 2
    assert done.stderr == f"{out}: {wrong / 'a-file'} is a file, not a folder; name another folder as --out\n"
    assert (wrong / "a-file").read_text() == "hello\n"


@pytest.mark.parametrize(
    "words",
    [
        ["--sizes", "smoke"],
        ["smoke"],
        ["--seed", "one"],
        ["--seed", "-1"],
        ["--seed", str(2**32)],
        ["--processes", "0"],
        ["--model"],
    ],
)
def test_a_wrong_way_to_call_it_ends_with_2(tmp_path: Path, words: list[str]) -> None:
    done = cai("demo", *words, cwd=tmp_path)
    assert done.returncode == 2
    assert "Error: " in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_report_of_nothing_is_refused(tmp_path: Path) -> None:
    done = cai("report", "nowhere", cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
