"""Policy and values by two adapters over one base: neither one's loss reaches the other."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from cai.train.ppo.adapters import POLICY, VALUE, is_values
from cai.train.ppo.policy import PolicyWithValue, load_policy
from cai.train.ppo.trainer import run_ppo
from tests.train.ppo.rig import metrics, settings, trainer, vowels, weights
from tests.train.ppo.test_policy import inputs
from tests.train.ppo.test_trainer import start

CPU = torch.device("cpu")
BOTH: dict[str, Any] = {"lora": {"r": 2, "alpha": 4}, "value_adapter": True}


def with_both(tmp_path: Path, model: Path) -> PolicyWithValue:
    """Return a policy whose adapters and value head are not 0."""
    policy = load_policy(settings(tmp_path, model, **BOTH), CPU)
    torch.manual_seed(0)
    nn.init.normal_(policy.value_head.weight, std=0.1)
    for weight in (*policy.trunk, *adapter_of(policy)):
        nn.init.normal_(weight, std=0.05)
    return policy


def adapter_of(policy: PolicyWithValue) -> list[nn.Parameter]:
    """Return the weights of the values' adapter."""
    return policy.value_weights[:-2]


def read(policy: PolicyWithValue) -> list[Tensor]:
    with torch.no_grad():
        return list(policy(inputs()))


@pytest.mark.parametrize("values", [False, True])
def test_each_reads_by_its_own_adapter(tmp_path: Path, tiny_model_dir: Path, values: bool) -> None:
    policy = with_both(tmp_path, tiny_model_dir)
    before = read(policy)
    with torch.no_grad():
        for weight in adapter_of(policy) if values else policy.trunk:
            weight.add_(0.05)
    after = read(policy)
    assert torch.equal(before[0], after[0]) == values
    assert torch.equal(before[1], after[1]) == (not values)


def test_each_learns_by_its_own_loss(tmp_path: Path, tiny_model_dir: Path) -> None:
    policy = with_both(tmp_path, tiny_model_dir)
    logprobs_BT, values_BT = policy(inputs())
    mine, other = policy.trunk, adapter_of(policy)
    assert len(mine) == len(other) > 0
    for found, ours, theirs in ((logprobs_BT, mine, other), (values_BT, other, mine)):
        gradients = torch.autograd.grad(found.sum(), [*ours, *theirs], retain_graph=True, allow_unused=True)
        assert all(one is not None and bool(one.any()) for one in gradients[: len(ours)])
        assert all(one is None for one in gradients[len(ours) :])


def test_values_are_those_of_the_base_with_their_adapter_alone(tmp_path: Path, tiny_model_dir: Path) -> None:
    policy = with_both(tmp_path, tiny_model_dir)
    network: Any = policy.policy
    alone: Any = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model_dir), network.peft_config[VALUE])
    state = {
        name.replace(f".{VALUE}.", f".{POLICY}."): weight
        for name, weight in network.named_parameters()
        if is_values(name)
    }
    assert not alone.load_state_dict(state, strict=False).unexpected_keys
    hidden = alone.get_base_model().model(input_ids=torch.tensor([[7, 8, 9, 11, 12, 13]])).last_hidden_state[0]
    assert torch.allclose(read(policy)[1][0, :4], policy.value_head(hidden[2:])[:, 0], atol=1e-5)


def test_the_trained_policy_is_the_one_that_is_saved(tmp_path: Path, tiny_model_dir: Path) -> None:
    ready = trainer(tmp_path, tiny_model_dir, **BOTH)
    first = [weight.detach().clone() for weight in adapter_of(ready.learner.policy)]
    ready.train()
    after = zip(first, adapter_of(ready.learner.policy), strict=True)
    assert not any(torch.equal(one, other) for one, other in after)
    expected, values_BT = read(ready.learner.policy)
    ready.finish()
    assert all(row["value_grad_norm"] > 0 for row in metrics(tmp_path / "out"))
    assert bool(values_BT.any())
    base, saved = weights(tiny_model_dir.parent, tiny_model_dir.name), weights(tmp_path / "out")
    assert base.keys() == saved.keys()
    assert any(not torch.equal(base[name], saved[name]) for name in base)
    found = read(load_policy(settings(tmp_path / "again", tmp_path / "out" / "model"), CPU))[0]
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_to_the_bit(tmp_path: Path, tiny_model_dir: Path) -> None:
    whole, broken = (settings(tmp_path / name, tiny_model_dir, steps=4, save_every=2, **BOTH) for name in "wb")
    run_ppo(whole, vowels)
    assert start(broken, "4") == 9
    saved = load_file(broken.out / "checkpoints" / "checkpoint-2" / "weights.safetensors")
    assert any(is_values(name) for name in saved)
    assert start(broken) == 0
    assert metrics(whole.out) == metrics(broken.out)
    expected, found = weights(whole.out), weights(broken.out)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.parametrize("changes", [{"lora": None}, {"gradient_checkpointing": True}])
def test_what_it_cannot_go_with_is_refused(tmp_path: Path, tiny_model_dir: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="value_adapter is an adapter beside 'lora', and goes without"):
        settings(tmp_path, tiny_model_dir, **{**BOTH, **changes})
