"""The small tier of benchmarks/soak.py passes, and each of its detectors finds what it is for."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def soak(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / "soak.py"), "--quick", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("part", ["R1", "R2", "R10"])
def test_nothing_is_lost(part: str) -> None:
    done = soak("--only", part)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASS") >= 2


@pytest.mark.slow
@pytest.mark.parametrize(("broken", "part"), [("clock", "R1"), ("uncut", "R2"), ("in-place", "R2"), ("clock", "R10")])
def test_a_detector_finds_what_it_is_for(broken: str, part: str) -> None:
    done = soak("--only", part, "--break", broken)
    assert done.returncode == 1, done.stdout
    assert "FAIL" in done.stdout, done.stderr
