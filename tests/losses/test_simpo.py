import math
import random

import pytest
import torch
from torch import Tensor

from cai.losses.simpo import simpo


def columns(draw: random.Random, rows: int) -> dict[str, Tensor]:
    """Random sums of log-probabilities and lengths, as the loss names them."""
    given = {
        name: torch.tensor([draw.uniform(-20, 0) for _ in range(rows)])
        for name in ("policy_chosen_B", "policy_rejected_B")
    }
    for name in ("chosen_length_B", "rejected_length_B"):
        given[name] = torch.tensor([draw.randint(1, 9) for _ in range(rows)])
    return given


def test_one_pair_by_hand() -> None:
    # Per token: chosen -2 / 4 = -0.5, rejected -3 / 2 = -1.5; 2 x (1) - 0.5 = 1.5.
    loss = simpo(
        policy_chosen_B=torch.tensor([-2.0]),
        policy_rejected_B=torch.tensor([-3.0]),
        chosen_length_B=torch.tensor([4]),
        rejected_length_B=torch.tensor([2]),
        beta=2.0,
        gamma=0.5,
    )
    assert float(loss) == pytest.approx(math.log(1 + math.exp(-1.5)), rel=1e-6)


def test_rows_match_an_oracle_in_float64() -> None:
    draw = random.Random(0)
    for _ in range(250):
        rows = draw.randint(1, 4)
        given, targets = columns(draw, rows), [draw.random() for _ in range(rows)]
        beta, gamma = draw.uniform(0.1, 3), draw.uniform(0, 2)
        loss = simpo(**given, beta=beta, gamma=gamma, target_B=torch.tensor(targets))
        for i in range(rows):
            chosen, rejected, chosen_length, rejected_length = (float(column[i]) for column in given.values())
            x = beta * (chosen / chosen_length - rejected / rejected_length) - gamma
            expected = targets[i] * math.log1p(math.exp(-x)) + (1 - targets[i]) * math.log1p(math.exp(x))
            assert float(loss[i]) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_shapes_that_would_broadcast_and_a_beta_of_zero_are_refused() -> None:
    given = columns(random.Random(2), 3)
    with pytest.raises(ValueError, match="beta"):
        simpo(**given, beta=0.0, gamma=0.0)
    for name in given:
        with pytest.raises(ValueError, match="they must agree"):
            simpo(**{**given, name: given[name][:, None]}, beta=1.0, gamma=0.0)
