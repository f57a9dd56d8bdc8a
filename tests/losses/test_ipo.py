import random

import pytest
import torch
from torch import Tensor

from cai.losses.ipo import ipo


def columns(draw: random.Random, rows: int) -> dict[str, Tensor]:
    """Random sums of log-probabilities and lengths, as the loss names them."""
    names = ("policy_chosen_B", "policy_rejected_B", "reference_chosen_B", "reference_rejected_B")
    given = {name: torch.tensor([draw.uniform(-20, 0) for _ in range(rows)]) for name in names}
    for name in ("chosen_length_B", "rejected_length_B"):
        given[name] = torch.tensor([draw.randint(1, 9) for _ in range(rows)])
    return given


def test_one_pair_by_hand() -> None:
    # Per token: chosen (-2 + 6) / 4 = 1, rejected (-4 + 2) / 2 = -1; the gap is 1 / (2 x 0.25) = 2; (1 + 1 - 2)^2 = 0.
    given = {
        "policy_chosen_B": torch.tensor([-2.0]),
        "policy_rejected_B": torch.tensor([-4.0]),
        "reference_chosen_B": torch.tensor([-6.0]),
        "reference_rejected_B": torch.tensor([-2.0]),
        "chosen_length_B": torch.tensor([4]),
        "rejected_length_B": torch.tensor([2]),
    }
    assert ipo(**given, beta=0.25).tolist() == [0.0]
    # A tie (target 1/2) wants a margin of 0: 2^2. A target of 0 wants -2: 4^2.
    assert ipo(**given, beta=0.25, target_B=torch.tensor([0.5])).tolist() == [4.0]
    assert ipo(**given, beta=0.25, target_B=torch.tensor([0.0])).tolist() == [16.0]


def test_rows_match_an_oracle_in_float64() -> None:
    draw = random.Random(0)
    for _ in range(250):
        rows = draw.randint(1, 4)
        given, beta = columns(draw, rows), draw.uniform(0.05, 1)
        target = [draw.random() for _ in range(rows)]
        loss = ipo(**given, beta=beta, target_B=torch.tensor(target))
        for i in range(rows):
            pc, pr, rc, rr, lc, lr = (float(column[i]) for column in given.values())
            expected = ((pc - rc) / lc - (pr - rr) / lr - (2 * target[i] - 1) / (2 * beta)) ** 2
            assert float(loss[i]) == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_the_gradient_of_a_soft_label_is_that_of_the_expected_hard_loss() -> None:
    given = columns(random.Random(1), 5)
    policy = given["policy_chosen_B"].requires_grad_()
    target = torch.tensor([0.0, 0.3, 0.5, 0.9, 1.0])
    hard = ipo(**given, beta=0.1)
    swapped = ipo(**given, beta=0.1, target_B=torch.zeros(5))
    (expected,) = torch.autograd.grad((target * hard + (1 - target) * swapped).sum(), policy)
    (gradient,) = torch.autograd.grad(ipo(**given, beta=0.1, target_B=target).sum(), policy)
    torch.testing.assert_close(gradient, expected, atol=1e-4, rtol=1e-4)


def test_an_empty_response_counts_as_one_token() -> None:
    given = columns(random.Random(2), 1)
    given["rejected_length_B"] = torch.tensor([0])
    assert ipo(**given, beta=0.1).isfinite().all()


def test_shapes_that_would_broadcast_and_a_beta_of_zero_are_refused() -> None:
    given = columns(random.Random(3), 3)
    with pytest.raises(ValueError, match="beta"):
        ipo(**given, beta=0.0)
    for name in given:
        with pytest.raises(ValueError, match="they must agree"):
            ipo(**{**given, name: given[name][:, None]}, beta=0.1)
