"""The process of one stage: `python -m cai.successor.child NAME CONFIG.json [--processes N]`.

Each stage runs in a process of its own, so memory is given back and each can have its own layout. It dies with the
process that started it, so a killed run leaves nobody behind who still writes.
"""

import argparse
import ctypes
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

from cai.errors import INTERRUPTED, guarded
from cai.processes import cpu_launch_command, leave, quiet_libraries, use_cpu_processes
from cai.successor.entries import ENTRIES

_PR_SET_PDEATHSIG = 1


def main() -> NoReturn:
    """Run the stage, or become the launcher that runs it in several processes."""
    parser = argparse.ArgumentParser(prog="cai.successor.child")
    parser.add_argument("name", choices=sorted(ENTRIES))
    parser.add_argument("config", type=Path)
    parser.add_argument("--processes", type=int, default=1)
    given = parser.parse_args()
    die_with_parent()
    quiet_libraries()
    if given.processes > 1 and "RANK" not in os.environ:
        os.execv(sys.executable, launch_command(given.name, given.config, given.processes))
    leave(guarded(lambda: _run(given.name, given.config)))


def _run(name: str, config: Path) -> None:
    entry = ENTRIES[name]
    try:
        entry.load_function()(entry.load_config().model_validate_json(config.read_bytes()))
    except KeyboardInterrupt:
        leave(INTERRUPTED)  # the run tells of it


def die_with_parent() -> None:
    """Ask the system to end this process when its parent ends (Linux; elsewhere the run's lock is what protects it)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def launch_command(name: str, config: Path, processes: int) -> list[str]:
    """Return the command that runs a stage in several processes: on GPUs `accelerate launch`, else CPU processes."""
    target = ["-m", "cai.successor.child", name, str(config)]
    if not _has_gpu():
        use_cpu_processes(processes)
        return cpu_launch_command(processes, target)
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes)]
    return [*command, "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", *target]


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


if __name__ == "__main__":
    main()
