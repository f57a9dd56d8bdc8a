"""Attention over keys and values that several rows of a batch share, without a copy per row.

A row attends to its **ancestors** (a shared prefix; its own prompt; what it has written so far) and to itself. Each is
attended to alone, and the parts are merged by their log-sum-exp, which gives what one softmax over all of them would.
An ancestor that many rows share is read once: the rows' queries are laid side by side.

It plugs into Transformers through its `AttentionInterface`: models get it by `attn_implementation` and hand the
keyword `memory` through to it. Without that keyword it is plain SDPA. It refuses what it can't do (sliding windows,
soft-capped scores), which `cai.engines.network` takes as the sign to work without it.

Shapes: B rows, L tokens of a row, S tokens of an ancestor, H query heads, K key heads, D of one head.
"""

import functools
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "cai_shared"

CHUNK = 1 << 26
"""Scores held at once where attention is spelled out (devices without a fused kernel that returns log-sum-exp)."""


@dataclass
class Block:
    """Keys and values of an ancestor, by layer: ``[A, K, S, D]``, each of the A shared by B / A rows in a row.

    `bias_A11S` is added to the scores: minus infinity where a shorter one of the A has ended.
    """

    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    bias_A11S: Tensor | None = None

    @property
    def length(self) -> int:
        """How many tokens it holds, padding included."""
        return self.keys[0].shape[2] if self.keys else 0


@dataclass
class Memory:
    """What one forward pass may look at, and where its own keys and values go.

    A pass over prompts attends to itself, causally, and appends its keys and values to `written` if there is one. A
    pass of one token per row writes them into `slots` and attends to those instead.
    """

    ancestors: list[Block] = field(default_factory=list)
    written: Block | None = None
    slots: "Slots | None" = None


class Slots:
    """Keys and values that grow by a token per step, one slot per row, in place.

    Rows are the first `count` slots. A row that leaves is overwritten by the last one, so the rest stay where they are.
    """

    STEP = 128
    """Tokens by which the room grows."""

    def __init__(self, capacity: int) -> None:
        """Make room for `capacity` rows; the tensors come with the first keys."""
        self.capacity = capacity
        self.count = 0
        self.block = Block()
        self.lengths: list[int] = []
        self._at: Tensor | None = None
        self._rows: Tensor | None = None

    def add(self, parts: list[tuple[Block, Tensor | None]], length: int, own_length: list[int]) -> None:
        """Add rows whose keys are `parts` side by side; an index says which of a part's rows each one takes."""
        rows = len(own_length)
        first = parts[-1][0].keys[0]
        self._grow(length + self.STEP, first, layers=len(parts[-1][0].keys))
        new = slice(self.count, self.count + rows)
        for mine, layers in ((self.block.keys, "keys"), (self.block.values, "values")):
            for layer, target in enumerate(mine):
                place = 0
                for part, index in parts:
                    source: Tensor = getattr(part, layers)[layer]
                    source = source if index is None else source[index]
                    target[new, :, place : place + source.shape[2]] = source
                    place += source.shape[2]
        self.lengths += own_length
        self.count += rows

    def keep(self, order: list[int]) -> None:
        """Keep the rows `order`, in that order. Only rows that move are copied."""
        moves = [(to, row) for to, row in enumerate(order) if to != row]
        if moves:
            to, row = [move[0] for move in moves], [move[1] for move in moves]
            longest = max(self.lengths[row] for row in order)
            for tensor in (*self.block.keys, *self.block.values):
                tensor[to, :, :longest] = tensor[row, :, :longest]
        self.lengths = [self.lengths[row] for row in order]
        self.count = len(order)

    def begin_step(self) -> Tensor:
        """Make room for one more token per row, set the bias, and return the rows' positions ``[B]``."""
        longest = max(self.lengths) + 1
        sample = self.block.keys[0]
        if longest > sample.shape[2]:
            self._grow(longest + self.STEP, sample, layers=len(self.block.keys))
        self._at = torch.tensor(self.lengths, device=sample.device)
        self._rows = torch.arange(self.count, device=sample.device)
        beyond = torch.arange(longest, device=sample.device) > self._at[:, None]
        bias = torch.zeros(beyond.shape, dtype=sample.dtype, device=sample.device).masked_fill_(beyond, -torch.inf)
        self.block.bias_A11S = bias[:, None, None]
        self.lengths = [length + 1 for length in self.lengths]
        return self._at

    def write(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Put one token's keys and values in place, and return all that the rows hold."""
        longest = max(self.lengths)
        keys, values = self.block.keys[layer], self.block.values[layer]
        keys[self._rows, :, self._at] = key[:, :, 0]
        values[self._rows, :, self._at] = value[:, :, 0]
        return keys[: self.count, :, :longest], values[: self.count, :, :longest]

    def _grow(self, length: int, sample: Tensor, *, layers: int) -> None:
        _, heads, _, width = sample.shape
        held = self.block.length
        if length <= held:
            return
        shape = (self.capacity, heads, -(-length // self.STEP) * self.STEP, width)
        for side in (self.block.keys, self.block.values):
            for layer in range(layers):
                # Zeros, not garbage: a masked NaN would still poison the sum.
                grown = torch.zeros(shape, dtype=sample.dtype, device=sample.device)
                if held:
                    grown[: self.count, :, :held] = side[layer][: self.count]
                    side[layer] = grown
                else:
                    side.append(grown)


def attention_forward(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    memory: Memory | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend as Transformers' attention functions do; with a memory, to what it holds."""
    if memory is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    refused = [name for name in ("softcap", "sliding_window", "position_bias", "s_aux") if kwargs.get(name) is not None]
    if refused:
        raise NotImplementedError(f"shared attention knows no {refused[0]}")
    layer: int = module.layer_idx  # type: ignore[assignment]
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    alone = not memory.ancestors
    if memory.slots is not None:
        keys, values = memory.slots.write(layer, key, value)
        out, lse = _attend(query, keys, values, scale, bias=memory.slots.block.bias_A11S, alone=alone)
    else:
        if memory.written is not None:
            memory.written.keys.append(key)
            memory.written.values.append(value)
        out, lse = _kernel(query, key, value, scale, None, causal=True, alone=alone)
    for block in memory.ancestors:
        more, more_lse = _attend(query, block.keys[layer], block.values[layer], scale, bias=block.bias_A11S)
        # One softmax over both: each part's share is its sum of exponentials in the sum of both.
        share = torch.sigmoid(more_lse - lse).to(out.dtype)
        out = torch.lerp(out, more, share[..., None])
        lse = torch.logaddexp(lse, more_lse)
    return out.transpose(1, 2).contiguous(), None


def _attend(
    q_BHLD: Tensor, k_AKSD: Tensor, v_AKSD: Tensor, scale: float, *, bias: Tensor | None, alone: bool = False
) -> tuple[Tensor, Tensor]:
    """Return every query's average over an ancestor, ``[B, H, L, D]``, and its log-sum-exp, ``[B, H, L]``.

    In memory, queries lie by row, token, head: those of the rows that share an ancestor are one long row by a view.
    """
    rows, heads, length, width = q_BHLD.shape
    shared, key_heads = k_AKSD.shape[:2]
    if length == 1 and rows == shared:
        # One token per row: the query heads of a key head take the place of tokens, so its keys are read once.
        packed = q_BHLD.reshape(rows, key_heads, heads // key_heads, width)
        out, lse = _kernel(packed, k_AKSD, v_AKSD, scale, bias, causal=False, alone=alone)
        return out.reshape(rows, heads, 1, width), lse.reshape(rows, heads, 1)
    long = q_BHLD.transpose(1, 2).reshape(shared, -1, heads, width).transpose(1, 2)
    out, lse = _kernel(long, k_AKSD, v_AKSD, scale, bias, causal=False, alone=alone)
    out = out.transpose(1, 2).reshape(rows, length, heads, width).transpose(1, 2)
    return out, lse.transpose(1, 2).reshape(rows, length, heads).transpose(1, 2)


def _kernel(
    query: Tensor, key: Tensor, value: Tensor, scale: float, bias: Tensor | None, *, causal: bool, alone: bool
) -> tuple[Tensor, Tensor]:
    """Attend, and return the log-sum-exp too, unless this part is `alone` (then it may be anything).

    Causal needs no mask for right padding: what may not be seen comes after what may not see it.
    """
    if query.device.type == "cpu":
        if query.shape[1] != key.shape[1] and not _takes_groups():
            group = query.shape[1] // key.shape[1]
            key, value = key.repeat_interleave(group, dim=1), value.repeat_interleave(group, dim=1)
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, causal, attn_mask=bias, scale=scale
        )
        return out, lse
    if alone:
        grouped = query.shape[1] != key.shape[1]
        out = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=bias, is_causal=causal, scale=scale, enable_gqa=grouped
        )
        return out, out[..., 0]
    return _spelled_out(query, key, value, scale, bias, causal=causal)


@functools.cache
def _takes_groups() -> bool:
    """Whether the kernel for CPUs takes fewer key heads than query heads (it does since some version of torch)."""
    query, key = torch.ones(1, 2, 2, 8), torch.ones(1, 1, 2, 8)
    try:
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, key, 0.0, True, scale=1.0)
    except RuntimeError:
        return False
    return True


def _spelled_out(
    query: Tensor, key: Tensor, value: Tensor, scale: float, bias: Tensor | None, *, causal: bool
) -> tuple[Tensor, Tensor]:
    """Attend by plain products, some queries at a time: for any device."""
    group = query.shape[1] // key.shape[1]
    if group > 1:
        key, value = key.repeat_interleave(group, dim=1), value.repeat_interleave(group, dim=1)
    rows, heads, length, _ = query.shape
    size = max(1, CHUNK // (rows * heads * key.shape[2]))
    outs, lses = [], []
    for start in range(0, length, size):
        scores = (query[:, :, start : start + size] @ key.transpose(-1, -2)).float() * scale
        if bias is not None:
            scores = scores + bias
        if causal:
            place = torch.arange(start, start + scores.shape[2], device=scores.device)
            scores = scores.masked_fill(place[:, None] < torch.arange(key.shape[2], device=scores.device), -torch.inf)
        lse = scores.logsumexp(-1)
        outs.append((scores - lse[..., None]).exp().to(value.dtype) @ value)
        lses.append(lse)
    return torch.cat(outs, dim=2), torch.cat(lses, dim=2)


AttentionInterface.register(NAME, attention_forward)
AttentionMaskInterface.register(NAME, sdpa_mask)
