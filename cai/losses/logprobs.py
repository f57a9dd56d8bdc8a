"""Log-probabilities of chosen tokens, the entropy of a distribution, and statistics over valid tokens.

Works on a tile of positions at a time: what is held beside the inputs and their gradients is a few tiles of float32
(and the float32 sum of the head's gradient, where a head of lower precision is trained). The backward passes recompute
a tile rather than keep it, and are exact. Second derivatives are not supported.

Left out: heads with a bias or soft-capped logits in `projected_logprobs`; for those use `selected_logprobs`.

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
    return _selected(rows_BTV, labels, temperature, tile).view(labels_BT.shape)


def projected_logprobs(
    hidden_NH: Tensor, head_VH: Tensor, labels_N: Tensor, *, tile: int = TILE, temperature: float = 1.0
) -> Tensor:
    """Return log softmax(hidden @ head.T / temperature) at each label: `logprobs_N`, in nats, float32.

    The language-model head is applied to the positions given and to no others, so gather the response's positions
    first: the prompt's then cost nothing. No tensor of N x V exists, forward or backward. A frozen head (LoRA) gets no
    gradient and its V x H product is skipped. Under autocast the products run in autocast's dtype, as in a linear
    layer; the softmax is float32 always, and so is the sum of the head's gradient over tiles.

    A negative label marks a position that has none: 0, and no gradient.

    Raises ValueError when the shapes disagree, the temperature isn't above 0, or the tile is empty.
    """
    if hidden_NH.dim() != 2 or head_VH.dim() != 2 or hidden_NH.shape[1] != head_VH.shape[1]:
        raise ValueError(f"hidden of {tuple(hidden_NH.shape)} doesn't fit a head of {tuple(head_VH.shape)}")
    if hidden_NH.shape[:1] != labels_N.shape:
        raise ValueError(
            f"labels have shape {tuple(labels_N.shape)}; hidden of {tuple(hidden_NH.shape)} need one label per row"
        )
    positive(temperature=temperature, tile=tile)
    device = hidden_NH.device.type
    if torch.is_autocast_enabled(device):
        # The cast is outside the function below, whose backward runs where autocast is off.
        dtype = torch.get_autocast_dtype(device)
        hidden_NH, head_VH = hidden_NH.to(dtype), head_VH.to(dtype)
    return _projected(hidden_NH, head_VH, labels_N, temperature, tile)


def entropy_from_logits(logits_BTV: Tensor, *, tile: int = TILE) -> Tensor:
    """Return the Shannon entropy of softmax(logits): `entropy_BT`, in nats, float32; a token at -inf adds nothing.

    Raises ValueError when the tile is empty.
    """
    positive(tile=tile)
    return _entropy(_without_copy(logits_BTV), tile).view(logits_BTV.shape[:-1])


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


def _tile_logprobs(logits_tV: Tensor, labels_t: Tensor, temperature: float) -> Tensor:
    """Return the labels' log-probabilities, float32, 0 where the label is negative."""
    if temperature != 1.0:
        logits_tV = logits_tV.float() / temperature
    logprobs_tV = torch.log_softmax(logits_tV, dim=-1, dtype=torch.float32)
    logprobs_t = logprobs_tV.gather(-1, labels_t.clamp(min=0)[:, None])[:, 0]
    return logprobs_t.masked_fill(labels_t < 0, 0.0)


def _tile_gradient(logits_tV: Tensor, labels_t: Tensor, upstream_t: Tensor, temperature: float) -> Tensor:
    """Return the gradient of the labels' log-probabilities by the logits: (one-hot - softmax) / temperature."""
    if temperature != 1.0:
        logits_tV = logits_tV.float() / temperature
    gradient_tV = torch.softmax(logits_tV, dim=-1, dtype=torch.float32)
    upstream_t = upstream_t / temperature
    gradient_tV.mul_(-upstream_t[:, None])
    gradient_tV.scatter_add_(-1, labels_t.clamp(min=0)[:, None], upstream_t[:, None])
    # Not a product with 0: the logits of a position without a label may be NaN.
    return gradient_tV.masked_fill_((labels_t < 0)[:, None], 0.0)


class _SelectedLogprobs(Function):
    @staticmethod
    def forward(ctx: Any, logits_BTV: Tensor, labels_BT: Tensor, temperature: float, tile: int) -> Tensor:
        ctx.save_for_backward(logits_BTV, labels_BT)
        ctx.temperature, ctx.tile = temperature, tile
        logprobs_BT = logits_BTV.new_empty(labels_BT.shape, dtype=torch.float32)
        for at in _tiles(logits_BTV, tile):
            logprobs_BT[at] = _tile_logprobs(logits_BTV[at], labels_BT[at], temperature)
        return logprobs_BT

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream_BT: Tensor) -> tuple[Tensor, None, None, None]:
        logits_BTV, labels_BT = ctx.saved_tensors
        gradient_BTV = torch.empty_like(logits_BTV)
        for at in _tiles(logits_BTV, ctx.tile):
            gradient_BTV[at] = _tile_gradient(logits_BTV[at], labels_BT[at], upstream_BT[at], ctx.temperature)
        return gradient_BTV, None, None, None


class _ProjectedLogprobs(Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_NH: Tensor, head_VH: Tensor, labels_N: Tensor, temperature: float, tile: int
    ) -> Tensor:
        ctx.save_for_backward(hidden_NH, head_VH, labels_N)
        ctx.temperature, ctx.tile = temperature, tile
        logprobs_N = hidden_NH.new_empty(len(labels_N), dtype=torch.float32)
        for rows in _slices(len(labels_N), tile):
            logprobs_N[rows] = _tile_logprobs(hidden_NH[rows] @ head_VH.T, labels_N[rows], temperature)
        return logprobs_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream_N: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        hidden_NH, head_VH, labels_N = ctx.saved_tensors
        wants_hidden, wants_head = ctx.needs_input_grad[:2]
        hidden_gradient_NH = torch.empty_like(hidden_NH) if wants_hidden else None
        head_gradient_VH = torch.zeros_like(head_VH, dtype=torch.float32) if wants_head else None
        for rows in _slices(len(labels_N), ctx.tile):
            labels_t = labels_N[rows]
            hidden_tH = hidden_NH[rows].masked_fill((labels_t < 0)[:, None], 0.0)
            gradient_tV = _tile_gradient(hidden_tH @ head_VH.T, labels_t, upstream_N[rows], ctx.temperature)
            gradient_tV = gradient_tV.to(head_VH.dtype)
            if hidden_gradient_NH is not None:
                hidden_gradient_NH[rows] = gradient_tV @ head_VH
            if head_gradient_VH is not None and head_VH.dtype == torch.float32:
                head_gradient_VH.addmm_(gradient_tV.T, hidden_tH)  # in place: V x H is the largest tensor here
            elif head_gradient_VH is not None:
                head_gradient_VH += gradient_tV.T @ hidden_tH
        if head_gradient_VH is not None:
            head_gradient_VH = head_gradient_VH.to(head_VH.dtype)
        return hidden_gradient_NH, head_gradient_VH, None, None, None


class _Entropy(Function):
    @staticmethod
    def forward(ctx: Any, logits_BTV: Tensor, tile: int) -> Tensor:
        entropy_BT = logits_BTV.new_empty(logits_BTV.shape[:-1], dtype=torch.float32)
        for at in _tiles(logits_BTV, tile):
            logprobs_tV = _finite_logprobs(logits_BTV[at])
            entropy_BT[at] = -(logprobs_tV.exp() * logprobs_tV).sum(-1)
        ctx.save_for_backward(logits_BTV, entropy_BT)
        ctx.tile = tile
        return entropy_BT

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream_BT: Tensor) -> tuple[Tensor, None]:
        logits_BTV, entropy_BT = ctx.saved_tensors
        gradient_BTV = torch.empty_like(logits_BTV)
        for at in _tiles(logits_BTV, ctx.tile):
            logprobs_tV = _finite_logprobs(logits_BTV[at])
            # dH/dlogit = -p (log p + H)
            slope_tV = logprobs_tV.exp() * (logprobs_tV + entropy_BT[at][:, None])
            gradient_BTV[at] = slope_tV * -upstream_BT[at][:, None]
        return gradient_BTV, None


def _finite_logprobs(logits_tV: Tensor) -> Tensor:
    """Return log softmax with -inf made the lowest float, so that 0 probability times it is 0 and not NaN."""
    logprobs_tV = torch.log_softmax(logits_tV, dim=-1, dtype=torch.float32)
    return logprobs_tV.clamp(min=torch.finfo(torch.float32).min)


# `apply` is untyped; these are its types.
_selected: Callable[[Tensor, Tensor, float, int], Tensor] = _SelectedLogprobs.apply
_projected: Callable[[Tensor, Tensor, Tensor, float, int], Tensor] = _ProjectedLogprobs.apply
_entropy: Callable[[Tensor, int], Tensor] = _Entropy.apply
