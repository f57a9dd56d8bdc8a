"""A stage's own process: it dies with its parent, and becomes the launcher where several processes are asked for."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cai.errors import INTERRUPTED
from cai.successor.child import launch_command

ROOT = Path(__file__).parents[2]


def test_the_launcher_starts_the_same_stage() -> None:
    command = launch_command("sft", Path("config.json"), 2)
    assert "--nproc-per-node=2" in command or command[command.index("--num_processes") + 1] == "2"
    assert command[-4:] == ["-m", "cai.successor.child", "sft", "config.json"]


@pytest.mark.skipif(sys.platform != "linux", reason="the system call is Linux's")
def test_a_child_dies_with_its_parent(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    grandchild = (
        "import os, pathlib, time; from cai.successor.child import die_with_parent; die_with_parent(); "
        f"pathlib.Path({str(note)!r}).write_text(str(os.getpid())); time.sleep(60)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {grandchild!r}])"]
    )
    deadline = time.monotonic() + 20
    while not (note.exists() and note.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    pid = int(note.read_text())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        if Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
            return
        time.sleep(0.05)
    pytest.fail("the child outlived its parent")


def test_bad_input_in_a_stage_ends_with_its_exit_code(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text('{"prompts": ["nowhere.jsonl"], "out": "' + str(tmp_path / "out") + '"}')
    done = subprocess.run(
        [sys.executable, "-m", "cai.successor.child", "generate", str(config)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.strip() == "nowhere.jsonl: no such file; check the path"


def test_an_interrupted_stage_leaves_the_word_to_the_run(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import pathlib\n"
        "def interrupted(self, *args, **kwargs):\n"
        "    raise KeyboardInterrupt\n"
        "pathlib.Path.read_bytes = interrupted\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "cai.successor.child", "sft", str(tmp_path / "config.json")],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == INTERRUPTED
    assert "stopped" not in done.stderr
