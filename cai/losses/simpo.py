"""SimPO: no reference; the reward is beta times the mean log-probability per token, and chosen must win by gamma.

Meng et al. 2024, arXiv 2405.14734, eq. 6.

Shapes: B batch (rows of preferences).
"""

from torch import Tensor

from cai.losses.checks import positive, same_shape, weighted
from cai.losses.preference import per_token, soft_cross_entropy


def simpo(
    *,
    policy_chosen_B: Tensor,
    policy_rejected_B: Tensor,
    chosen_length_B: Tensor,
    rejected_length_B: Tensor,
    beta: float,
    gamma: float,
    target_B: Tensor | None = None,
    weight_B: Tensor | None = None,
) -> Tensor:
    """Return the loss per row: `loss_B`, in nats, float32.

    Log-probabilities are sums over the response's tokens, in nats; lengths count those tokens (0 is read as 1). `gamma`
    is the margin in units of reward (the paper's gamma, not gamma / beta). `target_B` is the probability that chosen is
    preferred, default 1.

    `weight_B` multiplies the loss of its row.

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
    return weighted(soft_cross_entropy(beta * (chosen_B - rejected_B) - gamma, target_B), weight_B)
