import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cai.losses.noise import expected_flip_rate, forward_corrected
from cai.losses.preference import soft_cross_entropy
from cai.losses.robust_dpo import robust_dpo


def test_one_row_by_hand() -> None:
    # s(log 3) = 3/4; with a fifth flipped the label says "chosen" with 0.8 x 0.75 + 0.2 x 0.25 = 0.65.
    loss = forward_corrected(torch.tensor([math.log(3)]), flip_rate=0.2)
    assert float(loss) == pytest.approx(-math.log(0.65), rel=1e-6)


@settings(max_examples=1000, deadline=None)
@given(st.floats(-15, 15, width=32), st.floats(0, 1), st.floats(0, 0.49))
def test_rows_match_an_oracle_in_float64(logit: float, target: float, rate: float) -> None:
    loss = forward_corrected(torch.tensor([logit]), flip_rate=rate, target_B=torch.tensor([target]))
    p = 1 / (1 + math.exp(-logit))
    q = 1 / (1 + math.exp(logit))
    said, other = (1 - rate) * p + rate * q, (1 - rate) * q + rate * p
    assert float(loss) == pytest.approx(-target * math.log(said) - (1 - target) * math.log(other), rel=2e-5, abs=2e-5)


def test_without_noise_it_is_the_cross_entropy_and_its_gradient() -> None:
    logit, target = torch.tensor([-40.0, -1.0, 0.0, 40.0], requires_grad=True), torch.tensor([0.0, 0.3, 1.0, 0.9])
    ours, plain = forward_corrected(logit, flip_rate=0.0, target_B=target), soft_cross_entropy(logit, target)
    torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(torch.autograd.grad(ours.sum(), logit), torch.autograd.grad(plain.sum(), logit))


def test_one_rate_for_all_and_one_per_row_agree() -> None:
    logit, target = torch.randn(5), torch.rand(5)
    rows = forward_corrected(logit, flip_rate=torch.full((5,), 0.3), target_B=target)
    torch.testing.assert_close(rows, forward_corrected(logit, flip_rate=0.3, target_B=target))
    mixed = forward_corrected(logit, flip_rate=torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4]))
    for row, rate in enumerate([0.0, 0.1, 0.2, 0.3, 0.4]):
        torch.testing.assert_close(mixed[row : row + 1], forward_corrected(logit[row : row + 1], flip_rate=rate))


def test_it_is_least_at_the_clean_odds_where_the_plain_loss_is_least_at_the_noisy_ones() -> None:
    """Patrini et al., theorem 2: the minimiser under noise is the one of clean data."""
    clean, rate = 0.9, 0.3
    noisy = torch.tensor((1 - rate) * clean + rate * (1 - clean)).expand(4001)
    logits = torch.linspace(-5, 5, 4001)
    corrected = logits[forward_corrected(logits, flip_rate=rate, target_B=noisy).argmin()].sigmoid()
    plain = logits[soft_cross_entropy(logits, noisy).argmin()].sigmoid()
    assert float(corrected) == pytest.approx(clean, abs=1e-3)
    assert float(plain) == pytest.approx(0.66, abs=1e-3)


def test_it_stays_bounded_where_robust_dpo_does_not() -> None:
    far = torch.tensor([60.0])
    zero = torch.zeros(1)
    assert float(forward_corrected(-far, flip_rate=0.3)) == pytest.approx(-math.log(0.3), rel=1e-5)
    unbounded = robust_dpo(
        policy_chosen_B=-far,
        policy_rejected_B=zero,
        reference_chosen_B=zero,
        reference_rejected_B=zero,
        beta=1.0,
        flip_rate=0.3,
    )
    assert float(unbounded) > 90


def test_calibrated_probabilities_tell_how_often_their_rounding_is_wrong() -> None:
    assert float(expected_flip_rate(torch.tensor([0.9, 0.2, 0.5, 1.0]))) == pytest.approx((0.1 + 0.2 + 0.5 + 0) / 4)
    prob = torch.rand(200_000)
    wrong = (torch.rand(200_000) < prob) != (prob >= 0.5)
    assert float(expected_flip_rate(prob)) == pytest.approx(float(wrong.float().mean()), abs=5e-3)
    with pytest.raises(ValueError, match="no probabilities"):
        expected_flip_rate(torch.tensor([]))


@pytest.mark.parametrize("rate", [-0.1, 0.5, float("nan")])
def test_rates_that_tell_nothing_and_shapes_that_would_broadcast_are_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="flip_rate"):
        forward_corrected(torch.zeros(2), flip_rate=rate)
    with pytest.raises(ValueError, match="they must agree"):
        forward_corrected(torch.zeros(2), flip_rate=torch.zeros(2, 1))
