"""Hinge: stop pushing a pair apart once its implicit margin reaches 1.

SLiC (Zhao et al. 2023, arXiv 2305.10425) normalised by the reference, as in RSO (Liu et al. 2023, arXiv 2309.06657).

Shapes: B batch (rows of preferences).
"""

from torch import Tensor, relu

from cai.losses.checks import same_shape, weighted
from cai.losses.dpo import implicit_margin


def hinge(
    *,
    policy_chosen_B: Tensor,
    policy_rejected_B: Tensor,
    reference_chosen_B: Tensor,
    reference_rejected_B: Tensor,
    beta: float,
    target_B: Tensor | None = None,
    weight_B: Tensor | None = None,
) -> Tensor:
    """Return the loss per row: `loss_B`, t max(0, 1 - m) + (1 - t) max(0, 1 + m) of the implicit margin m, float32.

    `target_B` is the probability t that chosen is preferred, default 1. A hinge can't tell 0.6 from 0.9: both pull the
    margin to 1, with less force. Where labels are soft, prefer `dpo`.

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
    same_shape(margin_B=margin_B, target_B=target_B)
    if target_B is None:
        return weighted(relu(1 - margin_B), weight_B)
    return weighted(target_B * relu(1 - margin_B) + (1 - target_B) * relu(1 + margin_B), weight_B)
