import math
import warnings
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cai.losses.orpo import log_odds, orpo

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it says that it is experimental
    from trl.experimental.orpo import ORPOTrainer

MEANS = st.floats(-30, -(2**-10), width=32)


def columns(chosen: list[float], rejected: list[float]) -> dict[str, Tensor]:
    """Answers of one token, so that sums are means."""
    ones = torch.ones(len(chosen), dtype=torch.long)
    return {
        "policy_chosen_B": torch.tensor(chosen),
        "policy_rejected_B": torch.tensor(rejected),
        "chosen_length_B": ones,
        "rejected_length_B": ones,
    }


def test_one_pair_by_hand() -> None:
    # Per token: chosen p = 1/2 (odds 1), rejected p = 1/4 (odds 1/3). The ratio is 3, s(log 3) = 3/4.
    loss = orpo(
        policy_chosen_B=torch.tensor([4 * math.log(0.5)]),
        policy_rejected_B=torch.tensor([2 * math.log(0.25)]),
        chosen_length_B=torch.tensor([4]),
        rejected_length_B=torch.tensor([2]),
        beta=0.2,
    )
    assert float(loss) == pytest.approx(math.log(2) - 0.2 * math.log(0.75), rel=1e-6)


@settings(max_examples=1000, deadline=None)
@given(MEANS, MEANS, st.floats(0, 1), st.floats(0.01, 2))
def test_rows_match_an_oracle_in_float64(chosen: float, rejected: float, target: float, beta: float) -> None:
    loss = orpo(**columns([chosen], [rejected]), beta=beta, target_B=torch.tensor([target]))
    odds = [math.exp(x) / -math.expm1(x) for x in (chosen, rejected)]
    win, lose = odds[0] / (odds[0] + odds[1]), odds[1] / (odds[0] + odds[1])
    ratio = -target * math.log(win) - (1 - target) * math.log(lose)
    expected = -target * chosen - (1 - target) * rejected + beta * ratio
    assert float(loss) == pytest.approx(expected, rel=2e-5, abs=2e-5)


def test_the_odds_ratio_is_trls() -> None:
    given = columns([-0.3, -1.2, -5.0], [-0.9, -0.1, -5.5])
    trainer = SimpleNamespace(beta=0.3, accelerator=SimpleNamespace(device="cpu"))
    ratio_loss = cast(Any, ORPOTrainer.odds_ratio_loss)
    theirs = ratio_loss(trainer, given["policy_chosen_B"], given["policy_rejected_B"])[0]
    torch.testing.assert_close(orpo(**given, beta=0.3), -given["policy_chosen_B"] - theirs)


def test_swapping_the_answers_and_the_target_changes_nothing() -> None:
    target = torch.tensor([0.7, 0.2])
    one, other = columns([-0.3, -2.0], [-1.0, -4.0]), columns([-1.0, -4.0], [-0.3, -2.0])
    torch.testing.assert_close(orpo(**one, beta=1.0, target_B=target), orpo(**other, beta=1.0, target_B=1 - target))


@pytest.mark.parametrize("mean", [0.0, -1e-9, -math.log(2), -1000.0])
def test_the_odds_and_their_gradient_are_finite_at_the_edges(mean: float) -> None:
    logprob = torch.tensor([mean], requires_grad=True)
    odds = log_odds(logprob)
    (gradient,) = torch.autograd.grad(odds.sum(), logprob)
    assert torch.isfinite(odds).all()
    assert torch.isfinite(gradient).all()


def test_shapes_that_would_broadcast_and_a_beta_of_zero_are_refused() -> None:
    given = columns([-1.0, -2.0], [-3.0, -4.0])
    with pytest.raises(ValueError, match="beta"):
        orpo(**given, beta=0.0)
    for name in given:
        with pytest.raises(ValueError, match="they must agree"):
            orpo(**{**given, name: given[name][:, None]}, beta=1.0)
