import random

import pytest
import torch
from torch import Tensor

from cai.losses.hinge import hinge


def columns(rows: list[tuple[float, float, float, float]]) -> dict[str, Tensor]:
    """Name rows of sums (policy and reference of chosen, then of rejected) as the loss does."""
    policy_chosen, reference_chosen, policy_rejected, reference_rejected = map(torch.tensor, zip(*rows, strict=True))
    return {
        "policy_chosen_B": policy_chosen,
        "policy_rejected_B": policy_rejected,
        "reference_chosen_B": reference_chosen,
        "reference_rejected_B": reference_rejected,
    }


def test_four_pairs_by_hand() -> None:
    # Log-ratios of chosen minus rejected: 0, 4, 1, -2; at beta 0.5 the margins are 0, 2, 0.5, -1.
    given = columns(
        [(-1.0, -1.0, -2.0, -2.0), (-1.0, -3.0, -4.0, -2.0), (-1.0, -2.0, -3.0, -3.0), (-3.0, -1.0, 0.0, 0.0)]
    )
    assert hinge(**given, beta=0.5).tolist() == [1.0, 0.0, 0.5, 2.0]
    # Halves of both sides: (1 + 1)/2, (0 + 3)/2, (0.5 + 1.5)/2, (2 + 0)/2
    assert hinge(**given, beta=0.5, target_B=torch.full((4,), 0.5)).tolist() == [1.0, 1.5, 1.0, 1.0]


def test_rows_match_an_oracle_in_float64() -> None:
    draw = random.Random(0)
    for _ in range(250):
        rows = [tuple(draw.uniform(-9, 0) for _ in range(4)) for _ in range(draw.randint(1, 4))]
        targets, beta = [draw.random() for _ in rows], draw.uniform(0.05, 1)
        loss = hinge(**columns(rows), beta=beta, target_B=torch.tensor(targets))  # type: ignore[arg-type]
        for (pc, rc, pr, rr), target, value in zip(rows, targets, loss.tolist(), strict=True):
            margin = beta * ((pc - rc) - (pr - rr))
            expected = target * max(0.0, 1 - margin) + (1 - target) * max(0.0, 1 + margin)
            assert value == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_a_pair_past_its_margin_has_no_gradient() -> None:
    given = columns([(-1.0, -9.0, -9.0, -1.0), (-1.0, -1.0, -1.0, -1.0)])
    policy = given["policy_chosen_B"].requires_grad_()
    (gradient,) = torch.autograd.grad(hinge(**given, beta=0.5).sum(), policy)
    assert gradient.tolist() == [0.0, -0.5]


def test_targets_that_would_broadcast_are_refused() -> None:
    with pytest.raises(ValueError, match="target_B"):
        hinge(**columns([(-1.0, -1.0, -1.0, -1.0)] * 2), beta=0.5, target_B=torch.ones(2, 1))
