"""Bradley-Terry: the loss of a preference model, with a probability as the label of each row.

A row says that a judge prefers `chosen` with probability `target`; 1 is a hard label. Soft labels train much better
preference models under AI feedback (Bai et al. 2022, arXiv 2212.08073, section 4). Losses come back per row, not
reduced, so that the caller divides by the global count of rows.

Shapes: B batch (rows of preferences).
"""

from torch import Tensor
from torch.nn.functional import logsigmoid

from cai.losses.checks import same_shape, weighted


def soft_cross_entropy(logit_B: Tensor, target_B: Tensor | None = None) -> Tensor:
    """Return -t log s(x) - (1 - t) log s(-x), float32, with s the logistic function: `loss_B`, in nats.

    Without targets all are 1. That they lie in 0..1 is the caller's to check: a check here would wait for the device.

    Raises ValueError when the shapes disagree.
    """
    same_shape(logit_B=logit_B, target_B=target_B)
    logit_B = logit_B.float()
    if target_B is None:
        return -logsigmoid(logit_B)
    return -target_B * logsigmoid(logit_B) - (1 - target_B) * logsigmoid(-logit_B)


def per_token(logprob_B: Tensor, length_B: Tensor) -> Tensor:
    """Return log-probabilities of responses as means over their tokens, float32; a length of 0 is read as 1.

    -6 nats of a response of 3 tokens are -2.
    """
    return logprob_B.float() / length_B.clamp(min=1)


def bradley_terry(
    reward_chosen_B: Tensor,
    reward_rejected_B: Tensor,
    *,
    target_B: Tensor | None = None,
    margin_B: Tensor | None = None,
    weight_B: Tensor | None = None,
    centering: float = 0.0,
) -> Tensor:
    """Return the loss per row of a preference model's two rewards: `loss_B`, in nats, float32.

    - `target_B`: the probability that chosen is preferred; default 1. Swapping the two responses and the target to
      1 - t changes nothing (with a margin: and its sign).
    - `margin_B`: by how much chosen should win, in units of reward (Touvron et al. 2023, arXiv 2307.09288, eq. 2). It
      is taken off the difference of rewards, whatever the target.
    - `weight_B`: multiplies the whole loss of its row.
    - `centering`: the coefficient of (chosen + rejected)^2, which pulls the rewards' mean to 0 (Eisenstein et al. 2023,
      arXiv 2312.09244, eq. 2; TRL's `center_rewards_coefficient`).

    Raises ValueError when the shapes disagree.
    """
    same_shape(
        reward_chosen_B=reward_chosen_B,
        reward_rejected_B=reward_rejected_B,
        target_B=target_B,
        margin_B=margin_B,
    )
    reward_chosen_B, reward_rejected_B = reward_chosen_B.float(), reward_rejected_B.float()
    difference_B = reward_chosen_B - reward_rejected_B
    if margin_B is not None:
        difference_B = difference_B - margin_B
    loss_B = soft_cross_entropy(difference_B, target_B)
    if centering:
        loss_B = loss_B + centering * (reward_chosen_B + reward_rejected_B).square()
    return weighted(loss_B, weight_B)
