"""Several processes end as one does: with the exit code of the first that failed, and without a traceback."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cai.processes import cpu_launch_command

SCRIPT = """
import os, signal, sys, time
from cai.errors import InputError, Problem, guarded
from cai.processes import rank
def work():
    if rank() == 1 and sys.argv[1] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if sys.argv[1] == "input":
        raise InputError(Problem("a.jsonl", 3, 1, "bad", "mend it"))
    if sys.argv[1] != "fine":
        time.sleep(120)
sys.exit(guarded(work))
"""


@pytest.mark.parametrize(("how", "code"), [("fine", 0), ("input", 2), ("killed", 5)])
def test_the_exit_code_is_that_of_the_first_that_failed(tmp_path: Path, how: str, code: int) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = cpu_launch_command(2, [str(tmp_path / "script.py"), how])
    assert command[0] == sys.executable
    start = time.monotonic()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert time.monotonic() - start < 60
    assert "Traceback" not in done.stderr
    if how == "input":
        assert "a.jsonl:3:1: bad; mend it" in done.stderr
    if how == "killed":
        assert "error: process 1 was ended by SIGKILL; the same command goes on from here" in done.stderr
