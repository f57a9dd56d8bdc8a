"""Robust DPO: an unbiased estimate of the DPO loss on clean labels, from labels of which a known share is flipped.

Chowdhury et al. 2024, arXiv 2403.00409. Its targets are hard: a judge's probability belongs in `dpo`.

Shapes: B batch (rows of preferences).
"""

from torch import Tensor
from torch.nn.functional import logsigmoid

from cai.losses.checks import weighted
from cai.losses.dpo import implicit_margin


def robust_dpo(
    *,
    policy_chosen_B: Tensor,
    policy_rejected_B: Tensor,
    reference_chosen_B: Tensor,
    reference_rejected_B: Tensor,
    beta: float,
    flip_rate: float,
    weight_B: Tensor | None = None,
) -> Tensor:
    """Return the loss per row: `loss_B`, in nats, float32. It can be negative; its mean over flips is the clean loss.

    `flip_rate` is the share of rows whose label is wrong; `weight_B` multiplies the loss of its row.

    Raises ValueError when the shapes disagree, beta isn't above 0, or the flip rate isn't in 0 <= rate < 0.5.
    """
    if not 0 <= flip_rate < 0.5:
        raise ValueError(f"flip_rate is {flip_rate}; it must be at least 0 and below 0.5")
    margin_B = implicit_margin(
        policy_chosen_B=policy_chosen_B,
        policy_rejected_B=policy_rejected_B,
        reference_chosen_B=reference_chosen_B,
        reference_rejected_B=reference_rejected_B,
        beta=beta,
    )
    as_labelled_B, flipped_B = -logsigmoid(margin_B), -logsigmoid(-margin_B)
    unbiased_B = ((1 - flip_rate) * as_labelled_B - flip_rate * flipped_B) / (1 - 2 * flip_rate)
    return weighted(unbiased_B, weight_B)
