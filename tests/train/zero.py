"""DeepSpeed without a GPU: its engine works on gloo, and accelerate's launch configs are those that users have.

Run as a script it is a training in one of several processes: python -m tests.train.zero KIND CONFIG.json [STEP]
It dies when the checkpoint of that step is there.
"""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from importlib import util
from pathlib import Path
from typing import Any

import pytest
from accelerate import PartialState

from cai.processes import leave

ROOT = Path(__file__).parents[2]

needs_deepspeed = pytest.mark.skipif(util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed")


def launched(stage: int, target: Sequence[str], **more: str) -> subprocess.CompletedProcess[str]:
    """Start a Python target in two processes by `accelerate launch`, with one of DeepSpeed's launch configs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    config = str(ROOT / "recipes" / "configs" / "accelerate" / f"deepspeed_zero{stage}.yaml")
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", config, "--num_processes", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", **more}
    environment.pop("ACCELERATE_USE_CPU", None)
    words = [*command, "--main_process_port", port, *target]
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=280)


def without_gpu() -> None:
    """Tell accelerate of the other processes, which it looks for beside GPUs only; compile nothing for the CPU."""
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    PartialState(cpu=True)


def main(kind: str, path: str, dies_at: str = "") -> None:
    """Train by a config file."""
    from cai.train import hf
    from cai.train.group_config import GRPOConfig
    from cai.train.grpo import run_grpo
    from tests.train.ppo.rig import vowels
    from tests.train.rig import KINDS

    complete = hf.complete

    def dies(checkpoint: Path, **given: Any) -> None:
        complete(checkpoint, **given)
        if checkpoint.name == f"checkpoint-{dies_at}":
            os.kill(os.getpid(), signal.SIGKILL)

    hf.complete = dies
    if os.environ.get("ACCELERATE_USE_DEEPSPEED"):
        without_gpu()
    kinds: dict[str, Any] = {**KINDS, "grpo": (GRPOConfig, lambda config: run_grpo(config, vowels))}
    cls, run = kinds[kind]
    run(cls.model_validate_json(Path(path).read_text()))
    leave(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
