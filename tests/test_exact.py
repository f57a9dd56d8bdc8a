"""The small tier of benchmarks/exact.py passes, and each of its detectors finds what it is for."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def exact(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / "exact.py"), "--quick", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_stops_and_splits_change_nothing() -> None:
    done = exact()
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASS") >= 16


@pytest.mark.slow
@pytest.mark.parametrize(("broken", "part"), [("draws", "R4"), ("mean", "R7"), ("skip", "R7")])
def test_a_detector_finds_what_it_is_for(broken: str, part: str) -> None:
    done = exact("--only", part, "--break", broken)
    assert done.returncode == 1, done.stdout
    assert "FAIL" in done.stdout, done.stderr
