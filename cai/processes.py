"""This process among its fellows: which rank it is, how many there are, and how they wait for each other.

`accelerate launch` tells each process its rank through the environment; without it there is one.
"""

import atexit
import contextlib
import logging
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import NoReturn

from cai.errors import StorageError


def rank() -> int:
    """Return the number of this process, from 0."""
    return int(os.environ.get("RANK", "0"))


def world() -> int:
    """Return how many processes work on this stage."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Tell whether this process writes what only one may write."""
    return rank() == 0


def wait_for_all() -> None:
    """Return when every process has come here, as often as this is called."""
    if world() > 1:
        from accelerate import PartialState
        from torch import cuda, distributed

        # Not told that it is on CPUs, it would take this process for the only one, and wait for nobody.
        state = PartialState(cpu=on_cpus() or not cuda.is_available())
        if state.num_processes == world():
            state.wait_for_everyone()
        else:  # somebody has made it before, and did not tell it
            distributed.barrier()


def on_cpus() -> bool:
    """Tell whether the launcher was asked for CPUs."""
    return os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true"


def leave(code: int) -> NoReturn:
    """End this process with an exit code, once what asked to run at the end has run, but without Python's own end.

    There a thread inside torch (a gloo worker, a rollout drawn ahead) that asks for the interpreter would be ended
    inside C++ that can't be unwound, and abort the process. The children of `multiprocessing` are left like this, too.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        code = code or StorageError.exit_code
    os._exit(code)


def cpu_launch_command(processes: int, target: Sequence[str]) -> list[str]:
    """Return the command that runs a Python target (a script, or ``-m module``) in several CPU processes here."""
    return [sys.executable, "-m", "cai.launcher", "--standalone", f"--nproc-per-node={processes}", *target]


def use_cpu_processes(processes: int) -> None:
    """Set the environment that CPU processes of one machine need: no GPU, and a fair share of the cores each."""
    os.environ["ACCELERATE_USE_CPU"] = "true"
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))


def become_many() -> None:
    """Start the processes that `accelerate launch --cpu --num_processes N` was asked for and did not start.

    With ``--cpu`` it starts one process and leaves the others to `mpirun`. It does set an address for them to meet at,
    and that is how this one knows; the number stands in the launcher's command.
    """
    environment = os.environ
    launched = on_cpus() and "MASTER_ADDR" in environment
    if not launched or any(name in environment for name in ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK")):
        return
    import psutil

    processes = asked_processes(psutil.Process(os.getppid()).cmdline())
    if processes > 1:
        use_cpu_processes(processes)
        for name in ("MASTER_ADDR", "MASTER_PORT"):
            del environment[name]
        os.execv(sys.executable, cpu_launch_command(processes, sys.argv))


def asked_processes(command: Sequence[str]) -> int:
    """Return the number of processes that a launcher's command asks for.

    >>> asked_processes(["accelerate", "launch", "--cpu", "--num_processes", "2", "recipes/ppo.py"])
    2
    """
    words = [word.replace("-", "_") for word in command]
    for index, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name == "__num_processes":
            number = value if equals else words[index + 1] if index + 1 < len(words) else ""
            return int(number) if number.isdigit() else 1
    return 1


@contextlib.contextmanager
def loads_whole() -> Iterator[None]:
    """Let models be made whole on each process, though DeepSpeed (ZeRO-3) is to cut the trained one: later.

    Transformers would make each in pieces, with every process taking part, from the moment that it knows of ZeRO-3,
    whatever accelerate's `zero3_init_flag` says. A model is tried first, and another may be no one else's business.
    """
    from transformers.integrations import deepspeed

    told = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = told


def quiet_libraries() -> None:
    """Keep other libraries' bars and warnings off the terminal, which is for what the work itself has to say.

    To be called before they are imported.
    """
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for name in ("accelerate", "bitsandbytes", "peft", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.ERROR)
