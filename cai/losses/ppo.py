"""PPO's two losses, as sums over valid tokens beside their count.

Schulman et al. 2017, arXiv 1707.06347, eq. 7. The caller adds up sums and counts over microbatches and ranks and
divides once, by the global count of valid tokens: then neither accumulation nor world size changes the gradient. In
practice: divide each microbatch's `loss_sum` by the global count before its backward.

Left out: the entropy bonus (`cai.losses.logprobs.entropy_from_logits`) and the sum of the losses; policy and value may
be separate models.

Shapes: B batch, T tokens of the response; log-probabilities in nats.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from cai.losses.checks import boolean_mask, positive, same_shape
from cai.losses.kl import LOG_RATIO_LIMIT, k3


class PolicyLoss(NamedTuple):
    """The policy's loss and what to watch: scalars, of which only `loss_sum` carries a gradient.

    Sums and counts add up over microbatches and ranks; `ratio_max` and `ratio_min` are combined by maximum and minimum.

    Two tokens with ratios (1.5, 1.0), advantages (1, 1), clip 0.2: loss_sum -(1.2 + 1.0), token_count 2,
    clipped_count 1, ratio_max 1.5, ratio_min 1.0.
    """

    loss_sum: Tensor
    """To be divided by the global token count, then minimised; float32."""
    token_count: Tensor
    """Valid tokens; int64."""
    clipped_count: Tensor
    """Tokens whose gradient the clip, or the dual clip, takes away; int64."""
    kl_sum: Tensor
    """Estimate (k3) of KL(old policy || policy), in nats, summed over tokens; float32."""
    ratio_max: Tensor
    """The largest policy / old policy; 0 without valid tokens; float32."""
    ratio_min: Tensor
    """The smallest; infinite without valid tokens; float32."""

    @property
    def clip_fraction(self) -> Tensor:
        """The share of tokens, 0..1, that were clipped; 0 without valid tokens."""
        return self.clipped_count / self.token_count.clamp(min=1)

    @property
    def approx_kl(self) -> Tensor:
        """The estimate of KL(old policy || policy) per token, in nats; 0 without valid tokens."""
        return self.kl_sum / self.token_count.clamp(min=1)


class ValueLoss(NamedTuple):
    """The value function's loss: scalars, of which only `loss_sum` carries a gradient. All add up."""

    loss_sum: Tensor
    """Half the squared error, summed over tokens: to be divided by the global token count; float32."""
    token_count: Tensor
    """Valid tokens; int64."""
    clipped_count: Tensor
    """Tokens where the clipped value is the further from the return, so the gradient is taken away; int64."""

    @property
    def clip_fraction(self) -> Tensor:
        """The share of tokens, 0..1, that were clipped; 0 without valid tokens."""
        return self.clipped_count / self.token_count.clamp(min=1)


def policy_loss(
    *,
    logprobs_BT: Tensor,
    old_logprobs_BT: Tensor,
    advantages_BT: Tensor,
    mask_BT: Tensor,
    clip: float,
    dual_clip: float | None = None,
) -> PolicyLoss:
    """Return the clipped surrogate, -min(ratio A, clip(ratio, 1 - clip, 1 + clip) A), summed over valid tokens.

    `dual_clip` (above 1; Ye et al. 2020, arXiv 1912.09729) bounds the loss of a token with A < 0 by
    dual_clip |A|, however large its ratio is.

    The log-ratio is clamped to +-20 before it is exponentiated: a token beyond has a finite loss and no gradient. That
    is what clipping says already, except for A < 0 with a ratio above e^20, where one token would drown the step.
    What the tensors hold where the mask is false, NaN included, changes neither loss nor gradient.

    Raises ValueError when the shapes disagree, clip isn't in 0 < clip < 1, or dual_clip isn't above 1; TypeError when
    the mask isn't boolean.
    """
    same_shape(logprobs_BT=logprobs_BT, old_logprobs_BT=old_logprobs_BT, advantages_BT=advantages_BT, mask_BT=mask_BT)
    boolean_mask(mask_BT)
    if not 0 < clip < 1:
        raise ValueError(f"clip is {clip}; it must be above 0 and below 1")
    if dual_clip is not None and not dual_clip > 1:
        raise ValueError(f"dual_clip is {dual_clip}; it must be above 1")
    logprobs_BT = torch.where(mask_BT, logprobs_BT, 0.0).float()
    old_logprobs_BT = torch.where(mask_BT, old_logprobs_BT.detach(), 0.0).float()
    advantages_BT = torch.where(mask_BT, advantages_BT.detach(), 0.0).float()

    ratio_BT = (logprobs_BT - old_logprobs_BT).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    unclipped_BT = -advantages_BT * ratio_BT
    clipped_BT = -advantages_BT * ratio_BT.clamp(1 - clip, 1 + clip)
    loss_BT = torch.maximum(unclipped_BT, clipped_BT)
    is_clipped_BT = clipped_BT > unclipped_BT
    if dual_clip is not None:
        ceiling_BT = -advantages_BT * dual_clip
        is_over_BT = (advantages_BT < 0) & (loss_BT > ceiling_BT)
        loss_BT = torch.where(is_over_BT, ceiling_BT, loss_BT)
        is_clipped_BT = is_clipped_BT | is_over_BT
    return PolicyLoss(
        # Where the mask is false the advantage is 0, and so are the loss and its gradient.
        loss_sum=loss_BT.sum(),
        token_count=mask_BT.sum(),
        clipped_count=is_clipped_BT.sum(),
        kl_sum=k3(old_logprobs_BT, logprobs_BT.detach()).sum(),
        ratio_max=_largest(torch.where(mask_BT, ratio_BT.detach(), 0.0)),
        ratio_min=1 / _largest(torch.where(mask_BT, 1 / ratio_BT.detach(), 0.0)),
    )


def value_loss(
    *, values_BT: Tensor, old_values_BT: Tensor, returns_BT: Tensor, mask_BT: Tensor, clip: float | None
) -> ValueLoss:
    """Return half the squared error of the values, summed over valid tokens; with a clip, the larger of two errors.

    The other error is that of the value held within +-clip (in units of return) of what it was at the rollout, as in
    OpenAI's baselines. None doesn't clip. What the tensors hold where the mask is false changes nothing.

    Raises ValueError when the shapes disagree or clip isn't above 0, TypeError when the mask isn't boolean.
    """
    same_shape(values_BT=values_BT, old_values_BT=old_values_BT, returns_BT=returns_BT, mask_BT=mask_BT)
    boolean_mask(mask_BT)
    if clip is not None:
        positive(clip=clip)
    values_BT = torch.where(mask_BT, values_BT, 0.0).float()
    old_values_BT = torch.where(mask_BT, old_values_BT.detach(), 0.0).float()
    returns_BT = torch.where(mask_BT, returns_BT.detach(), 0.0).float()

    error_BT = (values_BT - returns_BT).square()
    is_clipped_BT = torch.zeros_like(mask_BT)
    if clip is not None:
        held_BT = old_values_BT + (values_BT - old_values_BT).clamp(-clip, clip)
        held_error_BT = (held_BT - returns_BT).square()
        is_clipped_BT = held_error_BT > error_BT
        error_BT = torch.maximum(error_BT, held_error_BT)
    return ValueLoss(loss_sum=0.5 * error_BT.sum(), token_count=mask_BT.sum(), clipped_count=is_clipped_BT.sum())


def _largest(values_BT: Tensor) -> Tensor:
    """Return the maximum of values that are not negative; 0 of none, where `amax` raises."""
    return torch.cat([values_BT.flatten(), values_BT.new_zeros(1)]).max()
