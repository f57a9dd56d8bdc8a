import math
import random

import pytest
import torch
from torch import Tensor

from cai.losses.dpo import dpo
from cai.losses.robust_dpo import robust_dpo

Pair = tuple[float, float, float, float]


def row(pair: Pair, flipped: bool = False) -> dict[str, Tensor]:
    """Name four sums of log-probabilities (policy and reference of chosen, then of rejected) as the losses do."""
    policy_chosen, reference_chosen, policy_rejected, reference_rejected = pair
    if flipped:
        policy_chosen, policy_rejected = policy_rejected, policy_chosen
        reference_chosen, reference_rejected = reference_rejected, reference_chosen
    return {
        "policy_chosen_B": torch.tensor([policy_chosen]),
        "policy_rejected_B": torch.tensor([policy_rejected]),
        "reference_chosen_B": torch.tensor([reference_chosen]),
        "reference_rejected_B": torch.tensor([reference_rejected]),
    }


def test_one_pair_by_hand() -> None:
    # The margin is 1 x ((-1 + 2) - (-1 + 1)) = 1. With a quarter flipped: (0.75 L(1) - 0.25 L(-1)) / 0.5.
    right, wrong = math.log(1 + math.exp(-1)), math.log(1 + math.exp(1))
    loss = robust_dpo(**row((-1.0, -2.0, -1.0, -1.0)), beta=1.0, flip_rate=0.25)
    assert float(loss) == pytest.approx((0.75 * right - 0.25 * wrong) / 0.5, rel=1e-5)


def test_its_mean_over_flips_is_the_loss_on_clean_labels() -> None:
    draw = random.Random(0)
    for _ in range(200):
        pair = (draw.uniform(-9, 0), draw.uniform(-9, 0), draw.uniform(-9, 0), draw.uniform(-9, 0))
        rate = draw.uniform(0, 0.45)
        as_is = robust_dpo(**row(pair), beta=0.2, flip_rate=rate)
        flipped = robust_dpo(**row(pair, flipped=True), beta=0.2, flip_rate=rate)
        torch.testing.assert_close(
            (1 - rate) * as_is + rate * flipped, dpo(**row(pair), beta=0.2), atol=1e-5, rtol=1e-4
        )


def test_without_flips_it_is_dpo() -> None:
    given = row((-1.0, -2.0, -3.0, -1.0))
    assert torch.equal(robust_dpo(**given, beta=0.1, flip_rate=0.0), dpo(**given, beta=0.1))


@pytest.mark.parametrize("rate", [-0.1, 0.5, 1.0, float("nan")])
def test_a_rate_that_carries_no_label_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="flip_rate"):
        robust_dpo(**row((-1.0, -2.0, -3.0, -1.0)), beta=0.1, flip_rate=rate)
