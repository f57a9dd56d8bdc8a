"""DPO: Bradley-Terry on the rewards that a policy implies, beta log(policy / reference).

Rafailov et al. 2023, arXiv 2305.18290, eq. 7. With a probability per row as target it is conservative DPO (Mitchell
2023) with a label smoothing of each row's own: 1 - target.

Log-probabilities are sums over the response's tokens, in nats. The reference's carry no gradient: compute them without.

Shapes: B batch (rows of preferences).
"""

from torch import Tensor

from cai.losses.checks import positive, same_shape, weighted
from cai.losses.preference import soft_cross_entropy


def implicit_rewards(policy_B: Tensor, reference_B: Tensor, *, beta: float) -> Tensor:
    """Return beta (policy - reference) for each response: `reward_B`, float32, up to a constant per prompt.

    Raises ValueError when the shapes disagree or beta isn't above 0.
    """
    same_shape(policy_B=policy_B, reference_B=reference_B)
    positive(beta=beta)
    return beta * (policy_B.float() - reference_B.float())


def implicit_margin(
    *,
    policy_chosen_B: Tensor,
    policy_rejected_B: Tensor,
    reference_chosen_B: Tensor,
    reference_rejected_B: Tensor,
    beta: float,
) -> Tensor:
    """Return the implicit reward of chosen minus that of rejected: `margin_B`, float32.

    Raises ValueError when the shapes disagree or beta isn't above 0.
    """
    same_shape(policy_chosen_B=policy_chosen_B, policy_rejected_B=policy_rejected_B)
    chosen_B = implicit_rewards(policy_chosen_B, reference_chosen_B, beta=beta)
    return chosen_B - implicit_rewards(policy_rejected_B, reference_rejected_B, beta=beta)


def dpo(
    *,
    policy_chosen_B: Tensor,
    policy_rejected_B: Tensor,
    reference_chosen_B: Tensor,
    reference_rejected_B: Tensor,
    beta: float,
    target_B: Tensor | None = None,
    weight_B: Tensor | None = None,
) -> Tensor:
    """Return the loss per row: `loss_B`, in nats, float32. `target_B` is the probability that chosen is preferred.

    With a target of t the loss is least where the implicit margin is log(t / (1 - t)), not at infinity.

    `weight_B` multiplies the loss of its row.

    Raises ValueError when the shapes disagree or beta isn't above 0.
    """
    margin_B = implicit_margin(
        policy_chosen_B=policy_chosen_B,
        policy_rejected_B=policy_rejected_B,
        reference_chosen_B=reference_chosen_B,
        reference_rejected_B=reference_rejected_B,
        beta=beta,
    )
    return weighted(soft_cross_entropy(margin_B, target_B), weight_B)
