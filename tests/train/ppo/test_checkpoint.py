import json
from pathlib import Path

import pytest
import torch

from cai.errors import InputError
from cai.train.ppo import checkpoint
from cai.train.ppo.checkpoint import Progressed
from cai.train.ppo.config import PPOConfig
from tests.train.ppo.rig import sample, settings


def network(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return torch.nn.Linear(3, 2)


def trained(model: torch.nn.Module, steps: int = 3) -> torch.optim.Optimizer:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
    return optimizer


@pytest.fixture
def config(tmp_path: Path) -> PPOConfig:
    return settings(tmp_path, Path("model"))


def save(folder: Path, config: PPOConfig, step: int) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    model = network()
    optimizer = trained(model, step)
    about = checkpoint.about(config, prompts="p")
    checkpoint.save(folder, Progressed(step, 0.25), model=model, optimizer=optimizer, about=about)
    return model, optimizer


def test_what_was_saved_goes_on_the_same(tmp_path: Path, config: PPOConfig) -> None:
    model, optimizer = save(tmp_path / "c", config, 3)
    path = checkpoint.newest(tmp_path / "c")
    assert path is not None
    assert checkpoint.read_state(path, config, prompts="p") == Progressed(3, 0.25)
    other = network(1)
    checkpoint.load_weights(path, other)
    fresh = torch.optim.AdamW(other.parameters(), lr=0.1)
    checkpoint.load_moments(path, fresh)
    for net, its in ((model, optimizer), (other, fresh)):
        its.zero_grad()
        net(torch.ones(1, 3)).square().sum().backward()
        its.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_only_the_newest_is_kept(tmp_path: Path, config: PPOConfig) -> None:
    for step in (2, 10):
        save(tmp_path / "c", config, step)
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["step-10"]


@pytest.mark.parametrize("damage", ["no state", "torn state", "short weights", "no moments", "partial"])
def test_what_is_not_whole_is_not_there(tmp_path: Path, config: PPOConfig, damage: str) -> None:
    save(tmp_path / "c", config, 2)
    path = tmp_path / "c" / "step-2"
    if damage == "no state":
        (path / "state.json").unlink()
    elif damage == "torn state":
        (path / "state.json").write_text('{"step":')
    elif damage == "short weights":
        weights = path / "weights.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1])
    elif damage == "no moments":
        (path / "optimizer.safetensors").unlink()
    else:
        path.rename(path.with_name(".step-2.partial"))
    assert checkpoint.newest(tmp_path / "c") is None


def test_no_folder_means_no_checkpoint(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path / "nowhere") is None


def test_other_settings_or_prompts_are_refused_by_name(tmp_path: Path, config: PPOConfig) -> None:
    save(tmp_path / "c", config, 2)
    path = tmp_path / "c" / "step-2"
    longer = config.model_copy(update={"steps": 99, "save_every": 7, "micro_batch": 1})
    assert checkpoint.read_state(path, longer, prompts="p").step == 2
    with pytest.raises(InputError, match=r"other settings \(learning_rate\)"):
        checkpoint.read_state(path, config.model_copy(update={"learning_rate": 0.5}), prompts="p")
    with pytest.raises(InputError, match="the prompts' content"):
        checkpoint.read_state(path, config, prompts="q")


def test_weights_of_another_model_are_refused(tmp_path: Path, config: PPOConfig) -> None:
    save(tmp_path / "c", config, 2)
    with pytest.raises(InputError, match="other weights"):
        checkpoint.load_weights(tmp_path / "c" / "step-2", torch.nn.Bilinear(2, 2, 2, bias=False))


def test_answers_that_were_drawn_ahead_come_back_to_the_last_bit(tmp_path: Path, config: PPOConfig) -> None:
    model = network()
    ahead = [
        sample(0, [1, 2], [3], sampled_logprobs=(-0.1,)),
        sample(1, [4], [5, 6], None, sampled_logprobs=(-1 / 3, -1e-9), cut_off=True),
    ]
    about = checkpoint.about(config, prompts="p")
    checkpoint.save(tmp_path / "c", Progressed(1, 0.0), model=model, optimizer=trained(model), about=about, ahead=ahead)
    path = checkpoint.newest(tmp_path / "c")
    assert path is not None
    assert checkpoint.read_ahead(path) == ahead
    (path / "ahead.json").write_text("[")
    assert checkpoint.newest(tmp_path / "c") is None
    save(tmp_path / "c", config, 2)
    assert checkpoint.read_ahead(tmp_path / "c" / "step-2") is None


def test_frozen_weights_are_not_saved(tmp_path: Path, config: PPOConfig) -> None:
    model = network()
    next(model.parameters()).requires_grad_(False)
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad])
    about = checkpoint.about(config, prompts="p")
    checkpoint.save(tmp_path / "c", Progressed(1, 0.0), model=model, optimizer=optimizer, about=about)
    state = json.loads((tmp_path / "c" / "step-1" / "state.json").read_text())
    assert state["bytes"]["weights.safetensors"] < 100
