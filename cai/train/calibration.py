"""How far a preference model's probabilities can be taken at their word: s(score difference) beside the labels.

B pairs. Labels are probabilities, so a model that says 0.7 where the label does is right, not underconfident. With hard
labels the figures are those of `cai.judges.audit`.
"""

import torch
from torch import Tensor

from cai.judges.audit import BINS


def brier(margin_B: Tensor, target_B: Tensor) -> float:
    """Return the mean squared distance of probabilities from labels (Brier 1950), for hard labels: 0.25 is a coin's.

    `margin_B` is score(chosen) - score(rejected), `target_B` the probability that chosen is the better one.
    """
    return float((margin_B.double().sigmoid() - target_B.double()).square().mean())


def calibration_error(margin_B: Tensor, target_B: Tensor) -> float:
    """Return the expected calibration error (Guo et al. 2017, arXiv 1706.04599): how far confidence is from labels.

    Confidence is the probability of the side that the model takes; it is compared with what the labels give that side,
    in bins of a tenth, weighted by their size.
    """
    prob_B, target_B = margin_B.double().sigmoid(), target_B.double()
    confidence_B = torch.maximum(prob_B, 1 - prob_B)
    label_B = torch.where(prob_B >= 0.5, target_B, 1 - target_B)
    bin_B = (confidence_B * BINS).long().clamp(max=BINS - 1)
    gaps = torch.zeros(BINS, dtype=torch.float64, device=prob_B.device).index_add(0, bin_B, confidence_B - label_B)
    return float(gaps.abs().sum() / len(prob_B))
