"""KL between the policy and its reference from the log-probabilities of sampled tokens, and what PPO makes of it.

With r = reference / policy at a token that the policy sampled, Schulman's note (joschu.net/blog/kl-approx.html) names
three estimates of KL(policy || reference):

    k1 = -log r             unbiased, of either sign
    k2 = (log r)^2 / 2      biased, never negative; its gradient is unbiased
    k3 = (r - 1) - log r    unbiased, never negative

Shapes: B batch, T tokens of the response; log-probabilities in nats.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from cai.losses.checks import boolean_mask, positive, same_shape
from cai.losses.gae import place_terminal_reward

Estimator = Literal["k1", "k2", "k3"]

LOG_RATIO_LIMIT = 20.0
"""Where a log-ratio is clamped before it is exponentiated: e^20 is 4.9e8, and its square is still a float32."""


def k1(logprobs_BT: Tensor, ref_logprobs_BT: Tensor) -> Tensor:
    """Return log policy - log reference: `kl_BT`, in nats, float32.

    Raises ValueError when the shapes disagree.
    """
    same_shape(logprobs_BT=logprobs_BT, ref_logprobs_BT=ref_logprobs_BT)
    return logprobs_BT.float() - ref_logprobs_BT.float()


def k2(logprobs_BT: Tensor, ref_logprobs_BT: Tensor) -> Tensor:
    """Return half the squared log-ratio: `kl_BT`, in nats, float32.

    Raises ValueError when the shapes disagree.
    """
    return 0.5 * k1(logprobs_BT, ref_logprobs_BT).square()


def k3(logprobs_BT: Tensor, ref_logprobs_BT: Tensor) -> Tensor:
    """Return (r - 1) - log r with r = reference / policy: `kl_BT`, in nats, float32, never negative.

    log r is clamped to +-`LOG_RATIO_LIMIT`; beyond it the estimate is constant and has no gradient.

    Raises ValueError when the shapes disagree.
    """
    log_r_BT = -k1(logprobs_BT, ref_logprobs_BT).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    return torch.expm1(log_r_BT) - log_r_BT


_ESTIMATORS = {"k1": k1, "k2": k2, "k3": k3}


def kl_tokens(logprobs_BT: Tensor, ref_logprobs_BT: Tensor, mask_BT: Tensor, *, estimator: Estimator) -> Tensor:
    """Return the estimate at every token: `kl_BT`, in nats, float32, 0 where the mask is false, whatever stands there.

    The gradient is that of the policy's log-probabilities. Sampled from the policy itself it is, on average, 0 for k1,
    that of KL(policy || reference) for k2, and that of KL(reference || policy) for k3.

    Raises ValueError when the shapes disagree or the estimator is unknown, TypeError when the mask isn't boolean.
    """
    if estimator not in _ESTIMATORS:
        raise ValueError(f"estimator is {estimator!r}; it must be one of {', '.join(_ESTIMATORS)}")
    same_shape(logprobs_BT=logprobs_BT, ref_logprobs_BT=ref_logprobs_BT, mask_BT=mask_BT)
    boolean_mask(mask_BT)
    # Both are 0 where there is no token, and so is every estimate there.
    return _ESTIMATORS[estimator](
        torch.where(mask_BT, logprobs_BT, 0.0), torch.where(mask_BT, ref_logprobs_BT.detach(), 0.0)
    )


def shaped_rewards(
    *,
    scores_B: Tensor,
    logprobs_BT: Tensor,
    ref_logprobs_BT: Tensor,
    mask_BT: Tensor,
    coefficient: float,
    estimator: Estimator = "k1",
) -> Tensor:
    """Return `rewards_BT`: the score on the last valid token, minus coefficient times the KL estimate at every one.

    float32, without gradient, 0 where the mask is false, whatever the log-probabilities are there. (Ziegler et al.
    2019, arXiv 1909.08593, eq. 2, spread over tokens, with k1.)

    Raises ValueError when the shapes disagree or the estimator is unknown, TypeError when the mask isn't boolean.
    """
    kl_BT = kl_tokens(logprobs_BT.detach(), ref_logprobs_BT, mask_BT, estimator=estimator)
    return place_terminal_reward(scores_B.detach(), mask_BT) - coefficient * kl_BT


def adapt_coefficient(coefficient: float, observed_kl: float, *, target: float, horizon: int, n: int) -> float:
    """Return the KL coefficient for the next update, nearer to the one that holds the KL at its target.

    Ziegler et al. 2019, section 2.2: the relative error, clipped to +-0.2, times n / horizon, is the change in
    proportion. `observed_kl` and `target` are nats per sequence; `n` is the sequences of this update, `horizon` the
    sequences over which a full error changes the coefficient by a fifth.

    Raises ValueError when a KL isn't finite, the target isn't above 0, or n isn't in 1..horizon (a longer step could
    turn the coefficient negative).
    """
    if not (math.isfinite(observed_kl) and math.isfinite(coefficient)):
        raise ValueError(f"the observed KL is {observed_kl} and the coefficient {coefficient}; both must be finite")
    positive(target=target)
    if not 1 <= n <= horizon:
        raise ValueError(f"n is {n}; it must be between 1 and the horizon, {horizon}")
    error = min(max(observed_kl / target - 1, -0.2), 0.2)
    return coefficient * (1 + error * n / horizon)
