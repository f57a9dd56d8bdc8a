"""Attention over a packed sequence of trees: each answer sees its prompt and itself, and no row sees another.

It plugs into Transformers through its `AttentionInterface`: models get it by `attn_implementation` and hand the keyword
`layout` (see `cai.train.packing`) through to it, also when gradient checkpointing computes a layer again. Without that
keyword it attends as models do.

A prompt and its first answer are one causal block without a mask. A further answer's queries meet the keys of the
prompt and its own under a mask as large as they. Sliding windows are part of the masks; soft-capped scores (Gemma 2,
arXiv 2408.00118, section 2) are spelled out, since no fused kernel has them. Attention sinks and position biases are
refused.

Shapes: L queries, S keys, H query heads, K key heads, D of one head.
"""

import functools
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import dropout as drop
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from cai.train.packing import Layout

NAME = "cai_packed"


def attention_forward(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    layout: Layout | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend as Transformers' attention functions do, ``[1, H, T, D]`` to ``[1, T, H, D]``; by rows with a layout."""
    refused = [name for name in ("position_bias", "s_aux") if kwargs.get(name) is not None]
    if refused:
        raise NotImplementedError(f"packed attention knows no {refused[0]}")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    attend = functools.partial(_attend, scale=scale, dropout=dropout, softcap=softcap)
    if layout is None:
        length = query.shape[2]
        if attention_mask is None and length > 1:
            attention_mask = _mask(length, key.shape[2], sliding_window, _computed(query), query.device)
        return attend(query, key, value, attention_mask).transpose(1, 2).contiguous(), None
    sizes = [size for prompt, answers in layout for size in (prompt + answers[0], *answers[1:])]
    # Split, not sliced: the backward of a split is one concatenation, that of a slice a tensor as large as the whole.
    parts = zip(query.split(sizes, dim=2), key.split(sizes, dim=2), value.split(sizes, dim=2), strict=True)
    masks = iter(_masks(layout, sliding_window, _computed(query), query.device))
    outs = []
    for prompt, answers in layout:
        q, trunk_k, trunk_v = next(parts)
        outs.append(attend(q, trunk_k, trunk_v, next(masks)))
        for length in answers[1:]:
            q, k, v = next(parts)
            k, v = torch.cat([trunk_k[:, :, :prompt], k], dim=2), torch.cat([trunk_v[:, :, :prompt], v], dim=2)
            mask = next(masks)
            outs.append(attend(q, k, v, mask) if length else q)
    return torch.cat(outs, dim=2).transpose(1, 2).contiguous(), None


def _computed(query: Tensor) -> torch.dtype:
    """Return the type that the scores are computed in."""
    device = query.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else query.dtype


@functools.lru_cache(maxsize=4)
def _masks(layout: Layout, window: int | None, dtype: torch.dtype, device: torch.device) -> tuple[Tensor | None, ...]:
    """Return the mask of each part of a layout: made once for all layers of a kind."""
    make = functools.partial(_mask, window=window, dtype=dtype, device=device)
    return tuple(
        make(answer if later else prompt + answer, prompt + answer)
        for prompt, answers in layout
        for later, answer in enumerate(answers)
    )


def forget_masks() -> None:
    """Drop the masks that are kept for the layouts met last: another kind of tensor (a fake one) may be wanted now."""
    _masks.cache_clear()


def _mask(length: int, seen: int, window: int | None, dtype: torch.dtype, device: torch.device) -> Tensor | None:
    """Return what is added to the scores of the last `length` of `seen` tokens, ``[L, S]``; None is plain causal."""
    if length == seen and (window is None or window >= seen):
        return None
    query = torch.arange(seen - length, seen, device=device)[:, None]
    key = torch.arange(seen, device=device)
    hidden = key > query
    if window is not None:
        hidden |= key <= query - window
    return torch.zeros(length, seen, dtype=dtype, device=device).masked_fill_(hidden, -torch.inf)


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    scale: float,
    dropout: float,
    softcap: float | None,
) -> Tensor:
    """Return every query's average of the values, ``[B, H, L, D]``; without a mask it is causal."""
    grouped = query.shape[1] != key.shape[1]
    if softcap is None:
        return scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            dropout_p=dropout,
            is_causal=mask is None and query.shape[2] > 1,
            scale=scale,
            enable_gqa=grouped,
        )
    if grouped:
        group = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(group, dim=1), value.repeat_interleave(group, dim=1)
    scores = torch.tanh(query @ key.transpose(-1, -2) * (scale / softcap)).float() * softcap
    if mask is None:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:], device=scores.device).triu(1).bool(), -torch.inf)
    elif mask.dtype == torch.bool:
        # Not -inf: a row of padding on the left sees nothing, and its NaN would reach the others.
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    else:
        scores = scores + mask
    return drop(scores.softmax(-1), dropout).to(value.dtype) @ value


AttentionInterface.register(NAME, attention_forward)
AttentionMaskInterface.register(NAME, sdpa_mask)
