import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cai.errors import TrainingError
from cai.train.ppo.batch import Batch
from cai.train.ppo.monitor import Clock
from cai.train.ppo.policy import causal_of
from cai.train.ppo.step import Learner
from cai.train.ppo.trainer import Trainer
from tests.train.ppo.rig import trainer


@pytest.fixture
def ready(tmp_path: Path, tiny_model_dir: Path) -> Trainer:
    return trainer(tmp_path, tiny_model_dir)


def copied(learner: Learner) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in learner.policy.named_parameters()}


def changed(before: dict[str, Tensor], learner: Learner) -> bool:
    return any(not torch.equal(before[name], weight) for name, weight in learner.policy.named_parameters())


@pytest.mark.parametrize("options", [{}, {"gradient_checkpointing": True}, {"lora": {"r": 2}}])
def test_the_first_ratio_is_exactly_1(tmp_path: Path, tiny_model_dir: Path, options: dict[str, Any]) -> None:
    ready = trainer(tmp_path, tiny_model_dir, **options)
    batch = ready.rollouts(1, Clock())
    first = ready.learner.update(batch, ready.learner.plan(batch.samples, step=1, epoch=0)[0])
    assert first.sums.ratio_max == 1.0
    assert first.sums.kl == 0.0
    assert first.sums.clipped == 0
    second = ready.learner.update(batch, ready.learner.plan(batch.samples, step=1, epoch=0)[1])
    assert second.sums.kl > 0


def naive_loss(ready: Trainer, batch: Batch, rows: tuple[int, ...]) -> Tensor:
    """Row by row, from all logits, by the formulas of the paper."""
    config, causal = ready.config, causal_of(ready.learner.policy.policy)
    losses: list[Tensor] = []
    for row in rows:
        one = batch.samples[row]
        ids = torch.tensor([one.prompt_ids + one.answer_ids])
        out = causal(input_ids=ids, output_hidden_states=True)
        values = ready.learner.policy.value_head(out.hidden_states[-1][0])[:, 0]
        for t, token in enumerate(one.answer_ids):
            place = len(one.prompt_ids) - 1 + t
            logprob = torch.log_softmax(out.logits[0, place], -1)[token]
            ratio, advantage = (logprob - batch.logprobs_BT[row, t]).exp(), batch.advantages_BT[row, t]
            policy = -torch.min(ratio * advantage, ratio.clamp(1 - config.clip, 1 + config.clip) * advantage)
            value = 0.5 * (values[place] - batch.returns_BT[row, t]) ** 2
            losses.append(policy + config.value_coefficient * value)
    return torch.stack(losses).mean()


def test_the_gradient_is_that_of_a_naive_loop(tmp_path: Path, tiny_model_dir: Path) -> None:
    ready = trainer(tmp_path, tiny_model_dir, value_clip=None, minibatches=1)
    batch = ready.rollouts(1, Clock())
    torch.nn.init.normal_(ready.learner.policy.value_head.weight, std=0.1)
    (minibatch,) = ready.learner.plan(batch.samples, step=1, epoch=0)
    naive_loss(ready, batch, minibatch.rows).backward()
    expected = {name: weight.grad for name, weight in ready.learner.policy.named_parameters()}
    ready.learner.optimizer.zero_grad(set_to_none=True)
    tokens = int(batch.mask_BT.sum())
    for rows in minibatch.passes:
        ready.learner._pass(batch, rows, weight=1 / tokens)
    for name, weight in ready.learner.policy.named_parameters():
        torch.testing.assert_close(weight.grad, expected[name], atol=2e-5, rtol=1e-4)


def test_the_size_of_passes_is_no_part_of_the_result(tmp_path: Path, tiny_model_dir: Path) -> None:
    found = []
    for size in (1, 4, 6):
        ready = trainer(tmp_path / str(size), tiny_model_dir, micro_batch=size)
        batch = ready.rollouts(1, Clock())
        ready.learner.learn(batch, step=1)
        found.append(copied(ready.learner))
    for other in found[1:]:
        assert max(float((found[0][name] - weight).abs().max()) for name, weight in other.items()) < 1e-5


def test_a_pass_without_rows_has_no_gradient(ready: Trainer) -> None:
    batch = ready.rollouts(1, Clock())
    sums = ready.learner._pass(batch, (), weight=1.0)
    assert sums == (0,) * len(sums)
    gradients = [weight.grad for weight in ready.learner.policy.parameters()]
    assert all(gradient is not None and float(gradient.abs().max()) == 0 for gradient in gradients)


@pytest.mark.parametrize("field", ["advantages_BT", "returns_BT", "logprobs_BT"])
def test_a_loss_that_is_no_number_changes_no_weight_and_names_the_rows(ready: Trainer, field: str) -> None:
    batch = ready.rollouts(1, Clock())
    poisoned = getattr(batch, field).clone()
    poisoned[3, 0] = math.nan
    before = copied(ready.learner)
    minibatch = next(part for part in ready.learner.plan(batch.samples, step=1, epoch=0) if 3 in part.rows)
    with pytest.raises(TrainingError, match=r"loss is not a finite number.*row 3"):
        ready.learner.update(replace(batch, **{field: poisoned}), minibatch)
    assert not changed(before, ready.learner)
    assert all(weight.grad is None for weight in ready.learner.policy.parameters())


def test_a_gradient_that_is_no_number_changes_no_weight(ready: Trainer) -> None:
    batch = ready.rollouts(1, Clock())
    before = copied(ready.learner)
    next(iter(ready.learner.policy.trunk)).register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(TrainingError, match="gradient is not a finite number"):
        ready.learner.update(batch, ready.learner.plan(batch.samples, step=1, epoch=0)[0])
    assert not changed(before, ready.learner)


def test_a_step_ends_before_the_update_that_is_too_far_away(tmp_path: Path, tiny_model_dir: Path) -> None:
    ready = trainer(tmp_path, tiny_model_dir, target_kl=1e-6, minibatches=1, epochs=4)
    found = ready.learner.learn(ready.rollouts(1, Clock()), step=1)
    assert found["updates"] == 1
    assert found["approx_kl"] > 1e-6


def test_policy_and_value_head_are_clipped_apart(tmp_path: Path, tiny_model_dir: Path) -> None:
    ready = trainer(tmp_path, tiny_model_dir, max_grad_norm=1e-3)
    batch = ready.rollouts(1, Clock())
    seen: list[float] = []
    step = ready.learner.optimizer.step

    def watched() -> None:
        for weights in (ready.learner.policy.trunk, list(ready.learner.policy.value_head.parameters())):
            grads = [weight.grad for weight in weights if weight.grad is not None]
            seen.append(float(torch.nn.utils.get_total_norm(grads)))
        step()

    ready.learner.optimizer.step = watched
    found = ready.learner.update(batch, ready.learner.plan(batch.samples, step=1, epoch=0)[0])
    assert found.grad_norm > 1e-3
    assert seen == pytest.approx([1e-3, 1e-3], rel=1e-2)
