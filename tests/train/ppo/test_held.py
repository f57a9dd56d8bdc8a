"""A preference model as an adapter over the policy's base: its scores, and that nothing else notices it."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import nn

from cai.errors import EngineError, InputError
from cai.judges.preference_model import PreferenceModel
from cai.train.group_config import GRPOConfig
from cai.train.grpo import run_grpo
from cai.train.ppo import trainer as trainer_module
from cai.train.ppo.held import hold
from cai.train.ppo.policy import PolicyWithValue, load_policy
from cai.train.ppo.trainer import Trainer, run_ppo
from cai.train.rewards.sources import check_sources
from cai.types import Dialogue, Message
from tests.engines import tiny
from tests.train import rig as rows
from tests.train.ppo.rig import metrics, settings, vowels, weights
from tests.train.ppo.test_policy import inputs

CPU = torch.device("cpu")
LORA: dict[str, Any] = {"r": 2, "alpha": 4}
HEADS = ("harmless", "helpful")
SAID: list[tuple[Dialogue, str]] = [
    ((Message("user", "What is it?"),), "a dog"),
    ((Message("user", "And how does the quick fox do that to a lazy one?"),), "It jumps over, and thinks."),
    ((Message("user", "Why?"),), ""),
]


def taught(folder: Path, model: Path, *, heads: Sequence[str] = (), **changes: Any) -> Path:
    """Train a preference model with an adapter, of another shape than the policy's, and return its folder."""
    kinds = heads or [""]
    made = [rows.pair(number, kind=kinds[number % len(kinds)], principle="Be kind.") for number in range(8)]
    config = rows.settings(
        "reward", folder, model, data=[rows.write(folder / "rows.jsonl", made)], learning_rate=1e-2, epochs=2,
        lora={"r": 3, "alpha": 9, "target_modules": ["q_proj", "down_proj"]}, heads={head: [head] for head in heads},
        **changes,
    )  # fmt: skip
    rows.KINDS["reward"][1](config)
    out: Path = config.out
    return out


@pytest.fixture(scope="module")
def judge(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return taught(tmp_path_factory.mktemp("judge"), tiny_model_dir)


@pytest.fixture(scope="module")
def two(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return taught(tmp_path_factory.mktemp("two"), tiny_model_dir, heads=HEADS, seed=1)


def moved(folder: Path, model: Path, **changes: Any) -> PolicyWithValue:
    """Return a policy whose own adapters are not 0."""
    policy = load_policy(settings(folder, model, lora=LORA, **changes), CPU)
    torch.manual_seed(0)
    for weight in (*policy.trunk, *policy.value_weights):
        nn.init.normal_(weight, std=0.05)
    return policy


def test_it_scores_as_the_merged_model_does(judge: Path, two: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    policy = moved(tmp_path, tiny_model_dir, value_adapter=True)
    trained = {name for name, weight in policy.named_parameters() if weight.requires_grad}
    with torch.no_grad():
        before = policy(inputs())
    held, heads = hold(policy, judge / "adapter"), hold(policy, two / "adapter")
    wanted = PreferenceModel.load(str(judge / "model")).score(SAID)
    assert max(wanted) - min(wanted) > 0.01
    assert held.score(SAID) == pytest.approx(wanted, abs=1e-5)
    assert heads.heads == HEADS
    for head in HEADS:
        wanted = PreferenceModel.load(str(two / "model"), head=head).score(SAID)
        assert heads.at(head).score(SAID) == pytest.approx(wanted, abs=1e-5)
    with torch.no_grad():
        for one, other in zip(before, policy(inputs()), strict=True):
            assert torch.equal(one, other)
    assert {name for name, weight in policy.named_parameters() if weight.requires_grad} == trained


def test_a_model_that_cannot_be_packed_is_read_padded(
    judge: Path, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cai.train.ppo.policy.packs", lambda model: False)
    policy = moved(tmp_path, tiny_model_dir)
    assert policy.policy.config._attn_implementation == "sdpa"  # type: ignore[union-attr]
    wanted = PreferenceModel.load(str(judge / "model")).score(SAID)
    assert hold(policy, judge / "adapter").score(SAID) == pytest.approx(wanted, abs=1e-5)


def test_in_bfloat16_scores_are_near(judge: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    policy = moved(tmp_path, tiny_model_dir, precision="bf16")
    wanted, found = PreferenceModel.load(str(judge / "model")).score(SAID), hold(policy, judge / "adapter").score(SAID)
    gap = max(abs(one - other) for one, other in zip(wanted, found, strict=True))
    assert 0 < gap < 0.1 * (max(wanted) - min(wanted)) + 0.01


def test_one_that_reads_principles_is_told_one(tiny_model_dir: Path, tmp_path: Path) -> None:
    made = taught(tmp_path / "told", tiny_model_dir, principle_conditioned=True)
    held = hold(moved(tmp_path, tiny_model_dir), made / "adapter").at(principle="Be brief.")
    wanted = PreferenceModel.load(str(made / "model"), principle="Be brief.").score(SAID)
    assert held.score(SAID) == pytest.approx(wanted, abs=1e-5)
    assert wanted != pytest.approx(PreferenceModel.load(str(made / "model"), principle="Be kind.").score(SAID))


def test_ppo_ends_as_with_the_merged_models(judge: Path, two: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    def rewards(name: str) -> list[dict[str, Any]]:
        return [
            {"kind": "model", "path": judge / name},
            {"kind": "ensemble", "paths": [two / name], "heads": list(HEADS), "combine": "min", "weight": 0.5},
        ]

    merged, held = (
        settings(tmp_path / name, tiny_model_dir, lora=LORA, rewards=rewards(name)) for name in ("model", "adapter")
    )
    run_ppo(merged)
    run_ppo(held)
    for one, other in zip(metrics(merged.out), metrics(held.out), strict=True):
        assert one == pytest.approx(other, abs=1e-4, rel=1e-4)
    expected, found = weights(merged.out), weights(held.out)
    assert max(float((expected[name] - found[name]).abs().max()) for name in expected) <= 1e-5
    saved = load_file(held.out / "adapter" / "adapter_model.safetensors")
    assert saved
    assert all(weight.shape[int("lora_B" in name)] == LORA["r"] for name, weight in saved.items())  # the policy's own
    assert json.loads((held.out / "adapter" / "adapter_config.json").read_text())["r"] == LORA["r"]


def test_its_weights_stay_and_a_run_goes_on_to_the_bit(
    judge: Path, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = [{"kind": "model", "path": judge / "adapter"}]
    whole, broken = (
        settings(tmp_path / name, tiny_model_dir, lora=LORA, rewards=entries, steps=3, save_every=1) for name in "wb"
    )
    ready = Trainer(whole, Accelerator(cpu=True))
    held = {
        name: weight.clone() for name, weight in ready.learner.policy.named_parameters() if ".preference_1." in name
    }
    assert held
    ready.train()
    now = dict(ready.learner.policy.named_parameters())
    assert all(torch.equal(now[name], weight) for name, weight in held.items())
    ready.finish()
    save = Trainer.save

    def dies(self: Trainer, step: int) -> None:
        save(self, step)
        if step == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(trainer_module.Trainer, "save", dies)
        with pytest.raises(KeyboardInterrupt):
            run_ppo(broken)
    kept = load_file(broken.out / "checkpoints" / "checkpoint-2" / "weights.safetensors")
    assert not any("preference" in name for name in kept)
    run_ppo(broken)
    expected, found = weights(whole.out), weights(broken.out)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert metrics(whole.out) == metrics(broken.out)


def test_where_it_cannot_be_held_it_is_refused_before_a_model_is_loaded(
    judge: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    folder, merged = judge / "adapter", judge / "model"
    entries = [{"kind": "model", "path": folder}]
    alone = settings(tmp_path, tiny_model_dir, rewards=entries)
    said = rf"{folder}: this is an adapter, which only PPO reads, with 'lora' .*; name the merged model \({merged}\)"
    with pytest.raises(InputError, match=said):
        run_ppo(alone)
    with pytest.raises(InputError, match=said):
        run_grpo(
            GRPOConfig(model=str(tiny_model_dir), out=tmp_path / "g", prompts=alone.prompts, rewards=alone.rewards)
        )
    other = tmp_path / "other"
    tiny.llama(intermediate_size=48).save_pretrained(other)
    tiny.tokenizer().save_pretrained(other)
    with pytest.raises(InputError, match=f"this adapter was trained over another model than the policy's, {other}"):
        run_ppo(settings(tmp_path / "o", other, rewards=entries, lora=LORA))
    nameless = settings(tmp_path / "n", tiny_model_dir, rewards=[{**entries[0], "head": "kind"}], lora=LORA)
    with pytest.raises(InputError, match="no head 'kind': its one score has no name"):
        check_sources(nameless.all_rewards, base=nameless.model)


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        ("base_model.model.score.weight", "no weights for base_model.model.score.weight"),
        ("base_model.model.model.layers.0.mlp.down_proj.lora_B.weight", "no weights for .*down_proj.lora_B"),
    ],
)
def test_files_that_are_not_all_of_one_are_refused(
    judge: Path, tiny_model_dir: Path, tmp_path: Path, lost: str, said: str
) -> None:
    folder = Path(shutil.copytree(judge / "adapter", tmp_path / "adapter"))
    saved = load_file(folder / "adapter_model.safetensors")
    del saved[lost]
    save_file(saved, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EngineError, match=f"{folder}: the files have {said}"):
        hold(moved(tmp_path, tiny_model_dir), folder)


def test_answers_drawn_ahead_do_not_mind_it(judge: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    entries = [{"kind": "model", "path": judge / "adapter"}]
    found = []
    for name, rewards in (("with", entries), ("without", [])):
        config = settings(tmp_path / name, tiny_model_dir, lora=LORA, rewards=rewards, rollout={"ahead": True}, steps=3)
        run_ppo(config, vowels if not rewards else None)
        found.append(metrics(config.out)[0]["length"])
    assert found[0] == found[1]
