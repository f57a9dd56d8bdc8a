"""The small tiers of benchmarks/exact.py and exact_ppo.py pass, and each of their detectors finds what it is for."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def exact(*words: str, script: str = "exact") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / f"{script}.py"), "--quick", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_stops_and_splits_change_nothing() -> None:
    done = exact()
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASS") >= 16


def test_ppo_that_is_killed_ends_with_the_same_bits() -> None:
    done = exact(script="exact_ppo")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASS") == 4


@pytest.mark.slow
@pytest.mark.parametrize(("broken", "part"), [("draws", "R4"), ("mean", "R7"), ("skip", "R7")])
def test_a_detector_finds_what_it_is_for(broken: str, part: str) -> None:
    done = exact("--only", part, "--break", broken)
    assert done.returncode == 1, done.stdout
    assert "FAIL" in done.stdout, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("broken", ["coefficient", "moments", "draws"])
def test_a_detector_of_ppo_finds_what_it_is_for(broken: str) -> None:
    done = exact("--break", broken, script="exact_ppo")
    assert done.returncode == 1, done.stdout
    assert "FAIL" in done.stdout, done.stderr
