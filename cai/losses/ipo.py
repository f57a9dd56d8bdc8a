"""IPO: regress the policy's log-ratio margin on a finite gap, so certain preferences don't drive it to infinity.

Azar et al. 2023, arXiv 2310.12036, eq. 17. The log-ratios are averages per token, as in TRL: the paper doesn't say
so, but its authors confirmed it (the note in TRL's DPO trainer), and a sum would make the gap depend on length.

Shapes: B batch (rows of preferences).
"""

from torch import Tensor

from cai.losses.checks import positive, same_shape, weighted
from cai.losses.preference import per_token


def ipo(
    *,
    policy_chosen_B: Tensor,
    policy_rejected_B: Tensor,
    reference_chosen_B: Tensor,
    reference_rejected_B: Tensor,
    chosen_length_B: Tensor,
    rejected_length_B: Tensor,
    beta: float,
    target_B: Tensor | None = None,
    weight_B: Tensor | None = None,
) -> Tensor:
    """Return the loss per row: `loss_B`, the squared distance of the margin from (2 t - 1) / (2 beta), float32.

    Log-probabilities are sums over the response's tokens; lengths count those tokens (0 is read as 1). `target_B` is
    the probability t that chosen is preferred, default 1. Its gradient is that of the expected loss over labels drawn
    with t; the constant that differs is left out, so the least loss is 0.

    `weight_B` multiplies the loss of its row.

    Raises ValueError when the shapes disagree or beta isn't above 0.
    """
    same_shape(
        policy_chosen_B=policy_chosen_B,
        policy_rejected_B=policy_rejected_B,
        reference_chosen_B=reference_chosen_B,
        reference_rejected_B=reference_rejected_B,
        chosen_length_B=chosen_length_B,
        rejected_length_B=rejected_length_B,
        target_B=target_B,
    )
    positive(beta=beta)
    chosen_B = per_token(policy_chosen_B.float() - reference_chosen_B.float(), chosen_length_B)
    rejected_B = per_token(policy_rejected_B.float() - reference_rejected_B.float(), rejected_length_B)
    gap = 1 / (2 * beta)
    gap_B = gap if target_B is None else (2 * target_B - 1) * gap
    return weighted((chosen_B - rejected_B - gap_B).square(), weight_B)
