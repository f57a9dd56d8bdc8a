"""How fast this device does what training is made of: matrix products, attention, all else; each is tried for a moment.

Attention has a rate of its own: on a CPU in bfloat16 it is tens of times slower per operation than a product.
"""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

PROBE_S = 0.1
"""Seconds that each rate is measured for."""

STREAMED = (1 << 23, 1 << 26)
"""Numbers that operations are measured on, on a CPU and on a GPU: more than caches hold, as activations are."""


@dataclass(frozen=True)
class Rates:
    """What this device does in a second."""

    products: float
    """Floating-point operations of matrix products."""
    attention: float
    """Floating-point operations of attention, forward and backward, as if it were not causal."""
    others: float
    """Bytes that other operations read and write."""


def measured_rates(config: Any, tokens: int, row: int, *, bf16: bool, device: torch.device) -> Rates:
    """Return the rates in a model's shapes: `tokens` of a micro-batch, `row` of them that see each other."""
    text = config.get_text_config()
    width, inner = text.hidden_size, getattr(text, "intermediate_size", None) or 4 * text.hidden_size
    heads = text.num_attention_heads
    each = getattr(text, "head_dim", None) or width // heads
    most = (8192, 8192) if device.type == "cuda" else (1024, 2048)  # a product must not take long
    shape = (min(tokens, most[0]), min(width, most[1]), min(inner, most[1]))
    return _rates(*shape, (1, heads, min(max(2, row), 1024), each), bf16, device)


@functools.lru_cache(maxsize=8)
def _rates(
    tokens: int, width: int, inner: int, attended: tuple[int, int, int, int], bf16: bool, device: torch.device
) -> Rates:
    dtype = torch.bfloat16 if bf16 else torch.float32
    x, w = torch.ones(tokens, width, dtype=dtype, device=device), torch.ones(inner, width, dtype=dtype, device=device)
    y = torch.ones(STREAMED[device.type == "cuda"], device=device)
    q = torch.ones(attended, dtype=dtype, device=device, requires_grad=True)

    def attend() -> None:
        found = nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True)
        torch.autograd.grad(found.sum(), q)

    return Rates(
        products=_per_second(lambda: (x @ w.T, (x @ w.T).T @ x), device) * 6.0 * tokens * width * inner,
        attention=_per_second(attend, device) * 14.0 * q.numel() * attended[2],
        others=_per_second(lambda: nn.functional.silu(y) * y, device) * 5.0 * 4 * y.numel(),
    )


def _per_second(run: Callable[[], object], device: torch.device) -> float:
    """Return how often something can be done in a second, beside what else the machine does; once to warm up."""
    run()
    times, start, seconds = 0, time.perf_counter(), 0.0
    while seconds < PROBE_S:
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times, seconds = times + 1, time.perf_counter() - start
    return times / seconds
