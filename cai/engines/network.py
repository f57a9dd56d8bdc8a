"""A causal language model as the engine uses it: hidden states of rows, and logits of the positions that matter.

Two ways to run it. **Shared**: with `cai.engines.attention`, which computes a prefix once and keeps rows in slots.
**Plain**: the model's own forward and cache, for models that the shared way can't express. Which one a model gets is
found out by trying: a few tokens are run both ways, and anything but the same logits means plain.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from cai.engines import attention
from cai.engines.attention import Memory

SCALED_LOGITS = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier", "logits_soft_cap")
"""Config fields of models whose logits are more than the output layer's product."""

HEAD_ROWS = 512
"""Positions whose logits over the vocabulary are held at once."""


class Network:
    """The model behind an engine, whether the engine owns it or a trainer does."""

    def __init__(self, model: torch.nn.Module) -> None:
        """Look at the model; its weights stay where they are and are never copied."""
        self.model = model
        base = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
        self.causal = cast(PreTrainedModel, base)
        self.config: Any = self.causal.config.get_text_config()
        self.context: int = getattr(self.config, "max_position_embeddings", None) or 1 << 30
        self._shared: bool | None = None

    @property
    def device(self) -> torch.device:
        """Where the ids go."""
        return next(self.causal.parameters()).device

    @property
    def shared(self) -> bool:
        """Whether the model runs right with shared attention."""
        if self._shared is None:
            self._shared = True  # as it is tried
            with self.inference():
                self._shared = self._try_shared()
        return self._shared

    @contextlib.contextmanager
    def inference(self) -> Iterator[None]:
        """Evaluate without gradients, and leave the model as it was: a trainer may own it.

        Never held over a yield to the engine's caller, who may train in between.
        """
        training = [module for module in self.model.modules() if module.training]
        before = self.config._attn_implementation
        switch = self.shared and before != attention.NAME
        try:
            for module in training:
                module.training = False
            if switch:
                self.causal.set_attn_implementation(attention.NAME)
            with torch.no_grad():
                yield
        finally:
            for module in training:
                module.training = True
            if switch:
                self.causal.set_attn_implementation(before)

    def keep_shared(self) -> None:
        """Switch to shared attention for good, which saves the switching: for a model that nobody else uses."""
        if self.shared:
            self.causal.set_attn_implementation(attention.NAME)

    def hidden(self, ids_BL: Tensor, positions_BL: Tensor, memory: Memory) -> Tensor:
        """Return the last layer's hidden states ``[B, L, hidden]`` (shared way)."""
        return cast(Tensor, self._run(ids_BL, positions_BL, memory).last_hidden_state)

    def all_hidden(self, ids_BL: Tensor, positions_BL: Tensor, memory: Memory) -> Sequence[Tensor]:
        """Return the hidden states after the embedding and after each layer (shared way)."""
        return cast(Sequence[Tensor], self._run(ids_BL, positions_BL, memory, output_hidden_states=True).hidden_states)

    @property
    def _head(self) -> Any:
        """The output layer; asked for anew each time, since a trainer may replace it."""
        causal: Any = self.causal
        return causal.get_output_embeddings()

    def logits(self, hidden_NH: Tensor) -> Tensor:
        """Return the logits ``[N, vocabulary]`` of hidden states, in float32 (shared way)."""
        return cast(Tensor, self._head(hidden_NH)).float()

    def logprobs(self, hidden_NH: Tensor, rows_M: Tensor, targets_M: Tensor) -> Tensor:
        """Return the log-probability ``[M]`` of each target after the hidden state of its row (shared way).

        A target's own logit is computed in float32: a bfloat16 one is off by up to 0.06, which is much between the two
        answers of a judge.
        """
        head = self._head
        totals, picked = [], []
        for start in range(0, len(hidden_NH), HEAD_ROWS):
            logits = self.logits(hidden_NH[start : start + HEAD_ROWS])
            totals.append(logits.logsumexp(-1))
            here = (rows_M >= start) & (rows_M < start + HEAD_ROWS)
            picked.append((here, logits[rows_M[here] - start, targets_M[here]]))
        if type(head) is torch.nn.Linear and head.weight.dtype != torch.float32:
            chosen = (hidden_NH[rows_M].float() * head.weight[targets_M].float()).sum(-1)
            chosen = chosen if head.bias is None else chosen + head.bias[targets_M].float()
        else:
            chosen = torch.zeros(len(rows_M), device=hidden_NH.device)
            for here, values in picked:
                chosen[here] = values
        return chosen - torch.cat(totals)[rows_M]

    def plain(
        self, ids_BL: Tensor, mask_BS: Tensor, *, cache: DynamicCache | None = None, last: int = 0, states: bool = False
    ) -> Any:
        """Run the model's own forward over rows with padding where the mask is 0; logits of the `last` positions only.

        The mask covers the cached tokens too; `last` 0 means all positions.
        """
        positions = (mask_BS.cumsum(-1) - 1).clamp(min=0)[:, -ids_BL.shape[1] :]
        return self.causal(
            input_ids=ids_BL,
            attention_mask=mask_BS,
            position_ids=positions,
            past_key_values=cache,
            use_cache=cache is not None,
            logits_to_keep=last,
            output_hidden_states=states,
        )

    def cache(self) -> DynamicCache:
        """Return an empty cache of the kind that the model wants."""
        return DynamicCache(config=self.causal.config)

    def _run(self, ids_BL: Tensor, positions_BL: Tensor, memory: Memory, **kwargs: Any) -> Any:
        return self.causal.base_model(
            input_ids=ids_BL,
            # Four dimensions mean a finished mask: none is built, and shared attention reads none.
            attention_mask=ids_BL.new_empty(1, 1, 1, 1),
            position_ids=positions_BL,
            use_cache=False,
            memory=memory,
            **kwargs,
        )

    def _try_shared(self) -> bool:
        """Run a few tokens both ways, half of them as a shared prefix, and compare the logits."""
        if any(getattr(self.config, field, None) not in (None, 1, 1.0, False) for field in SCALED_LOGITS):
            return False
        if any(cache_layer.is_sliding for cache_layer in self.cache().layers if hasattr(cache_layer, "is_sliding")):
            return False
        ids = torch.arange(8, device=self.device)[None] * (self.config.vocab_size // 8)
        try:
            prefix = attention.Block()
            self.hidden(ids[:, :4], torch.arange(4, device=self.device)[None], Memory(written=prefix))
            positions = torch.arange(4, 8, device=self.device)[None]
            ours = self.logits(self.hidden(ids[:, 4:], positions, Memory(ancestors=[prefix]))[0])
            if len(prefix.keys) != self.config.num_hidden_layers:
                return False
            theirs = self.plain(ids, torch.ones_like(ids)).logits[0, 4:].float()
        except (NotImplementedError, TypeError, ValueError, AttributeError, KeyError, RuntimeError):
            return False
        # By mean square: single logits of half-precision models differ by a lot between two ways that are both right.
        tolerance = 1e-3 if self.causal.dtype == torch.float32 else 0.2
        return bool((ours - theirs).square().mean().sqrt() < tolerance * theirs.std().clamp(min=1e-6))


def target_logprobs(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    """Return the log-probability of one target per row, without a second tensor as large as the vocabulary."""
    return logits_NV.gather(-1, targets_N[:, None])[:, 0] - logits_NV.logsumexp(-1)


def right_padded(rows: Sequence[Sequence[int]], pad: int, device: torch.device) -> Tensor:
    """Return rows of ids as ``[B, L]``, padded at the end."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows], device=device)


def left_padded(rows: Sequence[Sequence[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return rows of ids padded at the beginning, and the mask that is 0 there."""
    longest = max(map(len, rows))
    ids = torch.tensor([[*[pad] * (longest - len(row)), *row] for row in rows], device=device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask


def common_length(rows: Sequence[list[int]]) -> int:
    """Return how many leading ids all rows have in common."""
    low, high = min(rows), max(rows)
    for place, (one, other) in enumerate(zip(low, high, strict=False)):
        if one != other:
            return place
    return min(len(low), len(high))
