"""When one of several processes dies, the others go, the launcher says 5, and the last checkpoint is good."""

import os
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from cai.processes import cpu_launch_command
from cai.storage import damaged_file
from cai.train.checkpoints import newest_checkpoint
from tests.train import rig

ROOT = Path(__file__).parents[2]
SCRIPT = """
import os, signal, sys, time
from pathlib import Path
from cai.errors import guarded
from cai.processes import leave, rank
from cai.train.hf import CountedTrainer
from tests.train import rig
kind, config = sys.argv[1], Path(sys.argv[2])
take = CountedTrainer.get_batch_samples
def dies(self, *given):
    if rank() == 1 and self.state.global_step == 2:
        Path(sys.argv[2] + ".dead").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return take(self, *given)
CountedTrainer.get_batch_samples = dies
cls, run = rig.KINDS[kind]
leave(guarded(lambda: run(cls.model_validate_json(config.read_bytes()))))
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", rig.KINDS)
def test_a_process_that_dies_ends_all_within_a_minute(tiny_model_dir: Path, tmp_path: Path, kind: str) -> None:
    settings = rig.settings(kind, tmp_path, tiny_model_dir, save_every=1)
    (tmp_path / "config.json").write_text(settings.model_dump_json())
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = cpu_launch_command(2, [str(tmp_path / "script.py"), kind, str(tmp_path / "config.json")])
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 5, done.stderr[-3000:]
    assert time.time() - (tmp_path / "config.json.dead").stat().st_mtime < 60
    alive = [process for process in psutil.process_iter(["cmdline"]) if str(tmp_path) in str(process.info["cmdline"])]
    assert alive == []
    last = newest_checkpoint(settings.out / "checkpoints")
    # The process that died may have been ahead of the other, which marks what both have written.
    assert last is not None
    assert last.name in ("checkpoint-1", "checkpoint-2")
    assert damaged_file(last) is None
