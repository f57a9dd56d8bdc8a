import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cai.losses.preference import bradley_terry, soft_cross_entropy


def oracle(chosen: float, rejected: float, target: float, margin: float, weight: float, centering: float) -> float:
    """The loss of one row in float64, from probabilities rather than log-sigmoids."""
    difference = chosen - rejected - margin
    prefers_chosen = 1 / (1 + math.exp(-difference))
    prefers_rejected = 1 / (1 + math.exp(difference))
    cross_entropy = -target * math.log(prefers_chosen) - (1 - target) * math.log(prefers_rejected)
    return weight * (cross_entropy + centering * (chosen + rejected) ** 2)


def test_four_rows_by_hand() -> None:
    # Differences ln 3, 0, -ln 3, ln 3 - ln 3 (the last by its margin); P(chosen) = 3/4, 1/2, 1/4, 1/2.
    chosen = torch.tensor([math.log(3), 2.0, 0.0, math.log(3)])
    rejected = torch.tensor([0.0, 2.0, math.log(3), 0.0])
    loss = bradley_terry(chosen, rejected, margin_B=torch.tensor([0.0, 0.0, 0.0, math.log(3)]))
    torch.testing.assert_close(loss, -torch.tensor([0.75, 0.5, 0.25, 0.5]).log())
    # A target of 0.9: -0.9 ln 0.75 - 0.1 ln 0.25
    soft = bradley_terry(chosen[:1], rejected[:1], target_B=torch.tensor([0.9]))
    assert float(soft) == pytest.approx(-0.9 * math.log(0.75) - 0.1 * math.log(0.25), rel=1e-6)
    # Centering of 0.01 on rewards 2 and 2: 0.01 x 4^2; the weight of 3 takes all of it.
    centred = bradley_terry(chosen[1:2], rejected[1:2], weight_B=torch.tensor([3.0]), centering=0.01)
    assert float(centred) == pytest.approx(3 * (math.log(2) + 0.16), rel=1e-6)


def test_rows_match_an_oracle_in_float64() -> None:
    draw = random.Random(0)
    for _ in range(300):
        rows = draw.randint(1, 6)
        columns = [
            [draw.uniform(-4, 4) for _ in range(rows)],
            [draw.uniform(-4, 4) for _ in range(rows)],
            [draw.random() for _ in range(rows)],
            [draw.uniform(0, 2) for _ in range(rows)],
            [draw.uniform(0, 3) for _ in range(rows)],
        ]
        centering = draw.choice([0.0, 0.01, 0.3])
        chosen, rejected, target, margin, weight = map(torch.tensor, columns)
        loss = bradley_terry(chosen, rejected, target_B=target, margin_B=margin, weight_B=weight, centering=centering)
        expected = [oracle(c, r, t, m, w, centering) for c, r, t, m, w in zip(*columns, strict=True)]
        torch.testing.assert_close(loss, torch.tensor(expected), atol=1e-5, rtol=1e-5)


@given(st.floats(-50, 50), st.floats(-50, 50), st.floats(0, 1, width=32), st.floats(-3, 3))
def test_swapping_the_responses_and_the_target_changes_nothing(
    a: float, b: float, target: float, margin: float
) -> None:
    first, second, t, m = (torch.tensor([value], dtype=torch.float32) for value in (a, b, target, margin))
    straight = bradley_terry(first, second, target_B=t, margin_B=m, centering=0.1)
    swapped = bradley_terry(second, first, target_B=1 - t, margin_B=-m, centering=0.1)
    torch.testing.assert_close(straight, swapped, atol=1e-5, rtol=1e-5)


def test_a_target_of_one_is_a_hard_label_and_its_gradient_is_the_error_in_probability() -> None:
    chosen = torch.tensor([0.3, -2.0], requires_grad=True)
    rejected = torch.tensor([1.0, 0.5])
    hard = bradley_terry(chosen, rejected)
    assert torch.equal(hard, bradley_terry(chosen, rejected, target_B=torch.ones(2)))
    target = torch.tensor([0.8, 0.4])
    (gradient,) = torch.autograd.grad(bradley_terry(chosen, rejected, target_B=target).sum(), chosen)
    # d/dx of the cross-entropy is s(x) - t.
    torch.testing.assert_close(gradient, torch.sigmoid(chosen.detach() - rejected) - target)


def test_the_least_loss_is_at_the_difference_that_gives_the_target() -> None:
    difference = torch.linspace(-3, 3, 601)
    loss = soft_cross_entropy(difference, torch.full_like(difference, 0.7))
    assert float(difference[loss.argmin()]) == pytest.approx(math.log(0.7 / 0.3), abs=0.01)


def test_large_differences_stay_finite_in_half_precision_too() -> None:
    chosen = torch.tensor([1e4, -1e4], dtype=torch.bfloat16, requires_grad=True)
    loss = bradley_terry(chosen, torch.zeros(2, dtype=torch.bfloat16), target_B=torch.tensor([0.5, 0.5]))
    assert loss.dtype == torch.float32
    assert loss.isfinite().all()
    (gradient,) = torch.autograd.grad(loss.sum(), chosen)
    torch.testing.assert_close(gradient.float(), torch.tensor([0.5, -0.5]))


def test_rewards_in_half_precision_are_subtracted_in_float32() -> None:
    # 256 - (-1) is 257, which bfloat16 rounds to 256.
    chosen, rejected = torch.tensor([256.0]).bfloat16(), torch.tensor([-1.0]).bfloat16()
    loss = bradley_terry(chosen, rejected, margin_B=torch.tensor([257.0]))
    assert float(loss) == pytest.approx(math.log(2), rel=1e-6)


def test_losses_of_microbatches_over_the_global_count_equal_the_full_batch() -> None:
    generator = torch.Generator().manual_seed(0)
    chosen, rejected = torch.randn(7, generator=generator, requires_grad=True), torch.randn(7, generator=generator)
    target = torch.rand(7, generator=generator)
    full = bradley_terry(chosen, rejected, target_B=target).mean()
    parts = [
        bradley_terry(chosen[i], rejected[i], target_B=target[i]).sum() / 7
        for i in (slice(0, 2), slice(2, 3), slice(3, 7))
    ]
    summed = torch.stack(parts).sum()
    torch.testing.assert_close(summed, full)
    torch.testing.assert_close(torch.autograd.grad(summed, chosen), torch.autograd.grad(full, chosen))


@pytest.mark.parametrize("name", ["target_B", "margin_B", "weight_B"])
def test_a_column_where_a_row_is_wanted_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        bradley_terry(torch.zeros(3), torch.zeros(3), **{name: torch.zeros(3, 1)})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="reward_rejected_B"):
        bradley_terry(torch.zeros(3), torch.zeros(3, 1))
