import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import GradientState
from torch import Tensor

from cai.errors import TrainingError
from cai.train.ppo.batch import Batch, Sample
from cai.train.ppo.monitor import Clock
from cai.train.ppo.policy import causal_of
from cai.train.ppo.rollout import sample_answers
from cai.train.ppo.step import Learner, shares
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
    """Row by row, from all logits, by the formulas of the papers."""
    config, causal = ready.config, causal_of(ready.learner.policy.policy)
    losses: list[Tensor] = []
    by_row: list[Tensor] = []
    for row in rows:
        one = batch.samples[row]
        if one.cut_off and config.cut_off == "mask":
            continue
        own: list[Tensor] = []
        ids = torch.tensor([one.prompt_ids + one.answer_ids])
        out = causal(input_ids=ids, output_hidden_states=True)
        values = ready.learner.policy.value_head(out.hidden_states[-1][0])[:, 0]
        for t, token in enumerate(one.answer_ids):
            place = len(one.prompt_ids) - 1 + t
            every = torch.log_softmax(out.logits[0, place], -1)
            logprob = every[token]
            ratio, advantage = (logprob - batch.logprobs_BT[row, t]).exp(), batch.advantages_BT[row, t]
            policy = -torch.min(ratio * advantage, ratio.clamp(1 - config.clip, 1 + config.clip) * advantage)
            if config.dual_clip is not None and advantage < 0:
                policy = torch.min(policy, -config.dual_clip * advantage)
            if config.kl_in == "loss":
                log_r = batch.ref_logprobs_BT[row, t] - logprob
                estimate = log_r.exp() - 1 - log_r if config.kl_estimator == "k3" else 0.5 * log_r**2
                policy = policy + config.kl_coefficient * estimate
            policy = policy + config.entropy_coefficient * (every.exp() * every).sum()
            own.append(policy)
            losses.append(config.value_coefficient * 0.5 * (values[place] - batch.returns_BT[row, t]) ** 2)
        by_row.append(torch.stack(own))
    mean = (
        torch.cat(by_row).mean() if config.normalize_by == "token" else torch.stack([x.mean() for x in by_row]).mean()
    )
    return mean + torch.stack(losses).mean()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"normalize_by": "sequence", "cut_off": "mask"},
        {"kl_in": "loss", "kl_estimator": "k3", "kl_coefficient": 0.5, "normalize_by": "sequence"},
        {"kl_in": "loss", "kl_estimator": "k2", "kl_coefficient": 0.5},
        {"entropy_coefficient": 0.3, "dual_clip": 1.05},
    ],
)
def test_the_gradient_is_that_of_a_naive_loop(
    tmp_path: Path, tiny_model_dir: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def of_every_length(*args: Any, **given: Any) -> list[Sample]:
        drawn = enumerate(sample_answers(*args, **given), start=2)
        return [replace(one, answer_ids=one.answer_ids[:n], cut_off=n % 2 == 0) for n, one in drawn]

    monkeypatch.setattr("cai.train.ppo.answers.sample_answers", of_every_length)
    ready = trainer(tmp_path, tiny_model_dir, value_clip=None, minibatches=1, **options)
    batch = ready.rollouts(1, Clock())
    # Away from the rollout's policy, where ratios and KL are not those of the start.
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in ready.learner.policy.trunk:
            weight.add_(torch.randn_like(weight) * 0.02)
    torch.nn.init.normal_(ready.learner.policy.value_head.weight, std=0.1)
    (minibatch,) = ready.learner.plan(batch.samples, step=1, epoch=0)
    naive_loss(ready, batch, minibatch.rows).backward()
    expected = {name: weight.grad for name, weight in ready.learner.policy.named_parameters()}
    ready.learner.optimizer.zero_grad(set_to_none=True)
    share_B = shares(batch.tokens_B, minibatch.rows, by=ready.config.normalize_by)
    for rows in minibatch.passes:
        ready.learner._pass(batch, rows, share_B, weight=1 / int(batch.tokens_B.sum()))
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
    sums = ready.learner._pass(batch, (), torch.ones(len(batch.samples)), weight=1.0)
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


def test_it_learns_where_another_training_was_interrupted(tmp_path: Path, tiny_model_dir: Path) -> None:
    GradientState().sync_gradients = False
    ready = trainer(tmp_path, tiny_model_dir)
    before = copied(ready.learner)
    ready.learner.learn(ready.rollouts(1, Clock()), step=1)
    assert changed(before, ready.learner)


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


def test_shares_of_the_docstring_add_up_to_the_tokens() -> None:
    tokens_B = torch.tensor([3, 1, 0, 9])
    assert shares(tokens_B, (0, 1, 2), by="sequence")[:2].tolist() == pytest.approx([2 / 3, 2.0])
    assert float((shares(tokens_B, (0, 1, 2), by="sequence") * tokens_B)[:3].sum()) == pytest.approx(4.0)
    assert shares(tokens_B, (0, 1), by="token").tolist() == [1, 1, 1, 1]


def test_a_step_whose_answers_are_all_left_out_changes_nothing(tmp_path: Path, tiny_model_dir: Path) -> None:
    ready = trainer(tmp_path, tiny_model_dir, cut_off="mask", max_new_tokens=1)
    batch = ready.rollouts(1, Clock())
    batch = replace(batch, trained_B=torch.zeros_like(batch.trained_B))
    before = copied(ready.learner)
    assert ready.learner.learn(batch, step=1)["updates"] == 0
    assert not changed(before, ready.learner)


def test_the_extremes_of_the_ratio_are_reported(ready: Trainer) -> None:
    found = ready.learner.learn(ready.rollouts(1, Clock()), step=1)
    assert 0 < found["ratio_min"] < 1 < found["ratio_max"]
