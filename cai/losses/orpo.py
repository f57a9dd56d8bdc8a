"""ORPO: no reference; likelihood of the preferred answer, and the odds ratio of the two answers.

Hong et al. 2024, arXiv 2403.07691, eq. 6 and 7. An answer's probability is that of its mean token, exp(log p / length).

Shapes: B batch (rows of preferences).
"""

import math

import torch
from torch import Tensor

from cai.losses.checks import positive, same_shape, weighted
from cai.losses.preference import per_token, soft_cross_entropy

CERTAIN = -1e-6
"""Where a mean log-probability is clamped before its odds are taken: nearer to 0 they are beyond float32."""


def log_odds(mean_logprob_B: Tensor) -> Tensor:
    """Return log(p / (1 - p)) of p = exp(mean log-probability), float32: `odds_B`. Above `CERTAIN` it is constant."""
    logprob_B = mean_logprob_B.float().clamp(max=CERTAIN)
    # Each form of log(1 - e^x) is exact on its side of -ln 2; `where` sends gradients through both: keep both finite.
    near_B, far_B = logprob_B.clamp(min=-math.log(2)), logprob_B.clamp(max=-math.log(2))
    rest_B = torch.where(logprob_B > -math.log(2), torch.log(-torch.expm1(near_B)), torch.log1p(-torch.exp(far_B)))
    return logprob_B - rest_B


def orpo(
    *,
    policy_chosen_B: Tensor,
    policy_rejected_B: Tensor,
    chosen_length_B: Tensor,
    rejected_length_B: Tensor,
    beta: float,
    target_B: Tensor | None = None,
    weight_B: Tensor | None = None,
) -> Tensor:
    """Return the loss per row: `loss_B`, the preferred answer's mean negative log-likelihood + beta x odds-ratio loss.

    Log-probabilities are sums over the response's tokens, in nats; lengths count those tokens (0 is read as 1). `beta`
    is the paper's lambda. `target_B` is the probability that chosen is preferred, default 1: both terms are then their
    means over labels drawn with it. `weight_B` multiplies the loss of its row.

    The likelihood is of the answer alone. TRL's trainer takes that of the prompt with it.

    Raises ValueError when the shapes disagree or beta isn't above 0.
    """
    same_shape(
        policy_chosen_B=policy_chosen_B,
        policy_rejected_B=policy_rejected_B,
        chosen_length_B=chosen_length_B,
        rejected_length_B=rejected_length_B,
        target_B=target_B,
    )
    positive(beta=beta)
    chosen_B = per_token(policy_chosen_B, chosen_length_B)
    rejected_B = per_token(policy_rejected_B, rejected_length_B)
    likelihood_B = chosen_B if target_B is None else target_B * chosen_B + (1 - target_B) * rejected_B
    ratio_B = log_odds(chosen_B) - log_odds(rejected_B)
    return weighted(beta * soft_cross_entropy(ratio_B, target_B) - likelihood_B, weight_B)
