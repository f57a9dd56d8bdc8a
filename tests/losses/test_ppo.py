import math
import random
from typing import Any

import pytest
import torch
from torch import Tensor

from cai.losses.kl import LOG_RATIO_LIMIT
from cai.losses.ppo import PolicyLoss, ValueLoss, policy_loss, value_loss

NAN = float("nan")
INF = float("inf")


def policy_row(
    logprobs: list[float], old: list[float], advantages: list[float], clip: float, dual_clip: float | None
) -> tuple[list[float], list[float], int]:
    """Loss and gradient of every token in float64, by cases, and how many of them are clipped."""
    losses, gradients, clipped = [], [], 0
    for logprob, old_logprob, advantage in zip(logprobs, old, advantages, strict=True):
        ratio = math.exp(logprob - old_logprob)
        loss, gradient = -ratio * advantage, -ratio * advantage
        if advantage > 0 and ratio > 1 + clip:
            loss, gradient = -(1 + clip) * advantage, 0.0
            clipped += 1
        elif advantage < 0 and ratio < 1 - clip:
            loss, gradient = -(1 - clip) * advantage, 0.0
            clipped += 1
        elif advantage < 0 and dual_clip is not None and ratio > dual_clip:
            loss, gradient = -dual_clip * advantage, 0.0
            clipped += 1
        losses.append(loss)
        gradients.append(gradient)
    return losses, gradients, clipped


def test_four_tokens_by_hand() -> None:
    # Ratios 1.5, 0.5, 2, 1 with advantages 1, 1, -1, -1 and clip 0.2:
    #   -min(1.5, 1.2) = -1.2 (clipped);  -min(0.5, 0.8) = -0.5;  -min(-2, -1.2) = 2;  -min(-1, -1) = 1
    #   the sum is 1.3.
    old = torch.tensor([[-1.0, -1.0, -1.0, -1.0]])
    logprobs = (old + torch.tensor([[1.5, 0.5, 2.0, 1.0]]).log()).requires_grad_()
    advantages = torch.tensor([[1.0, 1.0, -1.0, -1.0]])
    mask = torch.ones(1, 4, dtype=torch.bool)
    result = policy_loss(logprobs_BT=logprobs, old_logprobs_BT=old, advantages_BT=advantages, mask_BT=mask, clip=0.2)
    assert float(result.loss_sum.detach()) == pytest.approx(1.3, rel=1e-6)
    assert int(result.token_count) == 4
    assert int(result.clipped_count) == 1
    assert float(result.clip_fraction) == 0.25
    assert float(result.ratio_max) == pytest.approx(2.0, rel=1e-6)
    # (ratio - 1) - ln ratio: 0.5 - ln 1.5, -0.5 - ln 0.5, 1 - ln 2, 0; the logarithms add up to ln(1.5 x 0.5 x 2).
    assert float(result.kl_sum) == pytest.approx(1.0 - math.log(1.5), rel=1e-5)
    assert float(result.approx_kl) == pytest.approx((1.0 - math.log(1.5)) / 4, rel=1e-5)
    (gradient,) = torch.autograd.grad(result.loss_sum, logprobs)
    torch.testing.assert_close(gradient, torch.tensor([[0.0, -0.5, 2.0, 1.0]]))
    # A dual clip of 1.6 holds the third token's loss at 1.6.
    dual = policy_loss(
        logprobs_BT=logprobs, old_logprobs_BT=old, advantages_BT=advantages, mask_BT=mask, clip=0.2, dual_clip=1.6
    )
    assert float(dual.loss_sum.detach()) == pytest.approx(0.9, rel=1e-6)
    assert int(dual.clipped_count) == 2
    (gradient,) = torch.autograd.grad(dual.loss_sum, logprobs)
    torch.testing.assert_close(gradient, torch.tensor([[0.0, -0.5, 0.0, 1.0]]))


def random_policy(seed: int) -> tuple[dict[str, Tensor], list[list[int]]]:
    """Random arguments, with NaN wherever the mask is false, and the valid places of each row."""
    draw = random.Random(seed)
    rows, tokens = draw.randint(1, 4), draw.randint(1, 6)
    places = [sorted(draw.sample(range(tokens), draw.randint(0, tokens))) for _ in range(rows)]
    tensors = {
        name: torch.full((rows, tokens), draw.choice([NAN, INF, -INF]))
        for name in ("logprobs_BT", "old_logprobs_BT", "advantages_BT")
    }
    mask = torch.zeros(rows, tokens, dtype=torch.bool)
    for i, row in enumerate(places):
        for t in row:
            mask[i, t] = True
            tensors["old_logprobs_BT"][i, t] = draw.uniform(-4, 0)
            tensors["logprobs_BT"][i, t] = tensors["old_logprobs_BT"][i, t] + draw.uniform(-1, 1.5)
            tensors["advantages_BT"][i, t] = draw.uniform(-2, 2)
    return {**tensors, "mask_BT": mask}, places


@pytest.mark.parametrize("dual_clip", [None, 2.0])
def test_policy_loss_and_gradient_match_an_oracle_in_float64(dual_clip: float | None) -> None:
    for seed in range(200):
        arguments, places = random_policy(seed)
        logprobs = arguments["logprobs_BT"].requires_grad_()
        result = policy_loss(**arguments, clip=0.2, dual_clip=dual_clip)
        (gradient,) = torch.autograd.grad(result.loss_sum, logprobs)
        expected_loss, expected_gradient, clipped, ratios = 0.0, torch.zeros_like(gradient), 0, [0.0]
        for i, row in enumerate(places):
            new, old, row_advantages = (
                [float(arguments[name][i, t].detach()) for t in row]
                for name in ("logprobs_BT", "old_logprobs_BT", "advantages_BT")
            )
            losses, gradients, count = policy_row(new, old, row_advantages, 0.2, dual_clip)
            expected_loss += sum(losses)
            clipped += count
            ratios += [math.exp(a - b) for a, b in zip(new, old, strict=True)]
            expected_gradient[i, row] = torch.tensor(gradients)
        assert float(result.loss_sum.detach()) == pytest.approx(expected_loss, rel=1e-4, abs=1e-5)
        torch.testing.assert_close(gradient, expected_gradient, atol=1e-5, rtol=1e-4)
        assert int(result.clipped_count) == clipped
        assert int(result.token_count) == sum(map(len, places))
        assert float(result.ratio_max) == pytest.approx(max(ratios), rel=1e-4)
        assert float(result.ratio_min) == pytest.approx(min(ratios[1:], default=math.inf), rel=1e-4)
        assert result.kl_sum.isfinite()


def value_row(values: list[float], old: list[float], returns: list[float], clip: float | None) -> list[float]:
    """The loss of every token in float64."""
    losses = []
    for value, old_value, target in zip(values, old, returns, strict=True):
        loss = (value - target) ** 2 / 2
        if clip is not None:
            held = min(max(value, old_value - clip), old_value + clip)
            loss = max(loss, (held - target) ** 2 / 2)
        losses.append(loss)
    return losses


def test_four_values_by_hand() -> None:
    # Old values 0, clip 0.5, returns 1. Values 0.2, 2, -1, 1.2 are held at 0.2, 0.5, -0.5, 0.5:
    #   0.8^2;  max(1^2, 0.5^2) = 1;  max(2^2, 1.5^2) = 4;  max(0.2^2, 0.5^2) = 0.25 (clipped); half of 5.89
    values = torch.tensor([[0.2, 2.0, -1.0, 1.2]], requires_grad=True)
    result = value_loss(
        values_BT=values,
        old_values_BT=torch.zeros(1, 4),
        returns_BT=torch.ones(1, 4),
        mask_BT=torch.ones(1, 4, dtype=torch.bool),
        clip=0.5,
    )
    assert float(result.loss_sum.detach()) == pytest.approx(2.945, rel=1e-6)
    assert (int(result.token_count), int(result.clipped_count), float(result.clip_fraction)) == (4, 1, 0.25)
    (gradient,) = torch.autograd.grad(result.loss_sum, values)
    torch.testing.assert_close(gradient, torch.tensor([[-0.8, 1.0, -2.0, 0.0]]))


@pytest.mark.parametrize("clip", [0.2, None])
def test_value_loss_matches_an_oracle_in_float64(clip: float | None) -> None:
    for seed in range(200):
        draw = random.Random(seed)
        rows, tokens = draw.randint(1, 4), draw.randint(1, 6)
        mask = torch.tensor([[draw.random() < 0.7 for _ in range(tokens)] for _ in range(rows)])
        columns = {
            name: torch.tensor([[draw.uniform(-1, 1) for _ in range(tokens)] for _ in range(rows)])
            for name in ("values_BT", "old_values_BT", "returns_BT")
        }
        values, old_values, returns = (column[mask].tolist() for column in columns.values())
        expected = sum(value_row(values, old_values, returns, clip))
        poisoned = {name: torch.where(mask, column, NAN) for name, column in columns.items()}
        poisoned["values_BT"].requires_grad_()
        result = value_loss(**poisoned, mask_BT=mask, clip=clip)
        assert float(result.loss_sum.detach()) == pytest.approx(expected, rel=1e-4, abs=1e-6)
        (gradient,) = torch.autograd.grad(result.loss_sum, poisoned["values_BT"])
        assert gradient.isfinite().all()
        assert not gradient[~mask].any()
        if clip is None:
            error = columns["values_BT"] - columns["returns_BT"]
            torch.testing.assert_close(gradient[mask], error[mask])
            assert int(result.clipped_count) == 0


@pytest.mark.parametrize("log_ratio", [1e4, -1e4, 25.0, -25.0])
@pytest.mark.parametrize("advantage", [1.0, -1.0])
@pytest.mark.parametrize("dual_clip", [None, 3.0])
def test_extreme_log_ratios_stay_finite_and_without_gradient(
    log_ratio: float, advantage: float, dual_clip: float | None
) -> None:
    logprobs = torch.tensor([[log_ratio, 0.1]], requires_grad=True)
    result = policy_loss(
        logprobs_BT=logprobs,
        old_logprobs_BT=torch.zeros(1, 2),
        advantages_BT=torch.tensor([[advantage, 1.0]]),
        mask_BT=torch.ones(1, 2, dtype=torch.bool),
        clip=0.2,
        dual_clip=dual_clip,
    )
    assert all(field.isfinite() for field in result)
    assert float(result.ratio_max) <= math.exp(LOG_RATIO_LIMIT) * 1.001
    (gradient,) = torch.autograd.grad(result.loss_sum, logprobs)
    torch.testing.assert_close(gradient, torch.tensor([[0.0, -math.exp(0.1)]]))


def test_a_nan_at_a_valid_token_is_not_hidden() -> None:
    result = policy_loss(
        logprobs_BT=torch.tensor([[NAN, 0.0]]),
        old_logprobs_BT=torch.zeros(1, 2),
        advantages_BT=torch.ones(1, 2),
        mask_BT=torch.ones(1, 2, dtype=torch.bool),
        clip=0.2,
    )
    assert result.loss_sum.isnan()


def test_at_the_first_step_the_gradient_is_that_of_the_policy_gradient() -> None:
    logprobs = -torch.rand(3, 5)
    advantages = torch.randn(3, 5)
    mask = torch.rand(3, 5) < 0.7
    leaf = logprobs.clone().requires_grad_()
    result = policy_loss(
        logprobs_BT=leaf, old_logprobs_BT=logprobs, advantages_BT=advantages, mask_BT=mask, clip=0.2, dual_clip=3.0
    )
    (gradient,) = torch.autograd.grad(result.loss_sum, leaf)
    torch.testing.assert_close(gradient, torch.where(mask, -advantages, 0.0))
    assert int(result.clipped_count) == 0
    assert float(result.approx_kl) == 0


def test_neither_accumulation_nor_world_size_changes_the_gradient() -> None:
    """The sums of unequal microbatches, each padded to its own length, over the global count."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.arange(8)[None, :] < torch.tensor([8, 1, 3, 5, 2, 7])[:, None]
    weights = torch.randn(6, 8, generator=generator, requires_grad=True)
    old, advantages = -torch.rand(6, 8, generator=generator), torch.randn(6, 8, generator=generator)
    targets, count = torch.randn(6, 8, generator=generator), int(mask.sum())

    def losses(rows: slice, length: int) -> tuple[PolicyLoss, ValueLoss]:
        at = (rows, slice(0, length))
        policy = policy_loss(
            logprobs_BT=old[at] + 0.3 * weights[at],
            old_logprobs_BT=old[at],
            advantages_BT=advantages[at],
            mask_BT=mask[at],
            clip=0.2,
        )
        return policy, value_loss(
            values_BT=weights[at], old_values_BT=old[at], returns_BT=targets[at], mask_BT=mask[at], clip=0.2
        )

    policy, value = losses(slice(0, 6), 8)
    full = (policy.loss_sum + value.loss_sum) / count
    (full_gradient,) = torch.autograd.grad(full, weights)
    parts = [losses(slice(0, 1), 8), losses(slice(1, 3), 3), losses(slice(3, 3), 8), losses(slice(3, 6), 7)]
    for part_policy, part_value in parts:
        torch.autograd.backward((part_policy.loss_sum + part_value.loss_sum) / count)
    assert weights.grad is not None
    torch.testing.assert_close(weights.grad, full_gradient, atol=1e-7, rtol=1e-5)
    for name in ("loss_sum", "token_count", "clipped_count", "kl_sum"):
        summed = sum(float(getattr(part, name).detach()) for part, _ in parts)
        assert summed == pytest.approx(float(getattr(policy, name).detach()), rel=1e-5)
    assert max(float(part.ratio_max) for part, _ in parts) == pytest.approx(float(policy.ratio_max))
    assert sum(int(part.token_count) for _, part in parts) == count
    assert int(policy.clipped_count) > 0
    assert int(value.clipped_count) > 0


def test_without_valid_tokens_everything_is_zero() -> None:
    empty = torch.full((2, 3), NAN)
    mask = torch.zeros(2, 3, dtype=torch.bool)
    policy = policy_loss(logprobs_BT=empty, old_logprobs_BT=empty, advantages_BT=empty, mask_BT=mask, clip=0.2)
    value = value_loss(values_BT=empty, old_values_BT=empty, returns_BT=empty, mask_BT=mask, clip=0.2)
    assert [float(field) for field in (*policy[:-1], *value)] == [0.0] * 8
    assert float(policy.ratio_min) == math.inf
    assert [float(f) for f in (policy.clip_fraction, policy.approx_kl, value.clip_fraction)] == [0.0] * 3


def test_bfloat16_is_computed_in_float32_and_only_the_loss_carries_a_gradient() -> None:
    tensors = [torch.rand(2, 3).bfloat16().requires_grad_() for _ in range(3)]
    mask = torch.ones(2, 3, dtype=torch.bool)
    policy = policy_loss(
        logprobs_BT=tensors[0], old_logprobs_BT=tensors[1], advantages_BT=tensors[2], mask_BT=mask, clip=0.2
    )
    value = value_loss(values_BT=tensors[0], old_values_BT=tensors[1], returns_BT=tensors[2], mask_BT=mask, clip=0.2)
    assert policy.loss_sum.dtype == value.loss_sum.dtype == torch.float32
    assert [field.requires_grad for field in policy] == [True, False, False, False, False, False]
    assert [field.requires_grad for field in value] == [True, False, False]
    torch.autograd.backward(policy.loss_sum + value.loss_sum)
    assert tensors[1].grad is None
    assert tensors[2].grad is None


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"clip": 0.0}, ValueError, "clip"),
        ({"clip": 1.0}, ValueError, "clip"),
        ({"dual_clip": 1.0}, ValueError, "dual_clip"),
        ({"advantages_BT": torch.zeros(2, 1)}, ValueError, "advantages_BT"),
        ({"mask_BT": torch.ones(2, 3)}, TypeError, "bool"),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments: dict[str, Any] = {
        name: torch.zeros(2, 3) for name in ("logprobs_BT", "old_logprobs_BT", "advantages_BT")
    }
    arguments |= {"mask_BT": torch.ones(2, 3, dtype=torch.bool), "clip": 0.2, **changes}
    with pytest.raises(error, match=message):
        policy_loss(**arguments)


def test_a_value_loss_that_makes_no_sense_is_refused() -> None:
    tensor, mask = torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match="clip is 0"):
        value_loss(values_BT=tensor, old_values_BT=tensor, returns_BT=tensor, mask_BT=mask, clip=0.0)
    with pytest.raises(ValueError, match="returns_BT"):
        value_loss(values_BT=tensor, old_values_BT=tensor, returns_BT=tensor[0], mask_BT=mask, clip=0.2)
