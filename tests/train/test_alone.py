"""One run at a time has a folder: a second one is refused by name, and a kill frees the folder."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cai.errors import StorageError, guarded
from cai.storage import FolderLock
from cai.successor.entries import ENTRIES
from cai.train import sft
from cai.train.group_config import GRPOConfig, RLOOConfig
from cai.train.grpo import run_grpo, run_rloo
from cai.train.ppo.trainer import run_ppo
from tests.train import rig, test_grpo
from tests.train.ppo.rig import settings as ppo_settings

Made = Callable[[Path, Path], Any]

COMMANDS: dict[str, tuple[Callable[[Any], None], Made]] = {
    "sft": (rig.KINDS["sft"][1], lambda folder, model: rig.settings("sft", folder, model)),
    "reward": (rig.KINDS["reward"][1], lambda folder, model: rig.settings("reward", folder, model)),
    "dpo": (rig.KINDS["dpo"][1], lambda folder, model: rig.settings("dpo", folder, model)),
    "ppo": (run_ppo, lambda folder, model: ppo_settings(folder, model)),
    "grpo": (run_grpo, lambda folder, model: test_grpo.settings(folder, model, GRPOConfig)),
    "rloo": (run_rloo, lambda folder, model: test_grpo.settings(folder, model, RLOOConfig)),
}


def test_every_trainer_is_here() -> None:
    assert set(COMMANDS) == {name for name, entry in ENTRIES.items() if entry.function.startswith("cai.train.")}


@pytest.mark.parametrize("kind", COMMANDS)
def test_a_second_run_in_a_folder_is_refused_before_it_reads_or_writes(
    tiny_model_dir: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run, made = COMMANDS[kind]
    config = made(tmp_path, tiny_model_dir)
    unfinished = config.out / "checkpoints" / "checkpoint-1"
    unfinished.mkdir(parents=True)
    with FolderLock(config.out):
        assert guarded(lambda: run(config)) == 5
    said = capsys.readouterr().err
    assert said == f"error: {config.out}: another process works in this folder; wait for it or stop it\n"
    assert unfinished.exists()  # it belongs to the other


def test_processes_of_one_run_share_it(tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, made = COMMANDS["sft"]
    config = made(tmp_path, tiny_model_dir).model_copy(update={"data": []})
    monkeypatch.setenv("RANK", "1")
    with FolderLock(config.out), pytest.raises(Exception) as raised:  # noqa: PT011  (it goes on to the rows)
        run(config)
    assert not isinstance(raised.value, StorageError)


@pytest.mark.skipif(sys.platform != "linux", reason="forks a process that has loaded torch")
def test_a_run_that_is_killed_frees_its_folder(tiny_model_dir: Path, tmp_path: Path) -> None:
    run, made = COMMANDS["sft"]
    config = made(tmp_path, tiny_model_dir)
    child = os.fork()
    if not child:

        def waits(*_: Any, **__: Any) -> dict[str, Any]:
            (tmp_path / "trains").touch()
            time.sleep(60)
            return {}

        sft.fit = waits
        os._exit(guarded(lambda: run(config)))
    try:
        deadline = time.monotonic() + 30
        while not (tmp_path / "trains").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        with pytest.raises(StorageError, match="another process works in this folder"):
            run(config)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    run(config)
    assert json.loads((config.out / "result.json").read_text())["steps"] == 3


def test_what_a_run_had_no_time_to_clear_is_cleared_by_the_next(tiny_model_dir: Path, tmp_path: Path) -> None:
    run, made = COMMANDS["sft"]
    config = made(tmp_path, tiny_model_dir)
    for name in ("checkpoints/checkpoint-3", "best/checkpoint-3"):
        (config.out / name).mkdir(parents=True)
    (config.out / "result.json").write_text("{}")
    run(config)
    assert {path.name for path in config.out.iterdir()} == {".lock", "result.json"}
