"""A folder that is not all of a model is refused by name, with what to do, by everything that trains one."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from cai.errors import EngineError
from cai.train.group_config import GRPOConfig
from cai.train.grpo import run_grpo
from cai.train.ppo.trainer import run_ppo
from tests.train import rig
from tests.train.ppo.rig import settings, vowels


def cut_short(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def without_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


def without_a_layer(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.0.mlp.down_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def garbled(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type"')


def train_by_ppo(model: Path, tmp_path: Path) -> None:
    run_ppo(settings(tmp_path, model), vowels)


def train_by_grpo(model: Path, tmp_path: Path) -> None:
    config = settings(tmp_path, model)
    run_grpo(GRPOConfig(model=str(model), out=config.out, prompts=config.prompts, precision="fp32"), vowels)


def train_on_rows(kind: str) -> Callable[[Path, Path], None]:
    return lambda model, tmp_path: rig.KINDS[kind][1](rig.settings(kind, tmp_path, model))


TRAINERS = {**{kind: train_on_rows(kind) for kind in rig.KINDS}, "ppo": train_by_ppo, "grpo": train_by_grpo}


@pytest.mark.parametrize("train", TRAINERS)
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (cut_short, "cannot be loaded: .*; name a folder that has all of a model and its tokenizer, or a hub id"),
        (without_tokenizer, "its tokenizer cannot be loaded: .*; name a folder that has all"),
        (without_a_layer, r"the files have no weights for model.layers.0.mlp.down_proj.weight"),
        (garbled, "its tokenizer cannot be loaded: .* is not a valid JSON file; name a folder"),
    ],
)
def test_what_is_not_all_of_a_model_is_refused_by_name(
    tiny_model_dir: Path, tmp_path: Path, train: str, spoil: Callable[[Path], None], said: str
) -> None:
    model = shutil.copytree(tiny_model_dir, tmp_path / "broken")
    spoil(model)
    with pytest.raises(EngineError, match=f"^{model}: {said}"):
        TRAINERS[train](model, tmp_path)
    assert not (tmp_path / "out" / "model").exists()
