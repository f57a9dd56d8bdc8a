"""Generalised advantage estimation over the tokens of a response, and where a sequence's score goes.

Schulman et al. 2015, arXiv 1506.02438, eq. 16. A response ends for good: nothing is bootstrapped past its last valid
token, and values there are not read.

Made for responses padded on the right, with the mask true on the response's tokens, the end-of-sequence token
included. Positions where the mask is false are stepped over, so padding on the left gives the same numbers, and so
does a gap inside (tokens that a tool wrote).

Shapes: B batch, T tokens of the response.
"""

import torch
from torch import Tensor

from cai.losses.checks import boolean_mask, same_shape


def place_terminal_reward(score_B: Tensor, mask_BT: Tensor) -> Tensor:
    """Return `rewards_BT`, float32: each row's score on its last valid token, 0 elsewhere.

    On the token, not one past it: there the score is masked away or credited to padding (trl#3750). A row with no
    valid token gets no reward.

    Raises ValueError when the shapes disagree, TypeError when the mask isn't boolean.
    """
    if mask_BT.dim() != 2 or score_B.shape != mask_BT.shape[:1]:
        raise ValueError(f"scores of {tuple(score_B.shape)} don't fit a mask of {tuple(mask_BT.shape)}")
    boolean_mask(mask_BT)
    valid_from_here_BT = mask_BT.flip(1).cumsum(1).flip(1)
    last_BT = mask_BT & (valid_from_here_BT == 1)
    return torch.where(last_BT, score_B.float()[:, None], 0.0)


def gae(*, rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Return `(advantages_BT, returns_BT)`: float32, without gradient, 0 where the mask is false.

    `values_BT[t]` is the value before token t is chosen; `rewards_BT[t]` is earned by choosing it. For two tokens with
    rewards (0, 1), values (0.5, 0.6) and gamma = lam = 1: the advantages are (0.5, 0.4), the returns (1, 1).

    Raises ValueError when the shapes disagree or gamma or lam isn't in 0..1, TypeError when the mask isn't boolean.
    """
    same_shape(rewards_BT=rewards_BT, values_BT=values_BT, mask_BT=mask_BT)
    boolean_mask(mask_BT)
    for name, value in (("gamma", gamma), ("lam", lam)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}; it must be between 0 and 1")
    # What lies in padding may be NaN: each step below selects by the mask, and so does this.
    rewards_BT = rewards_BT.detach().float()
    values_BT = torch.where(mask_BT, values_BT.detach(), 0.0).float()
    advantages_BT = torch.zeros_like(values_BT)
    next_value_B = values_BT.new_zeros(len(values_BT))
    next_advantage_B = torch.zeros_like(next_value_B)
    for t in reversed(range(values_BT.shape[1])):
        mask_B, value_B = mask_BT[:, t], values_BT[:, t]
        error_B = rewards_BT[:, t] + gamma * next_value_B - value_B
        next_advantage_B = torch.where(mask_B, error_B + gamma * lam * next_advantage_B, next_advantage_B)
        next_value_B = torch.where(mask_B, value_B, next_value_B)
        advantages_BT[:, t] = next_advantage_B
    advantages_BT = torch.where(mask_BT, advantages_BT, 0.0)
    return advantages_BT, advantages_BT + values_BT
