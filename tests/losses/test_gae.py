import random
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cai.losses.gae import gae, place_terminal_reward

NAN = float("nan")


def oracle(rewards: list[float], values: list[float], gamma: float, lam: float) -> list[float]:
    """The advantages of one response without padding, summed term by term: A_t = sum_k (gamma lam)^k delta_(t+k)."""
    tokens = len(rewards)
    following = [*values[1:], 0.0]
    deltas = [rewards[t] + gamma * following[t] - values[t] for t in range(tokens)]
    return [sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, tokens)) for t in range(tokens)]


def test_four_tokens_by_hand() -> None:
    # gamma 0.9, lambda 0.5, so gamma lambda = 0.45. Deltas, from the last:
    #   d3 = 1 + 0.9 x 0   - 0.8 =  0.2      A3 =  0.2
    #   d2 = 0 + 0.9 x 0.8 - 0.6 =  0.12     A2 =  0.12  + 0.45 x 0.2     =  0.21
    #   d1 = 0 + 0.9 x 0.6 - 0.7 = -0.16     A1 = -0.16  + 0.45 x 0.21    = -0.0655
    #   d0 = 0 + 0.9 x 0.7 - 0.5 =  0.13     A0 =  0.13  + 0.45 x -0.0655 =  0.100525
    advantages, returns = gae(
        rewards_BT=torch.tensor([[0.0, 0.0, 0.0, 1.0]]),
        values_BT=torch.tensor([[0.5, 0.7, 0.6, 0.8]]),
        mask_BT=torch.ones(1, 4, dtype=torch.bool),
        gamma=0.9,
        lam=0.5,
    )
    torch.testing.assert_close(advantages, torch.tensor([[0.100525, -0.0655, 0.21, 0.2]]))
    torch.testing.assert_close(returns, torch.tensor([[0.600525, 0.6345, 0.81, 1.0]]))


def test_the_last_valid_token_bootstraps_nothing_from_the_padding() -> None:
    # Three tokens then padding, where the value is 100: d2 = 1 + 0 - 0.5, d1 = 0.5 - 0.5, d0 = 0.5 - 0.5.
    advantages, returns = gae(
        rewards_BT=torch.tensor([[0.0, 0.0, 1.0, 7.0]]),
        values_BT=torch.tensor([[0.5, 0.5, 0.5, 100.0]]),
        mask_BT=torch.tensor([[True, True, True, False]]),
        gamma=1.0,
        lam=1.0,
    )
    assert advantages.tolist() == [[0.5, 0.5, 0.5, 0.0]]
    assert returns.tolist() == [[1.0, 1.0, 1.0, 0.0]]


def test_rows_of_all_lengths_match_an_oracle_in_float64_whatever_the_padding_holds_and_wherever_it_is() -> None:
    draw = random.Random(0)
    for _ in range(250):
        tokens, gamma, lam = draw.randint(1, 7), draw.uniform(0.5, 1), draw.uniform(0, 1)
        lengths = [draw.randint(0, tokens) for _ in range(draw.randint(1, 4))]
        rewards = torch.full((len(lengths), tokens), NAN)
        values = rewards.clone()
        mask = torch.zeros(len(lengths), tokens, dtype=torch.bool)
        expected = torch.zeros(len(lengths), tokens)
        expected_returns = expected.clone()
        for i, length in enumerate(lengths):
            places = sorted(draw.sample(range(tokens), length)) if draw.random() < 0.5 else list(range(length))
            row_rewards = [draw.uniform(-1, 1) for _ in places]
            row_values = [draw.uniform(-1, 1) for _ in places]
            row_advantages = oracle(row_rewards, row_values, gamma, lam)
            for place, reward, value, advantage in zip(places, row_rewards, row_values, row_advantages, strict=True):
                rewards[i, place], values[i, place], mask[i, place] = reward, value, True
                expected[i, place], expected_returns[i, place] = advantage, advantage + value
        advantages, returns = gae(rewards_BT=rewards, values_BT=values, mask_BT=mask, gamma=gamma, lam=lam)
        torch.testing.assert_close(advantages, expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(returns, expected_returns, atol=1e-5, rtol=1e-5)


def test_with_lambda_one_the_returns_are_discounted_sums_of_rewards_and_with_zero_the_errors_of_one_step() -> None:
    rewards, values = torch.randn(3, 6), torch.randn(3, 6)
    mask = torch.ones(3, 6, dtype=torch.bool)
    _, returns = gae(rewards_BT=rewards, values_BT=values, mask_BT=mask, gamma=1.0, lam=1.0)
    torch.testing.assert_close(returns, rewards.flip(1).cumsum(1).flip(1), atol=1e-5, rtol=1e-5)
    advantages, _ = gae(rewards_BT=rewards, values_BT=values, mask_BT=mask, gamma=0.9, lam=0.0)
    torch.testing.assert_close(advantages[:, :-1], rewards[:, :-1] + 0.9 * values[:, 1:] - values[:, :-1])


def test_no_gradient_reaches_the_values() -> None:
    values = torch.randn(2, 3, requires_grad=True)
    mask = torch.ones(2, 3, dtype=torch.bool)
    advantages, returns = gae(rewards_BT=values, values_BT=values, mask_BT=mask, gamma=1.0, lam=0.95)
    assert not advantages.requires_grad
    assert not returns.requires_grad


def test_half_precision_is_computed_in_float32() -> None:
    mask = torch.ones(1, 300, dtype=torch.bool)
    rewards, values = torch.full((1, 300), 1.0).bfloat16(), torch.zeros(1, 300).bfloat16()
    advantages, _ = gae(rewards_BT=rewards, values_BT=values, mask_BT=mask, gamma=1.0, lam=1.0)
    assert advantages.dtype == torch.float32
    assert advantages[0, 0] == 300  # bfloat16 has no integer above 256 but every second one


def test_the_score_lands_on_the_last_valid_token() -> None:
    mask = torch.tensor([[True, True, True, True], [True, True, False, False], [False, True, True, False], [False] * 4])
    rewards = place_terminal_reward(torch.tensor([1.0, 2.0, 3.0, 4.0]), mask)
    assert rewards.tolist() == [[0, 0, 0, 1], [0, 2, 0, 0], [0, 0, 3, 0], [0, 0, 0, 0]]


@given(st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=5))
def test_no_score_is_lost_or_masked_away(rows: list[list[bool]]) -> None:
    mask = torch.tensor(rows)
    score = torch.arange(1.0, len(rows) + 1)
    rewards = place_terminal_reward(score, mask)
    assert not rewards[~mask].any()
    torch.testing.assert_close(rewards.sum(1), torch.where(mask.any(1), score, 0.0))


def test_a_score_of_nan_in_one_row_stays_on_its_token() -> None:
    rewards = place_terminal_reward(torch.tensor([NAN, 1.0]), torch.tensor([[True, True], [True, False]]))
    assert rewards.isnan().tolist() == [[False, True], [False, False]]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"gamma": 1.1}, ValueError, "gamma"),
        ({"lam": -0.1}, ValueError, "lam"),
        ({"values_BT": torch.zeros(2, 4)}, ValueError, "values_BT"),
        ({"mask_BT": torch.ones(2, 3)}, TypeError, "bool"),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    mask = torch.ones(2, 3, dtype=torch.bool)
    arguments = {"rewards_BT": torch.zeros(2, 3), "values_BT": torch.zeros(2, 3), "mask_BT": mask}
    with pytest.raises(error, match=message):
        gae(**{**arguments, "gamma": 1.0, "lam": 1.0, **changes})


def test_scores_that_would_broadcast_are_refused() -> None:
    with pytest.raises(ValueError, match="don't fit"):
        place_terminal_reward(torch.zeros(2, 1), torch.ones(2, 3, dtype=torch.bool))
    with pytest.raises(TypeError, match="bool"):
        place_terminal_reward(torch.zeros(2), torch.ones(2, 3))
