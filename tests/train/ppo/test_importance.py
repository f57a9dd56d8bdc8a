import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cai.errors import TrainingError
from cai.losses.ppo import policy_loss
from cai.train.ppo.batch import Batch
from cai.train.ppo.config import PPOConfig
from cai.train.ppo.importance import behavior_logprobs, corrected, importance_weights
from cai.train.ppo.policy import causal_of
from cai.train.ppo.step import shares
from cai.train.ppo.trainer import Trainer
from tests.train.ppo.rig import batch_of, sample, settings, trainer

AHEAD = {"ahead": True, "max_weight": 1e6}


def test_where_the_mask_is_false_the_weight_is_1_whatever_stands_there() -> None:
    mask_BT = torch.tensor([[True, True], [True, False]])
    proximal_BT = torch.tensor([[-1.0, -1.0], [-1.0, math.nan]])
    behavior_BT = torch.tensor([[-2.0, -1.5], [-3.0, math.inf]])
    for level, expected in (("token", [[1, 0.5], [2, 0]]), ("sequence", [[1.5, 1.5], [2, 0]])):
        found_BT = importance_weights(proximal_BT, behavior_BT, mask_BT, level=level)
        torch.testing.assert_close(found_BT, torch.tensor(expected, dtype=torch.float32).exp())


@pytest.mark.parametrize(
    ("level", "unbiased"), [("none", False), ("token", False), ("sequence", True)]
)  # token: the first token's return is that of the policy that went on, and the second's states are its too
def test_over_two_tokens_the_product_of_weights_leaves_no_bias(level: str, unbiased: bool) -> None:
    """All nine answers of three tokens and again three, each as often as the behavior policy draws it."""
    generator = torch.Generator().manual_seed(0)
    first_A = torch.randn(3, generator=generator, requires_grad=True)
    second_AA = torch.randn(3, 3, generator=generator, requires_grad=True)
    reward_AA = torch.randn(3, 3, generator=generator)

    def logprobs(first_A: Tensor, second_AA: Tensor) -> Tensor:
        one = torch.log_softmax(first_A, -1)[:, None].expand(3, 3)
        return torch.stack([one, torch.log_softmax(second_AA, -1)], -1).reshape(9, 2)

    shift_A, shift_AA = torch.randn(3, generator=generator), torch.randn(3, 3, generator=generator)
    behavior_BT = logprobs(first_A.detach() + shift_A, second_AA.detach() + shift_AA)
    logprobs_BT = logprobs(first_A, second_AA)
    mask_BT = torch.ones(9, 2, dtype=torch.bool)
    weights_BT = torch.ones(9, 2)
    if level != "none":
        weights_BT = importance_weights(logprobs_BT.detach(), behavior_BT, mask_BT, level=level)
    loss = policy_loss(
        logprobs_BT=logprobs_BT,
        old_logprobs_BT=logprobs_BT.detach(),
        advantages_BT=reward_AA.reshape(9, 1) * weights_BT * behavior_BT.sum(1, keepdim=True).exp(),
        mask_BT=mask_BT,
        clip=0.2,
    )
    found = torch.autograd.grad(-loss.loss_sum, (first_A, second_AA), retain_graph=True)
    value = (logprobs_BT.sum(1).exp() * reward_AA.flatten()).sum()
    expected = torch.autograd.grad(value, (first_A, second_AA))
    error = max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True))
    assert error < 1e-6 if unbiased else error > 0.02


def every_answer(ready: Trainer) -> tuple[Batch, Tensor]:
    """Return two prompts' every answer of one token, weighed as often as the weights draw it, and their advantages."""
    causal = causal_of(ready.learner.policy.policy)
    prompts = [(5, 6, 7), (8, 9)]
    with torch.no_grad():
        rows = [torch.log_softmax(causal(input_ids=torch.tensor([ids])).logits[0, -1], -1) for ids in prompts]
    samples = [
        sample(row * len(logprobs_V) + token, ids, (token,), sampled_logprobs=(float(logprobs_V[token]),))
        for row, (ids, logprobs_V) in enumerate(zip(prompts, rows, strict=True))
        for token in range(len(logprobs_V))
    ]
    behavior_BT = torch.cat(rows)[:, None]
    gain_SV = torch.randn(2, len(rows[0]), generator=torch.Generator().manual_seed(1))
    batch = batch_of(samples, ready.config, logprobs_BT=behavior_BT, ref_logprobs_BT=behavior_BT)
    # The loss is a mean over rows; each prompt comes every other time.
    often_BT = behavior_BT.exp() * len(samples) / 2
    return replace(batch, advantages_BT=gain_SV.reshape(-1, 1) * often_BT), gain_SV


def moved(ready: Trainer, batch: Batch) -> Batch:
    """Change the policy as an update would, and return the batch as it is read by then."""
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in ready.learner.policy.trunk:
            weight.add_(torch.randn_like(weight) * 0.03)
        causal = causal_of(ready.learner.policy.policy)
        prompts = list(dict.fromkeys(one.prompt_ids for one in batch.samples))
        rows = [torch.log_softmax(causal(input_ids=torch.tensor([ids])).logits[0, -1], -1) for ids in prompts]
    return replace(batch, logprobs_BT=torch.cat(rows)[:, None])


def gradient(ready: Trainer, batch: Batch) -> Tensor:
    ready.learner.optimizer.zero_grad(set_to_none=True)
    rows = range(len(batch.samples))
    for start in range(0, len(rows), 256):
        part = rows[start : start + 256]
        ready.learner._pass(batch, part, shares(batch.tokens_B, rows, by="token"), weight=1 / len(rows))
    return torch.cat([weight.grad.flatten() for weight in ready.learner.policy.trunk if weight.grad is not None])


def analytic(ready: Trainer, gain_SV: Tensor, batch: Batch) -> Tensor:
    """Return the slope of minus the mean gain, from all logits."""
    ready.learner.optimizer.zero_grad(set_to_none=True)
    causal = causal_of(ready.learner.policy.policy)
    for gain_V, ids in zip(gain_SV, dict.fromkeys(one.prompt_ids for one in batch.samples), strict=True):
        (-(torch.softmax(causal(input_ids=torch.tensor([ids])).logits[0, -1], -1) * gain_V).sum() / 2).backward()
    return torch.cat([weight.grad.flatten() for weight in ready.learner.policy.trunk if weight.grad is not None])


def test_on_a_two_state_bandit_the_corrected_update_is_the_policy_gradient_and_the_uncorrected_is_not(
    tmp_path: Path, tiny_model_dir: Path
) -> None:
    """The expectation itself: every token that the model knows, after two prompts, as often as it is drawn."""
    errors = {}
    for name, rollout in {
        "none": {**AHEAD, "correction": "none"},
        "cut off at 1.5": {**AHEAD, "max_weight": 1.5},
        "corrected": AHEAD,
    }.items():
        ready = trainer(tmp_path / name, tiny_model_dir, value_coefficient=0.0, rollout=rollout)
        drawn, gain_SV = every_answer(ready)
        weighed, readings = corrected(moved(ready, drawn), ready.config, step=2)
        expected = analytic(ready, gain_SV, drawn)
        errors[name] = float((gradient(ready, weighed) - expected).norm() / expected.norm())
        if name == "corrected":
            assert weighed.weights_BT is not None
            often_BT = torch.tensor([one.sampled_logprobs for one in drawn.samples]).exp() / 2
            assert float((weighed.weights_BT * often_BT).sum()) == pytest.approx(1, abs=1e-4)
            assert readings["weight_max"] > 1.5
            assert readings["weight_truncated"] == 0
    assert errors["corrected"] < 1e-4
    assert errors["none"] > 0.3
    assert errors["corrected"] < errors["cut off at 1.5"] < errors["none"]


def drawn(tmp_path: Path, **rollout: object) -> tuple[Batch, PPOConfig]:
    config = settings(tmp_path, Path("model"), rollout=rollout)
    samples = [
        sample(0, [5], [1, 2], sampled_logprobs=(-1.0, -3.0)),
        sample(1, [5], [3], sampled_logprobs=(-1.5,)),
    ]
    return batch_of(samples, config), config


def test_weights_are_cut_off_and_counted(tmp_path: Path) -> None:
    batch, config = drawn(tmp_path, ahead=True, max_weight=2.0)
    weighed, readings = corrected(batch, config, step=2)
    assert weighed.weights_BT is not None
    torch.testing.assert_close(weighed.weights_BT, torch.tensor([[1.0, 2.0], [math.exp(0.5), 1.0]]))
    assert readings == pytest.approx(
        {"weight_mean": (3 + math.exp(0.5)) / 3, "weight_max": math.exp(2), "weight_truncated": 1 / 3}
    )


def test_the_kl_that_is_reported_is_weighed(tmp_path: Path) -> None:
    batch, _ = drawn(tmp_path)
    batch = replace(batch, ref_logprobs_BT=torch.full((2, 2), -2.0))
    weighed = replace(batch, weights_BT=torch.tensor([[2.0, 0.5], [1.0, 1.0]]))
    one = math.exp(-1) - 1 + 1
    assert batch.kl_per_answer == pytest.approx(one * 3 / 2)
    assert weighed.kl_per_answer == pytest.approx(one * 3.5 / 2)


def test_answers_of_the_policy_itself_are_left_as_they_are(tmp_path: Path) -> None:
    batch, config = drawn(tmp_path)
    assert corrected(batch, config, step=2) == (batch, {})


def test_an_engine_that_runs_something_else_is_refused(tmp_path: Path) -> None:
    batch, config = drawn(tmp_path, engine="vllm", max_gap=0.8)
    with pytest.raises(TrainingError, match=r"0\.83 nats per token from the training's .*0\.8.*vllm does not run"):
        corrected(batch, config, step=2)
    batch, config = drawn(tmp_path, engine="vllm", ahead=True, max_gap=0.8)
    with pytest.raises(TrainingError, match="vllm does not run"):
        corrected(batch, config, step=1)
    # From there on an update lies between.
    corrected(batch, config, step=2)


def test_an_engine_that_says_nothing_of_its_tokens_is_refused() -> None:
    with pytest.raises(TrainingError, match="no log-probabilities with 1 answers"):
        behavior_logprobs([sample(0, [5], [1, 2]), sample(1, [5], [3], sampled_logprobs=(-1.0,))])
