"""Draw the next token of many rows at once, so that a row's draw depends on its own seed and logits alone.

Each row has a stream of uniform numbers from its seed, one per token, and a draw inverts the distribution function at
that number. The vocabulary is searched in two steps (which block of 256, which token in it), so no sort and no
cumulative sum over all of it is needed.

Shapes: B rows, V vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from cai.engines.base import Sampling

BLOCK = 256
"""Tokens that the first step of the search sums up."""

NUCLEUS = 512
"""Tokens sorted at first for top-p; more only where they hold too little."""

DRAWN_AHEAD = 64
"""Uniform numbers made at once."""


class Uniforms:
    """The stream of numbers in [0, 1) that a seed stands for: the same whatever else is in the batch."""

    def __init__(self, seed: int) -> None:
        """Start the stream; nothing is drawn before the first number is asked for."""
        self._generator = torch.Generator().manual_seed(seed)
        self._ahead: list[float] = []

    def next(self) -> float:
        """Return the next number."""
        if not self._ahead:
            block = torch.rand(DRAWN_AHEAD, generator=self._generator, dtype=torch.float64)
            self._ahead = block.flip(0).tolist()
        return self._ahead.pop()


def draw(logits_BV: Tensor, samplings: Sequence[Sampling], uniforms: Sequence[float]) -> Tensor:
    """Return one token per row ``[B]``; `uniforms` has a number for each (unused where the temperature is 0)."""
    kinds = [_kind(sampling) for sampling in samplings]
    if len(set(kinds)) == 1:
        return _draw(kinds[0], logits_BV, samplings, uniforms)
    tokens = torch.empty(len(kinds), dtype=torch.long, device=logits_BV.device)
    for kind in sorted(set(kinds)):
        rows = [row for row, other in enumerate(kinds) if other == kind]
        index = torch.tensor(rows, device=logits_BV.device)
        tokens[index] = _draw(kind, logits_BV[index], [samplings[row] for row in rows], [uniforms[row] for row in rows])
    return tokens


def _kind(sampling: Sampling) -> str:
    if sampling.temperature <= 0 or sampling.top_k == 1:
        return "greedy"
    return "whole" if sampling.top_p >= 1 and sampling.top_k <= 0 else "cut"


def _draw(kind: str, logits_BV: Tensor, samplings: Sequence[Sampling], uniforms: Sequence[float]) -> Tensor:
    if kind == "greedy":
        return logits_BV.argmax(-1)
    device = logits_BV.device
    number_B = torch.tensor(uniforms, dtype=torch.float64, device="cpu").to(device, _wide(device))
    if any(sampling.temperature != 1 for sampling in samplings):
        logits_BV = logits_BV / torch.tensor([sampling.temperature for sampling in samplings], device=device)[:, None]
    if kind == "whole":
        return _invert((logits_BV - logits_BV.amax(-1, keepdim=True)).exp_(), number_B)
    return _draw_cut(logits_BV, samplings, number_B)


def _draw_cut(logits_BV: Tensor, samplings: Sequence[Sampling], number_B: Tensor) -> Tensor:
    """Draw among the likeliest tokens only: first the top k, then the fewest of these that hold top-p."""
    vocabulary = logits_BV.shape[1]
    ks = [sampling.top_k if 0 < sampling.top_k < vocabulary else vocabulary for sampling in samplings]
    top_k = torch.tensor(ks, device=logits_BV.device)[:, None]
    top_p = torch.tensor([sampling.top_p for sampling in samplings], device=logits_BV.device)[:, None]
    total = logits_BV.logsumexp(-1, keepdim=True)
    size = min(vocabulary, max(NUCLEUS, *(k for k in ks if k < vocabulary), 0))
    while True:
        sorted_logits, tokens = logits_BV.topk(size)
        inside = torch.arange(size, device=logits_BV.device) < top_k
        sorted_logits = sorted_logits.masked_fill(~inside, -torch.inf)
        # Without a top k the mass beyond the sorted ones counts too.
        held = torch.where(top_k < vocabulary, sorted_logits.logsumexp(-1, keepdim=True), total)
        probs = (sorted_logits - held).exp()
        before = probs.cumsum(-1) - probs
        enough = (top_k <= size) | (before[:, -1:] + probs[:, -1:] >= top_p)
        if size == vocabulary or bool(enough.all()):
            break
        size = min(vocabulary, size * 8)
    kept = probs.masked_fill(before >= top_p, 0.0)
    place = _invert(kept, number_B)
    return tokens.gather(-1, place[:, None])[:, 0]


def _invert(weights_BV: Tensor, number_B: Tensor) -> Tensor:
    """Return where each row's cumulative weight first exceeds its number times the row's total."""
    rows, vocabulary = weights_BV.shape
    if vocabulary % BLOCK:
        weights_BV = torch.nn.functional.pad(weights_BV, (0, BLOCK - vocabulary % BLOCK))
    blocks = weights_BV.view(rows, -1, BLOCK)
    sums = blocks.sum(-1, dtype=torch.float32).to(number_B.dtype).cumsum(-1)
    goal = number_B[:, None] * sums[:, -1:]
    block = _first_above(sums, goal)
    before = (sums.gather(-1, block - 1 + (block == 0)) * (block > 0)).to(number_B.dtype)
    chosen = blocks.gather(1, block[:, :, None].expand(rows, 1, BLOCK))[:, 0].to(number_B.dtype).cumsum(-1)
    token = _first_above(chosen, goal - before)
    return (block * BLOCK + token)[:, 0]


def _first_above(cumulative: Tensor, goal: Tensor) -> Tensor:
    """Return the first place above the goal ``[B, 1]``; at most the last one that has any weight."""
    last = (cumulative < cumulative[:, -1:]).sum(-1, keepdim=True)
    return torch.minimum((cumulative <= goal).sum(-1, keepdim=True), last)


def _wide(device: torch.device) -> torch.dtype:
    """Return the widest float type that a device adds up (Apple's has no double)."""
    return torch.float32 if device.type == "mps" else torch.float64
