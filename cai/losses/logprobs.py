"""Log-probabilities of chosen tokens, the entropy of a distribution, and statistics over valid tokens.

Works on a tile of positions at a time: what is held beside the inputs and their gradients is a few tiles of float32
(and the float32 sum of the head's gradient, where a head of lower precision is trained). The backward passes recompute
a tile rather than keep it, and are exact. Second derivatives are not supported.

Left out: heads with a bias in `projected_logprobs`; for those use `selected_logprobs`.

Shapes: B batch, T tokens, V vocabulary, N positions (of any batch, flattened), H hidden size, R ranks or microbatches,
t positions of one tile.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from cai.losses.checks import boolean_mask, positive, same_shape

TILE = 256
"""Positions per tile: 50 MB of float32 for a vocabulary of 49,152."""


class _Shaping(NamedTuple):
    """What becomes of logits before their softmax: first a soft cap, then the temperature."""

    temperature: float
    softcap: float | None = None

    def of(self, logits_tV: Tensor) -> Tensor:
        """Return the shaped logits: float32, unless nothing is done to them."""
        if self.softcap is not None:
            logits_tV = (logits_tV.float() / self.softcap).tanh_().mul_(self.softcap)
        return logits_tV if self.temperature == 1.0 else logits_tV.float() / self.temperature


def selected_logprobs(logits_BTV: Tensor, labels_BT: Tensor, *, temperature: float = 1.0, tile: int = TILE) -> Tensor:
    """Return log softmax(logits / temperature) at each label: `logprobs_BT`, in nats, float32 whatever the input is.

    The labels are those of the same positions. The caller shifts by one, best by shifting the labels and ending each
    row with -100: the backward of a slice of the logits makes another copy of them. A negative label marks a position
    that has none: its log-probability is 0 and its logits get no gradient, even where they are NaN.

    Raises ValueError when the shapes disagree, the temperature isn't above 0, or the tile is empty.
    """
    if logits_BTV.shape[:-1] != labels_BT.shape:
        raise ValueError(
            f"labels have shape {tuple(labels_BT.shape)}; logits of {tuple(logits_BTV.shape)} need one label per row"
        )
    positive(temperature=temperature, tile=tile)
    rows_BTV = _without_copy(logits_BTV)
    labels = labels_BT.reshape(rows_BTV.shape[:-1])
    return _selected(rows_BTV, labels, _Shaping(temperature), tile).view(labels_BT.shape)


def projected_logprobs(
    hidden_NH: Tensor,
    head_VH: Tensor,
    labels_N: Tensor,
    *,
    tile: int = TILE,
    temperature: float = 1.0,
    softcap: float | None = None,
) -> Tensor:
    """Return log softmax(hidden @ head.T / temperature) at each label: `logprobs_N`, in nats, float32.

    The language-model head is applied to the positions given and to no others, so gather the response's positions
    first: the prompt's then cost nothing. No tensor of N x V exists, forward or backward. A frozen head (LoRA) gets no
    gradient and its V x H product is skipped. Under autocast the products run in autocast's dtype, as in a linear
    layer; the softmax is float32 always, and so is the sum of the head's gradient over tiles.

    With a `softcap`, logits are softcap * tanh(logits / softcap) before they are divided by the temperature (Gemma 2,
    arXiv 2408.00118, section 2), in float32.

    A negative label marks a position that has none: 0, and no gradient.

    Raises ValueError when the shapes disagree, the temperature or the cap isn't above 0, or the tile is empty.
    """
    return _project(hidden_NH, head_VH, labels_N, _Shaping(temperature, softcap), tile, entropy=False)[0]


def projected_logprobs_and_entropy(
    hidden_NH: Tensor,
    head_VH: Tensor,
    labels_N: Tensor,
    *,
    tile: int = TILE,
    temperature: float = 1.0,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Return `projected_logprobs`, and the Shannon entropy of each softmax, `entropy_N`: in nats, float32.

    The head is applied once for both. A position with a negative label has entropy 0 and no gradient.

    Raises what `projected_logprobs` raises.
    """
    return _project(hidden_NH, head_VH, labels_N, _Shaping(temperature, softcap), tile, entropy=True)


def _project(
    hidden_NH: Tensor, head_VH: Tensor, labels_N: Tensor, shaping: _Shaping, tile: int, *, entropy: bool
) -> tuple[Tensor, Tensor]:
    if hidden_NH.dim() != 2 or head_VH.dim() != 2 or hidden_NH.shape[1] != head_VH.shape[1]:
        raise ValueError(f"hidden of {tuple(hidden_NH.shape)} doesn't fit a head of {tuple(head_VH.shape)}")
    if hidden_NH.shape[:1] != labels_N.shape:
        raise ValueError(
            f"labels have shape {tuple(labels_N.shape)}; hidden of {tuple(hidden_NH.shape)} need one label per row"
        )
    positive(temperature=shaping.temperature, tile=tile)
    if shaping.softcap is not None:
        positive(softcap=shaping.softcap)
    device = hidden_NH.device.type
    if torch.is_autocast_enabled(device):
        # The cast is outside the function below, whose backward runs where autocast is off.
        dtype = torch.get_autocast_dtype(device)
        hidden_NH, head_VH = hidden_NH.to(dtype), head_VH.to(dtype)
    return _projected(hidden_NH, head_VH, labels_N, shaping, tile, entropy)


def masked_sum(values: Tensor, mask: Tensor, *, dim: int | None = None) -> Tensor:
    """Return the float32 sum of the values where the mask is true, over all axes or one. Masked NaN is not seen.

    Raises ValueError when the shapes disagree, TypeError when the mask isn't boolean.
    """
    same_shape(values=values, mask=mask)
    boolean_mask(mask)
    kept = torch.where(mask, values, 0.0).float()
    return kept.sum() if dim is None else kept.sum(dim)


def masked_mean(values: Tensor, mask: Tensor, *, dim: int | None = None) -> Tensor:
    """Return the float32 mean of the values where the mask is true; NaN where it is nowhere true, with no gradient.

    Not for a loss that is accumulated: a mean of means weighs tokens by the size of their microbatch. Use `masked_sum`
    and the global count there.

    Raises ValueError when the shapes disagree, TypeError when the mask isn't boolean.
    """
    return masked_sum(values, mask, dim=dim) / (mask.sum() if dim is None else mask.sum(dim))


class Moments(NamedTuple):
    """Count, mean and population variance (divided by the count) of some values: float32 tensors of one shape.

    >>> Moments(*map(torch.tensor, (4.0, 2.5, 1.25)))  # of 1, 2, 3, 4
    Moments(token_count=tensor(4.), mean=tensor(2.5000), variance=tensor(1.2500))
    """

    token_count: Tensor
    mean: Tensor
    variance: Tensor


def masked_moments(values: Tensor, mask: Tensor) -> Moments:
    """Return the moments, all scalars and without gradient, of the values where the mask is true; zeros if nowhere.

    Raises ValueError when the shapes disagree, TypeError when the mask isn't boolean.
    """
    values = values.detach()
    count = mask.sum().float()
    mean = masked_sum(values, mask) / count.clamp(min=1.0)
    variance = masked_sum((values.float() - mean).square(), mask) / count.clamp(min=1.0)
    return Moments(count, mean, variance)


def merge_moments(moments_R: Moments) -> Moments:
    """Merge the moments of R parts, each field stacked to `(R,)`, into the scalars of the whole.

    All-gather each field of `masked_moments` and merge: every rank then whitens by the same statistics. A part that is
    empty weighs nothing. (Chan et al. 1983, the pairwise update in its many-part form.)
    """
    count = moments_R.token_count.sum()
    share_R = moments_R.token_count / count.clamp(min=1.0)
    mean = (share_R * moments_R.mean).sum()
    variance = (share_R * (moments_R.variance + (moments_R.mean - mean).square())).sum()
    return Moments(count, mean, variance)


def masked_whiten(
    values: Tensor, mask: Tensor, *, moments: Moments | None = None, shift_mean: bool = True, epsilon: float = 1e-8
) -> Tensor:
    """Return (values - mean) / sqrt(variance + epsilon), float32; 0 where the mask is false.

    The moments default to those of these values; pass merged ones to whiten by the whole batch. Without `shift_mean`
    the mean is kept and only the spread becomes 1 (Ziegler et al. 2019 whiten rewards so).

    Raises ValueError when the shapes disagree, TypeError when the mask isn't boolean.
    """
    same_shape(values=values, mask=mask)
    boolean_mask(mask)
    _, mean, variance = masked_moments(values, mask) if moments is None else moments
    whitened = (torch.where(mask, values, 0.0).float() - mean) * torch.rsqrt(variance + epsilon)
    return torch.where(mask, whitened if shift_mean else whitened + mean, 0.0)


def _without_copy(logits_BTV: Tensor) -> Tensor:
    """Return the logits as `(1, N, V)` where a view can be, else as they are: flattening a slice would copy it all."""
    if logits_BTV.is_contiguous():
        return logits_BTV.view(1, -1, logits_BTV.shape[-1])
    return logits_BTV.reshape(-1, *logits_BTV.shape[-2:])


def _slices(count: int, tile: int) -> Iterator[slice]:
    for start in range(0, count, tile):
        yield slice(start, min(start + tile, count))


def _tiles(logits_BTV: Tensor, tile: int) -> Iterator[tuple[int, slice]]:
    for row in range(logits_BTV.shape[0]):
        for positions in _slices(logits_BTV.shape[1], tile):
            yield row, positions


def _tile_logprobs(logits_tV: Tensor, shaping: _Shaping) -> Tensor:
    """Return the log-probability of every token, float32."""
    return torch.log_softmax(shaping.of(logits_tV), dim=-1, dtype=torch.float32)


def _picked(logprobs_tV: Tensor, labels_t: Tensor) -> Tensor:
    """Return the labels' log-probabilities, 0 where the label is negative."""
    return logprobs_tV.gather(-1, labels_t.clamp(min=0)[:, None])[:, 0].masked_fill(labels_t < 0, 0.0)


def _tile_gradient(
    logits_tV: Tensor,
    labels_t: Tensor,
    upstream_t: Tensor,
    shaping: _Shaping,
    entropy: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Return the gradient by the logits: upstream (one-hot - p), and back through the shaping.

    With `entropy`, a tile's H and what comes from above for it, -p (log p + H) times the latter is added.
    """
    shaped_tV, upstream_t = shaping.of(logits_tV), upstream_t / shaping.temperature
    if entropy is None:
        gradient_tV = torch.softmax(shaped_tV, dim=-1, dtype=torch.float32).mul_(-upstream_t[:, None])
    else:
        entropy_t, above_t = entropy
        logprobs_tV = torch.log_softmax(shaped_tV, dim=-1, dtype=torch.float32)
        gradient_tV = (logprobs_tV + entropy_t[:, None]).mul_(above_t[:, None] / shaping.temperature)
        gradient_tV.add_(upstream_t[:, None]).mul_(logprobs_tV.exp_()).neg_()
    gradient_tV.scatter_add_(-1, labels_t.clamp(min=0)[:, None], upstream_t[:, None])
    if shaping.softcap is not None:  # d shaped / d logit is 1 - tanh^2
        tanh_tV = shaped_tV.mul_(shaping.temperature / shaping.softcap)
        gradient_tV.mul_(tanh_tV.square_().neg_().add_(1.0))
    # Not a product with 0: the logits of a position without a label may be NaN.
    return gradient_tV.masked_fill_((labels_t < 0)[:, None], 0.0)


class _SelectedLogprobs(Function):
    @staticmethod
    def forward(ctx: Any, logits_BTV: Tensor, labels_BT: Tensor, shaping: _Shaping, tile: int) -> Tensor:
        ctx.save_for_backward(logits_BTV, labels_BT)
        ctx.shaping, ctx.tile = shaping, tile
        logprobs_BT = logits_BTV.new_empty(labels_BT.shape, dtype=torch.float32)
        for at in _tiles(logits_BTV, tile):
            logprobs_BT[at] = _picked(_tile_logprobs(logits_BTV[at], shaping), labels_BT[at])
        return logprobs_BT

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream_BT: Tensor) -> tuple[Tensor, None, None, None]:
        logits_BTV, labels_BT = ctx.saved_tensors
        gradient_BTV = torch.empty_like(logits_BTV)
        for at in _tiles(logits_BTV, ctx.tile):
            gradient_BTV[at] = _tile_gradient(logits_BTV[at], labels_BT[at], upstream_BT[at], ctx.shaping)
        return gradient_BTV, None, None, None


class _Projected(Function):
    """Log-probabilities and, if it is asked for, entropy (else zeros without a gradient) behind a head."""

    @staticmethod
    def forward(
        ctx: Any, hidden_NH: Tensor, head_VH: Tensor, labels_N: Tensor, shaping: _Shaping, tile: int, entropy: bool
    ) -> tuple[Tensor, Tensor]:
        logprobs_N = hidden_NH.new_empty(len(labels_N), dtype=torch.float32)
        entropy_N = torch.zeros_like(logprobs_N)
        for rows in _slices(len(labels_N), tile):
            logprobs_tV, labels_t = _tile_logprobs(hidden_NH[rows] @ head_VH.T, shaping), labels_N[rows]
            logprobs_N[rows] = _picked(logprobs_tV, labels_t)
            if entropy:
                entropy_t = -(logprobs_tV.exp() * logprobs_tV).sum(-1)
                entropy_N[rows] = entropy_t.masked_fill(labels_t < 0, 0.0)
        ctx.save_for_backward(hidden_NH, head_VH, labels_N, entropy_N)
        ctx.shaping, ctx.tile, ctx.entropy = shaping, tile, entropy
        if not entropy:
            ctx.mark_non_differentiable(entropy_N)
        return logprobs_N, entropy_N

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, upstream_N: Tensor, above_N: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None, None, None, None]:
        hidden_NH, head_VH, labels_N, entropy_N = ctx.saved_tensors
        wants_hidden, wants_head = ctx.needs_input_grad[:2]
        hidden_gradient_NH = torch.empty_like(hidden_NH) if wants_hidden else None
        head_gradient_VH = torch.zeros_like(head_VH, dtype=torch.float32) if wants_head else None
        for rows in _slices(len(labels_N), ctx.tile):
            labels_t = labels_N[rows]
            hidden_tH = hidden_NH[rows].masked_fill((labels_t < 0)[:, None], 0.0)
            entropy = (entropy_N[rows], above_N[rows]) if ctx.entropy else None
            gradient_tV = _tile_gradient(hidden_tH @ head_VH.T, labels_t, upstream_N[rows], ctx.shaping, entropy)
            gradient_tV = gradient_tV.to(head_VH.dtype)
            if hidden_gradient_NH is not None:
                hidden_gradient_NH[rows] = gradient_tV @ head_VH
            if head_gradient_VH is not None and head_VH.dtype == torch.float32:
                head_gradient_VH.addmm_(gradient_tV.T, hidden_tH)  # in place: V x H is the largest tensor here
            elif head_gradient_VH is not None:
                head_gradient_VH += gradient_tV.T @ hidden_tH
        if head_gradient_VH is not None:
            head_gradient_VH = head_gradient_VH.to(head_VH.dtype)
        return hidden_gradient_NH, head_gradient_VH, None, None, None, None


# `apply` is untyped; these are its types.
_selected: Callable[[Tensor, Tensor, _Shaping, int], Tensor] = _SelectedLogprobs.apply
_projected: Callable[[Tensor, Tensor, Tensor, _Shaping, int, bool], tuple[Tensor, Tensor]] = _Projected.apply
