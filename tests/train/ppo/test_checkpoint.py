import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cai.errors import InputError
from cai.train.checkpoints import newest_checkpoint, set_damaged_aside
from cai.train.ppo import checkpoint
from cai.train.ppo.checkpoint import Progressed
from cai.train.ppo.config import PPOConfig
from tests.train.ppo.rig import sample, settings
from tests.train.rig import DAMAGE


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
    path = newest_checkpoint(tmp_path / "c")
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


def test_two_are_kept(tmp_path: Path, config: PPOConfig) -> None:
    for step in (2, 9, 10):
        save(tmp_path / "c", config, step)
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["checkpoint-10", "checkpoint-9"]


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_to_any_file_is_named_and_the_checkpoint_before_is_taken(
    tmp_path: Path, config: PPOConfig, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    model, source = network(), tmp_path / "source"
    for step in (1, 2):
        checkpoint.save(
            source,
            Progressed(step, 0.25),
            model=model,
            optimizer=trained(model),
            about=checkpoint.about(config, prompts="p"),
            reference=network(1),
            ahead=[sample(0, [1, 2], [3], sampled_logprobs=(-0.1,))],
        )
    names = {path.name for path in (source / "checkpoint-2").iterdir()}
    assert names == {"weights.safetensors", "optimizer.safetensors", "reference.safetensors", "ahead.json",
                     "state.json", "COMPLETE"}  # fmt: skip
    for name in names:
        folder = tmp_path / name
        shutil.copytree(source, folder)
        DAMAGE[damage](folder / "checkpoint-2" / name)
        set_damaged_aside(folder)
        assert newest_checkpoint(folder) == folder / "checkpoint-1"
        assert str(folder / "checkpoint-2") in capsys.readouterr().err
        assert checkpoint.read_state(folder / "checkpoint-1", config, prompts="p").step == 1


def test_the_best_is_one_and_outlives_a_better_one_that_is_not_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.save_best(tmp_path, network(1), step=2, score=0.5)
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "complete", lambda path, keep: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            checkpoint.save_best(tmp_path, network(2), step=4, score=0.7)
    set_damaged_aside(tmp_path)
    kept = newest_checkpoint(tmp_path)
    assert kept == tmp_path / "checkpoint-2"
    assert checkpoint.read_best(kept) == {"step": 2, "score": 0.5}
    checkpoint.save_best(tmp_path, network(2), step=4, score=0.7)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-4"]


def test_settings_that_an_older_version_did_not_have_are_at_their_defaults(tmp_path: Path, config: PPOConfig) -> None:
    save(tmp_path / "c", config, 2)
    path = tmp_path / "c" / "checkpoint-2"
    state = json.loads((path / "state.json").read_text())
    del state["settings"]["dual_clip"], state["settings"]["rollout"]["max_gap"]
    (path / "state.json").write_text(json.dumps(state))
    assert checkpoint.read_state(path, config, prompts="p").step == 2
    with pytest.raises(InputError, match=r"other settings \(dual_clip\)"):
        checkpoint.read_state(path, config.model_copy(update={"dual_clip": 3.0}), prompts="p")
    state["settings"]["gone"] = 1
    (path / "state.json").write_text(json.dumps(state))
    with pytest.raises(InputError, match=r"this version of cai does not have \(gone\); go on with the version that"):
        checkpoint.read_state(path, config, prompts="p")


def test_other_settings_or_prompts_are_refused_by_name(tmp_path: Path, config: PPOConfig) -> None:
    save(tmp_path / "c", config, 2)
    path = tmp_path / "c" / "checkpoint-2"
    longer = config.model_copy(update={"steps": 99, "save_every": 7, "micro_batch": 1})
    assert checkpoint.read_state(path, longer, prompts="p").step == 2
    with pytest.raises(InputError, match=r"other settings \(learning_rate\)"):
        checkpoint.read_state(path, config.model_copy(update={"learning_rate": 0.5}), prompts="p")
    with pytest.raises(InputError, match="the prompts' content"):
        checkpoint.read_state(path, config, prompts="q")


def test_weights_of_another_model_are_refused(tmp_path: Path, config: PPOConfig) -> None:
    save(tmp_path / "c", config, 2)
    with pytest.raises(InputError, match="other weights"):
        checkpoint.load_weights(tmp_path / "c" / "checkpoint-2", torch.nn.Bilinear(2, 2, 2, bias=False))


def test_answers_that_were_drawn_ahead_come_back_to_the_last_bit(tmp_path: Path, config: PPOConfig) -> None:
    model = network()
    ahead = [
        sample(0, [1, 2], [3], sampled_logprobs=(-0.1,)),
        sample(1, [4], [5, 6], None, sampled_logprobs=(-1 / 3, -1e-9), cut_off=True),
    ]
    about = checkpoint.about(config, prompts="p")
    checkpoint.save(tmp_path / "c", Progressed(1, 0.0), model=model, optimizer=trained(model), about=about, ahead=ahead)
    assert checkpoint.read_ahead(tmp_path / "c" / "checkpoint-1") == ahead
    save(tmp_path / "c", config, 2)
    assert checkpoint.read_ahead(tmp_path / "c" / "checkpoint-2") is None


def test_frozen_weights_are_not_saved(tmp_path: Path, config: PPOConfig) -> None:
    model = network()
    next(model.parameters()).requires_grad_(False)
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad])
    about = checkpoint.about(config, prompts="p")
    checkpoint.save(tmp_path / "c", Progressed(1, 0.0), model=model, optimizer=optimizer, about=about)
    assert list(load_file(tmp_path / "c" / "checkpoint-1" / "weights.safetensors")) == ["bias"]
