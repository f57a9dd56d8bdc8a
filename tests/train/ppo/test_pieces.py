"""Weights in pieces: accelerate's FSDP2 by the launch config that users have, on two processes without a GPU."""

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.utils import DeepSpeedPlugin, DistributedType, FullyShardedDataParallelPlugin

from cai.errors import InputError
from cai.processes import cpu_launch_command
from cai.train.ppo.pieces import Gathered, cuts, let_go, whole, zero_stage
from cai.train.ppo.policy import load_policy
from tests.train.ppo.rig import alone_and_cut, assert_ended_alike, environment, settings
from tests.train.ppo.test_trainer import RIG
from tests.train.test_launchers import planned


@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeeds_plan_is_read_and_its_third_stage_cuts_the_weights(
    monkeypatch: pytest.MonkeyPatch, stage: int
) -> None:
    assert planned(f"deepspeed_zero{stage}", monkeypatch, "ppo").use_deepspeed
    plugin: Any = DeepSpeedPlugin()
    assert plugin.deepspeed_config["zero_optimization"]["stage"] == stage
    of: Any = SimpleNamespace
    state = of(distributed_type=DistributedType.DEEPSPEED, state=of(deepspeed_plugin=plugin))
    assert (zero_stage(state), cuts(state)) == (stage, stage == 3)
    assert zero_stage(of(state=of(deepspeed_plugin=None))) == 0


def test_fsdp2s_plan_is_read_and_cuts_by_the_policys_layers(
    tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert planned("fsdp2", monkeypatch, "ppo").use_fsdp
    plugin: Any = FullyShardedDataParallelPlugin()
    for options in ({}, {"lora": {"r": 2}}):
        plugin.set_auto_wrap_policy(load_policy(settings(tmp_path, tiny_model_dir, **options), torch.device("cpu")))
        (layer,) = plugin.auto_wrap_policy.keywords["transformer_layer_cls"]
        assert layer.__name__ == "LlamaDecoderLayer"
    of: Any = SimpleNamespace
    assert cuts(of(distributed_type=DistributedType.FSDP))
    with pytest.raises(InputError, match=r"--use_fsdp: accelerate cuts no model into pieces on a CPU"):
        cuts(of(distributed_type=DistributedType.MULTI_CPU))
    monkeypatch.delenv("ACCELERATE_USE_FSDP")
    assert not cuts(of(distributed_type=DistributedType.MULTI_GPU))


def test_what_is_whole_is_gathered_as_it_is() -> None:
    network = torch.nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    found = Gathered(network, optimizer, keep=False)
    assert [weight is mine for (_, weight), mine in zip(found.named_parameters(), network.parameters(), strict=True)]
    assert found.state_dict()["state"][0]["exp_avg"] is optimizer.state[network.weight]["exp_avg"]
    assert whole(network.weight) is network.weight


def test_frozen_weights_are_copied_once_and_trained_ones_stay() -> None:
    first, second = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    second.weight = first.weight
    first.weight.requires_grad_(False)
    network, shared, trained = torch.nn.Sequential(first, second), first.weight, first.bias
    let_go(network)
    assert first.weight is second.weight
    assert first.weight is not shared
    assert torch.equal(first.weight, shared)
    assert not first.weight.requires_grad
    assert first.bias is trained


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "options",
    [
        {"keep": "best", "eval_every": 3, "reference_ema": 0.9, "gradient_checkpointing": True},
        {"lora": {"r": 2}, "value_adapter": True},
    ],
    ids=["whole", "adapter"],
)
def test_two_processes_with_the_model_in_pieces_end_where_one_does(
    tmp_path: Path, tiny_model_dir: Path, options: dict[str, Any]
) -> None:
    """Of the whole model's, one process is killed in step 4, and both go on from the checkpoint of step 2."""
    alone, cut = alone_and_cut(tmp_path, tiny_model_dir, options)
    path = tmp_path / "config.json"
    for words in ([],) if "lora" in options else (["4", "1"], []):
        done = subprocess.run(
            cpu_launch_command(2, [RIG, str(path), *words]), env=environment(IN_PIECES="1"), capture_output=True,
            text=True, check=False,
        )  # fmt: skip
        assert (done.returncode == 0) == (not words), done.stderr[-3000:]
        assert done.stderr.count("in pieces: LlamaDecoderLayer") == 2
    assert_ended_alike(alone, cut)
