import math
import random

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from cai.losses.dpo import dpo, implicit_margin, implicit_rewards
from cai.losses.preference import bradley_terry


def sums(seed: int, rows: int) -> dict[str, Tensor]:
    """Random sums of log-probabilities, as the losses name them."""
    generator = torch.Generator().manual_seed(seed)
    names = ("policy_chosen_B", "policy_rejected_B", "reference_chosen_B", "reference_rejected_B")
    return {name: -20 * torch.rand(rows, generator=generator) for name in names}


def test_one_pair_by_hand() -> None:
    # Log-ratios: chosen -2 - (-3) = 1, rejected -4 - (-2) = -2; the margin is 0.5 x (1 + 2) = 1.5.
    loss = dpo(
        policy_chosen_B=torch.tensor([-2.0]),
        policy_rejected_B=torch.tensor([-4.0]),
        reference_chosen_B=torch.tensor([-3.0]),
        reference_rejected_B=torch.tensor([-2.0]),
        beta=0.5,
    )
    assert float(loss) == pytest.approx(math.log(1 + math.exp(-1.5)), rel=1e-6)
    assert implicit_rewards(torch.tensor([-2.0]), torch.tensor([-3.0]), beta=0.5).tolist() == [0.5]


def test_rows_match_an_oracle_in_float64() -> None:
    draw = random.Random(0)
    for seed in range(250):
        rows = 1 + seed % 5
        given = sums(seed, rows)
        beta, target = draw.uniform(0.01, 1), [draw.random() for _ in range(rows)]
        loss = dpo(**given, beta=beta, target_B=torch.tensor(target))
        margin = implicit_margin(**given, beta=beta)
        for i in range(rows):
            pc, pr, rc, rr = (float(given[name][i]) for name in given)
            exact = beta * ((pc - rc) - (pr - rr))
            p = 1 / (1 + math.exp(-exact))
            assert float(margin[i]) == pytest.approx(exact, rel=1e-5, abs=1e-5)
            expected = -target[i] * math.log(p) - (1 - target[i]) * math.log(1 - p)
            assert float(loss[i]) == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_gradients_equal_those_of_the_papers_formula() -> None:
    # Eq. 7's gradient: -beta s(-margin) on chosen, the opposite on rejected, and none is due to the reference.
    for seed in range(50):
        given = {name: tensor.requires_grad_() for name, tensor in sums(seed, 4).items()}
        loss = dpo(**given, beta=0.1).sum()
        chosen, rejected = torch.autograd.grad(loss, (given["policy_chosen_B"], given["policy_rejected_B"]))
        expected = -0.1 * torch.sigmoid(-implicit_margin(**given, beta=0.1)).detach()
        torch.testing.assert_close(chosen, expected)
        torch.testing.assert_close(rejected, -expected)


def test_it_is_the_formula_of_trl_on_hard_labels_and_conservative_dpo_on_soft_ones() -> None:
    given = sums(3, 6)
    delta = (given["policy_chosen_B"] - given["reference_chosen_B"]) - (
        given["policy_rejected_B"] - given["reference_rejected_B"]
    )
    torch.testing.assert_close(dpo(**given, beta=0.1), -logsigmoid(0.1 * delta))
    smoothed = -logsigmoid(0.1 * delta) * (1 - 0.2) - logsigmoid(-0.1 * delta) * 0.2
    torch.testing.assert_close(dpo(**given, beta=0.1, target_B=torch.full((6,), 0.8)), smoothed)


def test_it_is_bradley_terry_on_the_implicit_rewards() -> None:
    given, target = sums(4, 5), torch.rand(5)
    rewards = [
        implicit_rewards(given[f"policy_{side}_B"], given[f"reference_{side}_B"], beta=0.3)
        for side in ("chosen", "rejected")
    ]
    assert torch.equal(dpo(**given, beta=0.3, target_B=target), bradley_terry(*rewards, target_B=target))


def test_at_the_start_the_loss_is_log_two_whatever_the_target() -> None:
    same = torch.tensor([-5.0, -9.0])
    loss = dpo(
        policy_chosen_B=same,
        policy_rejected_B=same - 1,
        reference_chosen_B=same,
        reference_rejected_B=same - 1,
        beta=0.1,
        target_B=torch.tensor([0.2, 1.0]),
    )
    torch.testing.assert_close(loss, torch.full((2,), math.log(2)))


def test_bfloat16_sums_are_subtracted_in_float32() -> None:
    given = {name: tensor.bfloat16() for name, tensor in sums(5, 4).items()}
    loss = dpo(**given, beta=0.1)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, dpo(**{name: tensor.float() for name, tensor in given.items()}, beta=0.1))


@pytest.mark.parametrize("name", ["policy_chosen_B", "policy_rejected_B", "reference_chosen_B", "reference_rejected_B"])
def test_shapes_that_would_broadcast_are_refused(name: str) -> None:
    given = sums(0, 3)
    given[name] = given[name][:, None]
    with pytest.raises(ValueError, match="they must agree"):
        dpo(**given, beta=0.1)


def test_sides_and_targets_that_would_broadcast_are_refused() -> None:
    with pytest.raises(ValueError, match="they must agree"):
        dpo(**sums(0, 3), beta=0.1, target_B=torch.ones(1))
    given = {name: column[:, None] if "chosen" in name else column for name, column in sums(0, 3).items()}
    with pytest.raises(ValueError, match="policy_rejected_B has shape"):
        dpo(**given, beta=0.1)


def test_a_beta_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="beta is 0"):
        dpo(**sums(0, 3), beta=0)
