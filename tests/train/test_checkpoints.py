"""Checkpoints: which one counts, and what is done about damage to each of their files."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from cai.errors import StorageError, guarded
from cai.storage import MARKER
from cai.train import checkpoints, hf
from cai.train.checkpoints import complete, newest_checkpoint, set_damaged_aside
from cai.train.sft import run_sft
from tests.train import rig
from tests.train.rig import DAMAGE


def test_the_newest_whole_checkpoint_is_taken_by_number(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path / "none") is None
    for step, whole in ((2, True), (10, True), (9, True), (11, False)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if whole:
            (tmp_path / f"checkpoint-{step}" / MARKER).touch()
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-10"


def written(folder: Path, step: int) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "weights").write_bytes(b"w" * 1000)
    return path


def test_older_ones_go_by_number_when_a_new_one_is_whole(tmp_path: Path) -> None:
    for step in (8, 9, 10):
        complete(written(tmp_path, step))
        os.utime(tmp_path / f"checkpoint-{step}", (2_000_000_000 - step,) * 2)  # a clock that goes backwards
    written(tmp_path, 11)  # not whole: nothing may go for it
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-11", "checkpoint-9"]
    complete(tmp_path / "checkpoint-11", keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-11"]


def test_what_could_not_be_marked_takes_no_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (1, 2):
        complete(written(tmp_path, step))

    def refuses(folder: Path) -> None:
        raise StorageError(f"{folder}: cannot write")

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, "mark_whole", refuses)
        with pytest.raises(StorageError):
            complete(written(tmp_path, 3))
    set_damaged_aside(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-1", "checkpoint-2"]


class Stops(TrainerCallback):
    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 2:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def stopped(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The config of a training that stopped after two of three steps, with a checkpoint of each."""
    config = rig.settings("sft", tmp_path_factory.mktemp("stopped"), tiny_model_dir, save_every=1)
    before = hf.CountedTrainer.__init__

    def stopping(self: hf.CountedTrainer, *args: Any, **kwargs: Any) -> None:
        before(self, *args, **kwargs)
        self.add_callback(Stops())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hf.CountedTrainer, "__init__", stopping)
        with pytest.raises(KeyboardInterrupt):
            rig.train("sft", config)
    return config


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_to_any_file_is_named_and_the_checkpoint_before_is_taken(
    stopped: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    source = stopped.out / "checkpoints"
    files = [path.relative_to(source) for path in (source / "checkpoint-2").rglob("*") if path.is_file()]
    assert len(files) > 5
    for number, file in enumerate(files):
        folder = tmp_path / str(number)
        shutil.copytree(source, folder)
        DAMAGE[damage](folder / file)
        set_damaged_aside(folder)
        assert newest_checkpoint(folder) == folder / "checkpoint-1"
        said = capsys.readouterr().err
        if (file.name, damage) == (MARKER, "deleted"):
            assert f"{folder / 'checkpoint-2'}: never finished; removed" in said
        else:
            assert f"{folder / file}: damaged since it was written; set aside as damaged-2" in said
            assert (folder / "damaged-2").is_dir()
        assert not (folder / "checkpoint-2").exists()


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_that_is_asked_for_by_name_is_refused(
    stopped: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    """Only a training that goes on by itself takes the one before."""
    folder = tmp_path / "checkpoint-2"
    shutil.copytree(stopped.out / "checkpoints" / "checkpoint-2", folder)
    config = stopped.model_copy(update={"out": tmp_path / "out", "model": str(folder)})
    DAMAGE[damage](folder / "optimizer.pt")
    assert guarded(lambda: run_sft(config)) == 2
    said = "this file of a checkpoint is not what was written; name the checkpoint before it"
    assert capsys.readouterr().err == f"{folder / 'optimizer.pt'}: {said}\n"


def test_a_sound_checkpoint_stays_and_what_was_never_finished_goes(
    stopped: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "checkpoints"
    shutil.copytree(stopped.out / "checkpoints", folder)
    shutil.copytree(folder / "checkpoint-2", folder / "checkpoint-3")
    (folder / "checkpoint-3" / MARKER).unlink()
    set_damaged_aside(folder)
    (folder / "checkpoint-kept-by-me").mkdir()
    set_damaged_aside(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint-1", "checkpoint-2", "checkpoint-kept-by-me"]
    assert capsys.readouterr().err == f"{folder / 'checkpoint-3'}: never finished; removed\n"
    for step in (1, 2):
        DAMAGE["flipped"](folder / f"checkpoint-{step}" / "optimizer.pt")
    set_damaged_aside(folder)
    assert newest_checkpoint(folder) is None
    assert capsys.readouterr().err.count("optimizer.pt: damaged") == 2
    set_damaged_aside(tmp_path / "none")


def test_a_training_goes_on_from_the_checkpoint_before(stopped: Any, tiny_model_dir: Path, tmp_path: Path) -> None:
    whole, _ = rig.train("sft", rig.settings("sft", tmp_path / "whole", tiny_model_dir))
    out = tmp_path / "out"
    shutil.copytree(stopped.out, out)
    DAMAGE["flipped"](out / "checkpoints" / "checkpoint-2" / "optimizer.pt")
    found, _ = rig.train("sft", stopped.model_copy(update={"out": out}))
    assert json.loads((out / "result.json").read_text())["resumed_at"] == 1
    assert all(torch.equal(found[name], whole[name]) for name in whole)
