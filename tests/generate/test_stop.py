"""Stopping `cai generate` with real signals and spent budgets: what was made is kept, and the next start goes on."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cai.budget import BudgetError
from cai.engines.base import GenerateRequest
from cai.engines.scripted import ScriptedEngine
from cai.errors import InputError
from cai.generate import pipeline
from cai.generate.pipeline import run_generate
from cai.stopping import ONE_PRESS_S
from tests.generate.test_pipeline import journals, prompts, reply, settings

__all__ = ["prompts"]

ROOT = Path(__file__).parents[2]

WORKER = """
import sys, time
from pathlib import Path
from cai.engines.base import GenerateRequest
from cai.engines.scripted import ScriptedEngine
from cai.errors import InputError
from cai.errors import guarded
from cai.generate import pipeline
from tests.generate.answers import reply
from cai.generate.config import GenerateConfig

slow = float(sys.argv[3])
def slowly(request, seed):
    print("asked", flush=True)
    time.sleep(slow)
    return reply(request, seed)

pipeline.build_engine = lambda config: ScriptedEngine(slowly)
config = GenerateConfig(prompts=[Path(sys.argv[1])], out=Path(sys.argv[2]), rounds=2, window=2)
code = guarded(lambda: pipeline.run_generate(config))
assert "torch" not in sys.modules
sys.exit(code)
"""


def start(prompts: Path, out: Path, slow: float) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-c", WORKER, str(prompts), str(out), str(slow)]
    child = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert child.stdout
    assert child.stdout.readline() == "asked\n"
    return child


def records(out: Path) -> int:
    return sum((out / f"{name}.jsonl").read_bytes().count(b"\n") for name in ("drafts", "critiques", "revisions"))


@pytest.fixture
def whole(prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    monkeypatch.setattr(pipeline, "build_engine", lambda config: ScriptedEngine(reply))
    run_generate(settings(prompts, tmp_path / "whole"))
    return journals(tmp_path / "whole")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_finishes_what_is_under_way(
    prompts: Path, tmp_path: Path, whole: dict[str, bytes], number: signal.Signals
) -> None:
    child = start(prompts, tmp_path / "out", 0.2)
    child.send_signal(number)
    said, told = child.communicate(timeout=30)
    assert child.returncode == 130
    assert "finishing what is under way; Ctrl-C again stops at once" in told
    assert "stopped; the same command goes on from here" in told
    assert said == "asked\n", "the second of the two requests of the step, and none of the next step"
    assert records(tmp_path / "out") == 2
    run_generate(settings(prompts, tmp_path / "out"))
    assert journals(tmp_path / "out") == whole


def test_the_second_stops_at_once(prompts: Path, tmp_path: Path, whole: dict[str, bytes]) -> None:
    child = start(prompts, tmp_path / "out", 30)
    child.send_signal(signal.SIGINT)
    time.sleep(ONE_PRESS_S + 0.2)
    begun = time.monotonic()
    child.send_signal(signal.SIGINT)
    _, told = child.communicate(timeout=30)
    assert time.monotonic() - begun < 5
    assert child.returncode == 130
    assert "Traceback" not in told
    assert records(tmp_path / "out") == 0
    run_generate(settings(prompts, tmp_path / "out"))
    assert journals(tmp_path / "out") == whole


def test_a_spent_budget_keeps_what_was_made_and_more_of_it_goes_on(
    prompts: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    made: list[int] = []
    for tokens in (1, 3000, 6000):
        with pytest.raises(BudgetError, match=r"the budget is spent: .* what was done is kept: raise the budget"):
            run_generate(settings(prompts, tmp_path / "out", budget={"tokens": tokens}))
        made.append(records(tmp_path / "out"))
        costs = tmp_path / "out" / "costs.jsonl"
        rows = [json.loads(line) for line in costs.read_text().splitlines()] if costs.exists() else []
        assert sum(row["prompt"] + row["completion"] for row in rows) <= 1 + 3000 + 6000
    assert made[0] == 0 < made[1] < made[2] < 29
    run_generate(settings(prompts, tmp_path / "out", budget={"tokens": 10**6, "minutes": 10}))
    assert journals(tmp_path / "out") == whole


def test_time_that_is_over_ends_with_4(prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "build_engine", lambda config: ScriptedEngine(reply))
    with pytest.raises(BudgetError) as caught:
        run_generate(settings(prompts, tmp_path / "out", budget={"minutes": 1e-9}))
    assert caught.value.exit_code == 4
    assert "give the same command again" in str(caught.value)


def test_a_file_that_changes_during_the_work_is_refused_in_the_end(
    prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = prompts.read_bytes()

    def meddling(request: GenerateRequest, seed: int) -> str:
        prompts.write_bytes(before + b'{"prompt": "One more?"}\n')
        return reply(request, seed)

    monkeypatch.setattr(pipeline, "build_engine", lambda config: ScriptedEngine(meddling))
    with pytest.raises(InputError, match="the file has changed during the work; restore it and give the same command"):
        run_generate(settings(prompts, tmp_path / "out"))
    assert not (tmp_path / "out/sft.jsonl").exists()
    monkeypatch.setattr(pipeline, "build_engine", lambda config: ScriptedEngine(reply))
    prompts.write_bytes(before)
    run_generate(settings(prompts, tmp_path / "out"))
    assert (tmp_path / "out/sft.jsonl").exists()


def test_a_folder_holds_what_one_command_makes(
    prompts: Path, tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "whole"
    before = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.iterdir()}
    for more in ({"seed": 1}, {"rounds": 3}, {"constitution": "helpful-honest-harmless"}):
        with pytest.raises(InputError, match="what is here was made with another"):
            run_generate(settings(prompts, out, **more))
    prompts.write_text(prompts.read_text() + '{"prompt": "One more?"}\n')
    with pytest.raises(InputError, match="made with another prompts"):
        run_generate(settings(prompts, out))
    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.iterdir()} == before


def drafts(out: Path) -> list[int]:
    paths = (out / name for name in ("drafts.jsonl", "drafts.rank1.jsonl"))
    return [path.read_bytes().count(b"\n") if path.exists() else 0 for path in paths]


@pytest.mark.slow
def test_ctrl_c_reaches_processes_twice_and_is_one_press(tmp_path: Path, tiny_model_dir: Path) -> None:
    """The terminal signals every process, and their launcher passes it on: each still finishes its step."""
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"Question {n}?", "kind": "helpful"}) + "\n" for n in range(480)))
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    command += [str(ROOT / "recipes/generate.py"), f"prompts=[{path}]", f"engine.model={tiny_model_dir}", "window=8"]
    command += ["helpful_per_prompt=1", "sampling.max_new_tokens=60", "near_duplicates=null"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

    def launched(out: Path) -> subprocess.Popen[bytes]:
        quiet = subprocess.DEVNULL
        return subprocess.Popen(
            [*command, f"out={out}"], env=environment, start_new_session=True, stdout=quiet, stderr=quiet
        )

    child = launched(tmp_path / "out")
    deadline = time.monotonic() + 60
    while (len(made := drafts(tmp_path / "out")) < 2 or min(made) < 2) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(child.pid, signal.SIGINT)
    assert child.wait(timeout=60) != 0
    made = drafts(tmp_path / "out")
    assert 0 < sum(made) < 480
    assert [count % 8 for count in made] == [0, 0], "whole steps"
    before = [(tmp_path / "out" / name).read_bytes() for name in ("drafts.jsonl", "drafts.rank1.jsonl")]
    assert launched(tmp_path / "out").wait(timeout=120) == 0
    assert drafts(tmp_path / "out") == [240, 240]
    for name, kept in zip(("drafts.jsonl", "drafts.rank1.jsonl"), before, strict=True):
        assert (tmp_path / "out" / name).read_bytes().startswith(kept)
