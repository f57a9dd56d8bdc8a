"""The small tier of benchmarks/ppo_soak.py passes, and it sees a leak and a slow-down."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.ppo_soak import EVERY, Reading, report

ROOT = Path(__file__).parents[1]
COUNT = 2000 // EVERY


def failed(capsys: pytest.CaptureFixture[str], *, leak: int = 0, objects: int = 0, slower: float = 0) -> str:
    """Return the names of the lines that say FAIL; `leak` is in bytes per step, `objects` in objects per step."""
    readings = [
        Reading(0.1 * (1 + slower * at / COUNT), 420_000_000 + leak * EVERY * at, 500_000 + objects * EVERY * at)
        for at in range(COUNT)
    ]
    found = report(readings)
    lines = capsys.readouterr().out.splitlines()
    assert found == [line.split()[0] for line in lines if line.endswith("FAIL")]
    return " ".join(line.split()[0] for line in lines if line.endswith("FAIL"))


def test_what_grows_or_slows_down_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert failed(capsys) == ""
    assert failed(capsys, leak=3000) == "memory"
    assert failed(capsys, objects=4) == "objects"
    assert failed(capsys, slower=0.1) == "seconds"


def test_a_warm_up_is_no_growth() -> None:
    assert not report([Reading(0.1, 400_000_000, 100_000)] * 20 + [Reading(0.1, 500_000_000, 400_000)] * 180)


@pytest.mark.slow
def test_a_hundred_steps_leave_nothing_behind() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "benchmarks" / "ppo_soak.py"), "--quick"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert done.stdout.count("PASS") == 3
