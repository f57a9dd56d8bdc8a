import math
import random
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cai.losses.kl import LOG_RATIO_LIMIT, Estimator, adapt_coefficient, k1, k2, k3, kl_tokens, shaped_rewards

NAN = float("nan")


def test_one_token_by_hand() -> None:
    # policy 1/2, reference 1/4: log r = -ln 2; k1 = ln 2, k2 = (ln 2)^2 / 2, k3 = 1/2 - 1 + ln 2.
    policy, reference = torch.tensor([math.log(0.5)]), torch.tensor([math.log(0.25)])
    assert float(k1(policy, reference)) == pytest.approx(math.log(2), rel=1e-6)
    assert float(k2(policy, reference)) == pytest.approx(math.log(2) ** 2 / 2, rel=1e-6)
    assert float(k3(policy, reference)) == pytest.approx(math.log(2) - 0.5, rel=1e-6)


def exact_mean(estimate: Tensor, policy: Tensor) -> float:
    """The estimate's mean over the tokens that the policy samples."""
    return float((policy.exp() * estimate).sum())


def test_over_the_policys_samples_k1_and_k3_have_the_kl_as_their_mean() -> None:
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        policy, reference = torch.randn(2, 9, generator=generator).log_softmax(-1)
        kl = sum(math.exp(p) * (p - r) for p, r in zip(policy.tolist(), reference.tolist(), strict=True))
        assert exact_mean(k1(policy, reference), policy) == pytest.approx(kl, abs=1e-5)
        assert exact_mean(k3(policy, reference), policy) == pytest.approx(kl, abs=1e-5)


def test_the_gradient_of_k2_is_that_of_the_kl_and_the_one_of_k1_is_none() -> None:
    logits = torch.randn(8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    reference = torch.randn(8, generator=torch.Generator().manual_seed(1)).log_softmax(-1)
    policy = logits.log_softmax(-1)
    (of_kl,) = torch.autograd.grad((policy.exp() * (policy - reference)).sum(), logits, retain_graph=True)
    sampled = policy.exp().detach()
    (of_k2,) = torch.autograd.grad((sampled * k2(policy, reference)).sum(), logits, retain_graph=True)
    (of_k1,) = torch.autograd.grad((sampled * k1(policy, reference)).sum(), logits)
    torch.testing.assert_close(of_k2, of_kl, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(of_k1, torch.zeros(8), atol=1e-6, rtol=0)


@given(st.floats(-50, 0), st.floats(-50, 0))
def test_k2_and_k3_are_never_negative(policy: float, reference: float) -> None:
    logprobs, ref_logprobs = torch.tensor([policy]), torch.tensor([reference])
    assert float(k2(logprobs, ref_logprobs)) >= 0
    assert float(k3(logprobs, ref_logprobs)) >= 0


def test_k3_is_exact_for_small_ratios_where_a_plain_exponential_cancels() -> None:
    # k3 of log r = 1e-3 is 1e-6 / 2 + 1e-9 / 6; exp(1e-3) - 1 in float32 has an error of 6e-8.
    estimate = k3(torch.tensor([0.0]), torch.tensor([1e-3]))
    assert float(estimate) == pytest.approx(5.001667e-7, rel=1e-3)


@pytest.mark.parametrize("log_r", [1e4, -1e4])
def test_k3_stays_finite_and_has_no_gradient_beyond_its_limit(log_r: float) -> None:
    logprobs = torch.tensor([0.0], requires_grad=True)
    estimate = k3(logprobs, torch.tensor([log_r]))
    held = math.copysign(LOG_RATIO_LIMIT, log_r)
    assert float(estimate.detach()) == pytest.approx(math.expm1(held) - held, rel=1e-6)
    (gradient,) = torch.autograd.grad(estimate, logprobs)
    assert gradient == 0


def test_shaped_rewards_of_four_tokens_by_hand() -> None:
    # k1 = (0.5, -1, 2, masked); times -0.1, and the score of 3 on the third token: 3 - 0.2.
    rewards = shaped_rewards(
        scores_B=torch.tensor([3.0]),
        logprobs_BT=torch.tensor([[-1.0, -3.0, -1.0, NAN]]),
        ref_logprobs_BT=torch.tensor([[-1.5, -2.0, -3.0, -math.inf]]),
        mask_BT=torch.tensor([[True, True, True, False]]),
        coefficient=0.1,
    )
    torch.testing.assert_close(rewards, torch.tensor([[-0.05, 0.1, 2.8, 0.0]]))


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_shaped_rewards_match_an_oracle_in_float64(estimator: Estimator) -> None:
    formulas = {
        "k1": lambda log_r: -log_r,
        "k2": lambda log_r: log_r**2 / 2,
        "k3": lambda log_r: math.exp(log_r) - 1 - log_r,
    }
    draw = random.Random(0)
    for _ in range(100):
        rows, tokens = draw.randint(1, 3), draw.randint(1, 5)
        lengths = [draw.randint(1, tokens) for _ in range(rows)]
        logprobs = [[draw.uniform(-5, 0) for _ in range(tokens)] for _ in range(rows)]
        ref_logprobs = [[draw.uniform(-5, 0) for _ in range(tokens)] for _ in range(rows)]
        scores = [draw.uniform(-2, 2) for _ in range(rows)]
        expected = [
            [
                (scores[i] if t == lengths[i] - 1 else 0.0)
                - 0.3 * formulas[estimator](ref_logprobs[i][t] - logprobs[i][t])
                if t < lengths[i]
                else 0.0
                for t in range(tokens)
            ]
            for i in range(rows)
        ]
        rewards = shaped_rewards(
            scores_B=torch.tensor(scores),
            logprobs_BT=torch.tensor(logprobs, requires_grad=True),
            ref_logprobs_BT=torch.tensor(ref_logprobs),
            mask_BT=torch.arange(tokens)[None, :] < torch.tensor(lengths)[:, None],
            coefficient=0.3,
            estimator=estimator,
        )
        assert not rewards.requires_grad
        torch.testing.assert_close(rewards, torch.tensor(expected), atol=1e-4, rtol=1e-5)


def test_the_sum_of_shaped_rewards_is_the_score_minus_the_kl_of_the_sequence() -> None:
    logprobs, ref_logprobs = -torch.rand(4, 6), -torch.rand(4, 6)
    mask = torch.arange(6)[None, :] < torch.tensor([1, 3, 5, 6])[:, None]
    scores = torch.randn(4)
    rewards = shaped_rewards(
        scores_B=scores, logprobs_BT=logprobs, ref_logprobs_BT=ref_logprobs, mask_BT=mask, coefficient=0.2
    )
    sequence_kl = torch.where(mask, logprobs - ref_logprobs, 0.0).sum(1)
    torch.testing.assert_close(rewards.sum(1), scores - 0.2 * sequence_kl)


def test_what_makes_no_sense_is_refused() -> None:
    arguments: dict[str, Any] = {
        "scores_B": torch.zeros(2),
        "logprobs_BT": torch.zeros(2, 3),
        "ref_logprobs_BT": torch.zeros(2, 3),
        "mask_BT": torch.ones(2, 3, dtype=torch.bool),
        "coefficient": 0.1,
    }
    with pytest.raises(ValueError, match="k1, k2, k3"):
        shaped_rewards(**arguments, estimator="k4")  # type: ignore[arg-type]
    for changes in ({"ref_logprobs_BT": torch.zeros(2, 1)}, {"scores_B": torch.zeros(2, 1)}):
        with pytest.raises(ValueError, match=r"shape|fit"):
            shaped_rewards(**{**arguments, **changes})
    with pytest.raises(TypeError, match="bool"):
        shaped_rewards(**{**arguments, "mask_BT": torch.ones(2, 3)})
    for estimator in (k1, k2, k3):
        with pytest.raises(ValueError, match="they must agree"):
            estimator(torch.zeros(2, 1), torch.zeros(2))


def test_the_coefficient_moves_by_a_share_of_the_clipped_error() -> None:
    # KL 6.6 for a target of 6: error 0.1; 256 of 10,000 sequences: 1 + 0.1 x 0.0256.
    assert adapt_coefficient(0.2, 6.6, target=6, horizon=10_000, n=256) == pytest.approx(0.2 * 1.00256)
    # Ten times the target is clipped to 0.2, a KL of 0 to -0.2.
    assert adapt_coefficient(0.2, 60.0, target=6, horizon=10_000, n=256) == pytest.approx(0.2 * 1.00512)
    assert adapt_coefficient(0.2, 0.0, target=6, horizon=10_000, n=256) == pytest.approx(0.2 * 0.99488)
    assert adapt_coefficient(0.2, 6.0, target=6, horizon=10_000, n=256) == 0.2


@given(st.floats(1e-6, 10), st.floats(-1e6, 1e6), st.floats(1e-3, 100), st.integers(1, 10_000), st.data())
def test_the_coefficient_stays_positive_and_moves_towards_its_target(
    coefficient: float, observed: float, target: float, horizon: int, data: st.DataObject
) -> None:
    n = data.draw(st.integers(1, horizon))
    adapted = adapt_coefficient(coefficient, observed, target=target, horizon=horizon, n=n)
    assert 0.8 * coefficient * (1 - 1e-9) <= adapted <= 1.2 * coefficient * (1 + 1e-9)
    assert (adapted >= coefficient) if observed >= target else (adapted <= coefficient)


@pytest.mark.parametrize(
    ("observed", "settings", "message"),
    [
        (NAN, {"target": 6.0, "horizon": 100, "n": 1}, "finite"),
        (math.inf, {"target": 6.0, "horizon": 100, "n": 1}, "finite"),
        (6.0, {"target": 0.0, "horizon": 100, "n": 1}, "target"),
        (6.0, {"target": 6.0, "horizon": 100, "n": 101}, "horizon"),
        (6.0, {"target": 6.0, "horizon": 100, "n": 0}, "horizon"),
    ],
)
def test_an_update_that_makes_no_sense_is_refused(observed: float, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        adapt_coefficient(0.1, observed, **settings)


def test_the_gradient_of_each_estimate_over_the_policys_samples() -> None:
    logits_V = torch.tensor([0.5, -0.3, 1.1, 0.0], dtype=torch.float64, requires_grad=True)
    ref_V = torch.log_softmax(torch.tensor([0.1, 0.4, -0.6, 0.2], dtype=torch.float64), -1)
    policy_V = torch.log_softmax(logits_V, -1)
    forward, backward = (policy_V.exp() * (policy_V - ref_V)).sum(), (ref_V.exp() * (ref_V - policy_V)).sum()
    expected = {"k1": torch.zeros(4, dtype=torch.float64)}
    expected["k2"], expected["k3"] = (
        torch.autograd.grad(kl, logits_V, retain_graph=True)[0] for kl in (forward, backward)
    )
    estimators: tuple[Estimator, ...] = ("k1", "k2", "k3")
    for estimator in estimators:
        mask = torch.ones(1, 4, dtype=torch.bool)
        kl_BT = kl_tokens(policy_V[None], ref_V[None], mask, estimator=estimator)
        mean = (policy_V.detach().exp() * kl_BT[0]).sum()
        (gradient,) = torch.autograd.grad(mean, logits_V, retain_graph=True)
        torch.testing.assert_close(gradient, expected[estimator], atol=1e-6, rtol=1e-5)


def test_what_stands_where_no_token_is_changes_neither_the_estimate_nor_its_gradient() -> None:
    logprobs = torch.tensor([[-1.0, math.nan]], requires_grad=True)
    mask = torch.tensor([[True, False]])
    kl_BT = kl_tokens(logprobs, torch.tensor([[-2.0, math.inf]]), mask, estimator="k3")
    (gradient,) = torch.autograd.grad(kl_BT.sum(), logprobs)
    assert kl_BT[0, 1] == gradient[0, 1] == 0
    assert bool(gradient.isfinite().all())
