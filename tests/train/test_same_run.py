"""A training goes on with its own settings and data; others are refused by name, and nothing is trained or lost."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cai.errors import InputError
from cai.train import hf
from cai.train.checkpoints import newest_checkpoint
from cai.train.same_run import ABOUT, SameRun
from tests.train import rig


class _CutOff(Exception):
    pass


def cut_off(kind: str, folder: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Begin a training and end it after its second step, whose checkpoint is there."""
    config = rig.settings(kind, folder, model, save_every=1)
    complete = hf.complete

    def stops(checkpoint: Path, **given: Any) -> None:
        complete(checkpoint, **given)
        if checkpoint.name == "checkpoint-2":
            raise _CutOff

    with monkeypatch.context() as patch:
        patch.setattr(hf, "complete", stops)
        with pytest.raises(_CutOff):
            rig.KINDS[kind][1](config)
    return config


def more_rows(config: Any) -> Any:
    with config.data[0].open("a") as file:
        file.write(config.data[0].read_text().splitlines()[0] + "\n")
    return config


OTHERS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "sft": (lambda config: config.model_copy(update={"learning_rate": 5e-4, "seed": 3}), "seed, learning_rate"),
    "reward": (more_rows, "the data's content"),
    "dpo": (lambda config: config.model_copy(update={"beta": 0.3}), "beta"),
}


@pytest.mark.parametrize("kind", rig.KINDS)
def test_another_run_is_refused_in_a_folder_and_its_own_goes_on(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    config = cut_off(kind, tmp_path, tiny_model_dir, monkeypatch)
    data, last = config.data[0].read_bytes(), newest_checkpoint(config.out / "checkpoints")
    change, named = OTHERS[kind]
    with pytest.raises(InputError) as found:
        rig.KINDS[kind][1](change(config))
    assert found.value.problems[0].problem == f"this run was begun with other settings ({named})"
    assert newest_checkpoint(config.out / "checkpoints") == last
    config.data[0].write_bytes(data)
    moved = rig.write(tmp_path / "elsewhere.jsonl", [])
    moved.write_bytes(data)
    rig.KINDS[kind][1](config.model_copy(update={"save_every": 5, "micro_batch": 1, "data": [moved]}))
    assert (config.out / "model" / "config.json").exists()


def test_a_checkpoint_that_says_nothing_of_its_run_is_let_pass(tiny_model_dir: Path, tmp_path: Path) -> None:
    config = rig.settings("sft", tmp_path, tiny_model_dir)
    run = SameRun(config, config.data)
    run.refuse_another(tmp_path)
    run.write(tmp_path)
    run.refuse_another(tmp_path)
    (tmp_path / ABOUT).write_text((tmp_path / ABOUT).read_text().replace('"epochs"', '"epoch"'))
    with pytest.raises(InputError, match=r"settings that this version of cai does not have \(epoch\)"):
        run.refuse_another(tmp_path)
