"""Labels of which a known share is flipped: the loss is taken of what the label says, not of what is true.

Forward correction (Patrini et al. 2017, arXiv 1609.03683, section 4.2) for two classes that noise swaps alike: which of
two answers is called chosen is arbitrary, so one flip rate does for both. With s the logistic function and e the rate,
a label that says "chosen" has the probability (1 - e) s(x) + e s(-x).

Shapes: B batch (rows of preferences).
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from cai.losses.checks import same_shape, weighted


def expected_flip_rate(prob_B: Tensor) -> Tensor:
    """Return the share of wrong labels when calibrated probabilities are rounded to 0 or 1: the mean of min(p, 1 - p).

    A scalar, float32. It is only as good as the calibration: `cai judge audit` measures that on pairs with people's
    labels, and its 1 - accuracy estimates the same share without it.

    Raises ValueError when there is none.
    """
    if not prob_B.numel():
        raise ValueError("no probabilities to take a flip rate of")
    return torch.minimum(prob_B.float(), 1 - prob_B.float()).mean()


def forward_corrected(
    logit_B: Tensor,
    *,
    flip_rate: float | Tensor,
    target_B: Tensor | None = None,
    weight_B: Tensor | None = None,
) -> Tensor:
    """Return the cross-entropy between noisy labels and what noise makes of s(logit): `loss_B`, in nats, float32.

    - `logit_B`: the log-odds that chosen is better: a difference of rewards, or an implicit margin.
    - `flip_rate`: the chance that a row's label is wrong, one for all or one per row (`1 - p` of a calibrated judge's
      rounded label); from 0 up to, not including, 0.5. A tensor is the caller's to check: a look would wait for
      the device.
    - `target_B`: the noisy label, or the mean of several (0..1); default 1. The loss is least where s(logit) is
      (t - e) / (1 - 2 e), and at infinity for targets beyond 1 - e or e. A probability that was calibrated has no
      noise left to correct: it belongs in `bradley_terry` or `dpo` as it is.
    - `weight_B`: multiplies the loss of its row.

    Raises ValueError when the shapes disagree or the flip rate, a number, isn't in 0 <= rate < 0.5.
    """
    same_shape(logit_B=logit_B, target_B=target_B, flip_rate=flip_rate if isinstance(flip_rate, Tensor) else None)
    if not isinstance(flip_rate, Tensor):
        if not 0 <= flip_rate < 0.5:
            raise ValueError(f"flip_rate is {flip_rate}; it must be at least 0 and below 0.5")
        flip_rate = torch.full_like(logit_B, flip_rate, dtype=torch.float32)
    logit_B, flip_B = logit_B.float(), flip_rate.float()
    kept_B, swapped_B = torch.log1p(-flip_B), torch.log(flip_B)
    says_chosen_B = torch.logaddexp(kept_B + logsigmoid(logit_B), swapped_B + logsigmoid(-logit_B))
    if target_B is None:
        return weighted(-says_chosen_B, weight_B)
    says_rejected_B = torch.logaddexp(kept_B + logsigmoid(-logit_B), swapped_B + logsigmoid(logit_B))
    return weighted(-target_B * says_chosen_B - (1 - target_B) * says_rejected_B, weight_B)
