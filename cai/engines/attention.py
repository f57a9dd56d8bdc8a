"""Attention over keys and values that several rows of a batch share, without a copy per row.

A row attends to its **ancestors** (a shared prefix; its own prompt; what it has written so far) and to itself. Each is
attended to alone, and the parts are merged by their log-sum-exp, which gives what one softmax over all of them would.
An ancestor that many rows share is read once: the rows' queries are laid side by side.

It plugs into Transformers through its `AttentionInterface`: models get it by `attn_implementation` and hand the
keyword `memory` through to it. Without that keyword it is plain SDPA. It refuses what it can't do (sliding windows,
soft-capped scores), which `cai.engines.network` takes as the sign to work without it.

Shapes: B rows, L tokens of a row, S tokens of an ancestor, H query heads, K key heads, D of one head.
"""

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
    parts: list[tuple[Tensor, Tensor]] = []
    if memory.slots is not None:
        keys, values = memory.slots.write(layer, key, value)
        parts.append(_attend(query, keys, values, scale, bias=memory.slots.block.bias_A11S))
    else:
        if memory.written is not None:
            memory.written.keys.append(key)
            memory.written.values.append(value)
        parts.append(_attend_causally(query, key, value, scale))
    for block in memory.ancestors:
        parts.append(_attend(query, block.keys[layer], block.values[layer], scale, bias=block.bias_A11S))
    return _merge(parts).to(query.dtype).transpose(1, 2).contiguous(), None


def _attend(
    q_BHLD: Tensor, k_AKSD: Tensor, v_AKSD: Tensor, scale: float, *, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return every query's average over an ancestor, ``[B, H, L, D]``, and its log-sum-exp, ``[B, H, L]``."""
    rows, heads, length, width = q_BHLD.shape
    shared, key_heads = k_AKSD.shape[:2]
    fan, group = rows // shared, heads // key_heads
    if fan == 1:
        packed = q_BHLD.reshape(shared, key_heads, group * length, width)
        out, lse = _kernel(packed, k_AKSD, v_AKSD, scale, bias, causal=False)
        return out.reshape(q_BHLD.shape), lse.reshape(rows, heads, length)
    split = q_BHLD.reshape(shared, fan, key_heads, group, length, width)
    packed = split.transpose(1, 2).reshape(shared, key_heads, fan * group * length, width)
    out, lse = _kernel(packed, k_AKSD, v_AKSD, scale, bias, causal=False)
    out = out.reshape(shared, key_heads, fan, group, length, width).transpose(1, 2)
    lse = lse.reshape(shared, key_heads, fan, group, length).transpose(1, 2)
    return out.reshape(q_BHLD.shape), lse.reshape(rows, heads, length)


def _attend_causally(q_BHLD: Tensor, k_BKLD: Tensor, v_BKLD: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Return the same for rows over themselves. Right padding needs no mask: it comes after what may see it."""
    group = q_BHLD.shape[1] // k_BKLD.shape[1]
    if group > 1:
        k_BKLD, v_BKLD = k_BKLD.repeat_interleave(group, dim=1), v_BKLD.repeat_interleave(group, dim=1)
    return _kernel(q_BHLD, k_BKLD, v_BKLD, scale, None, causal=True)


def _kernel(
    query: Tensor, key: Tensor, value: Tensor, scale: float, bias: Tensor | None, *, causal: bool
) -> tuple[Tensor, Tensor]:
    """Attend with as many key heads as query heads, and return the log-sum-exp too."""
    if query.device.type == "cpu":
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, causal, attn_mask=bias, scale=scale
        )
        return out, lse
    return _spelled_out(query, key, value, scale, bias, causal=causal)


def _spelled_out(
    query: Tensor, key: Tensor, value: Tensor, scale: float, bias: Tensor | None, *, causal: bool
) -> tuple[Tensor, Tensor]:
    """Attend by plain products, some queries at a time: for any device."""
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


def _merge(parts: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Return the attention over all parts together, from each part's own and its log-sum-exp."""
    if len(parts) == 1:
        return parts[0][0]
    lses = torch.stack([lse for _, lse in parts])
    weights = lses.float().softmax(0)
    merged = parts[0][0] * weights[0][..., None]
    for (out, _), weight in zip(parts[1:], weights[1:], strict=True):
        merged = torch.addcmul(merged, out, weight[..., None])
    return merged


AttentionInterface.register(NAME, attention_forward)
AttentionMaskInterface.register(NAME, sdpa_mask)
