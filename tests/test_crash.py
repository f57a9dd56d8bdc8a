"""The small tier of benchmarks/crash.py passes, and its detectors find what they are for."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("cc") is None, reason="needs Linux and a C compiler"
)


def crash(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / "crash.py"), "--quick", *words]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("kind", ["sft", "ppo"])
def test_a_save_that_fails_anywhere_loses_nothing(kind: str) -> None:
    done = crash("--only", kind)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASS") == 2


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "broken"), [("sft", "unmarked"), ("ppo", "early")])
def test_a_detector_finds_what_it_is_for(kind: str, broken: str) -> None:
    done = crash("--only", kind, "--break", broken)
    assert done.returncode == 1, done.stdout
    assert "FAIL" in done.stdout, done.stderr
