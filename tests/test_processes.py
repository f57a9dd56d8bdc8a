import logging
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cai.processes import is_main, quiet_libraries, rank, wait_for_all, world

ROOT = Path(__file__).parents[1]


def test_without_a_launcher_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert (rank(), world(), is_main()) == (0, 1, True)


def test_a_launcher_tells_each_process_its_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert (rank(), world(), is_main()) == (3, 8, False)


def test_one_process_waits_for_nobody_and_loads_nothing() -> None:
    code = "import sys; from cai.processes import wait_for_all; wait_for_all(); assert 'accelerate' not in sys.modules"
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    wait_for_all()


LATE_RANK = """
import sys, time
from pathlib import Path
from cai.processes import is_main, leave, wait_for_all
if "made" in sys.argv:
    from accelerate import PartialState
    PartialState()
for turn in range(3):
    written = Path(sys.argv[1] + str(turn))
    if is_main():
        time.sleep(0.5)
        written.touch()
    wait_for_all()
    assert written.exists(), f"went on before the others had come, at call {turn}"
leave(0)
"""


@pytest.mark.slow
@pytest.mark.parametrize("told", [["told"], [], ["made"]], ids=["told of CPUs", "not told", "made before"])
def test_two_processes_wait_for_each_other_every_time(tmp_path: Path, told: list[str]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    common |= {"ACCELERATE_USE_CPU": "true"} if told else {}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", LATE_RANK, str(tmp_path / "written"), *told],
            env={**os.environ, **common, "RANK": str(number), "LOCAL_RANK": str(number)},
        )
        for number in range(2)
    ]
    try:
        assert [process.wait(timeout=120) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()


def test_other_libraries_are_kept_quiet_unless_a_person_asked_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "info")
    monkeypatch.delenv("HF_HUB_DISABLE_PROGRESS_BARS", raising=False)
    level = logging.getLogger("peft").level
    try:
        quiet_libraries()
        assert os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] == "1"
        assert os.environ["TRANSFORMERS_VERBOSITY"] == "info"
        assert not logging.getLogger("peft").isEnabledFor(logging.WARNING)
    finally:
        logging.getLogger("peft").setLevel(level)
        monkeypatch.delenv("HF_HUB_DISABLE_PROGRESS_BARS", raising=False)


LEAVES = """
import atexit, sys, threading, time
import torch
from cai.processes import leave
def busy():
    while True:
        torch.randn(300, 300) @ torch.randn(300, 300)
def slow():
    time.sleep(0.3)
    print("waited", end=" ")
atexit.register(print, "ended", end=" ")
threading.Thread(target=slow).start()
threading.Thread(target=busy, daemon=True).start()
time.sleep(0.05)
leave(int(sys.argv[1]))
"""


@pytest.mark.parametrize("code", [0, 3])
def test_a_process_leaves_with_its_code_though_a_thread_is_inside_torch(code: int) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", LEAVES, str(code)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (code, "waited ended ", "")


def test_output_that_a_full_disk_refuses_is_a_failure() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-c", "from cai.processes import leave; print('said'); leave(0)"]
        done = subprocess.run(command, env={**environment, "PYTHONPATH": str(ROOT)}, stdout=full, check=False)
    assert done.returncode == 5
