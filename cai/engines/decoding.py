"""Write completions for many rows at once: rows leave when they stop, and waiting ones take their place.

A `Row` is one completion of one prompt. `Lanes` hold the keys and values of the rows that are being written, in one of
two ways (shared attention, or the model's own cache), and `Decoder` is the loop over them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from cai.engines.attention import Block, Memory, Slots
from cai.engines.base import Completion, Sampling
from cai.engines.network import Network, common_length, left_padded, right_padded
from cai.engines.render import Renderer
from cai.engines.sampling import Uniforms, draw
from cai.types import FinishReason

HELD = 96
"""A shared prefix of at least this many tokens is held once; the copies of a shorter one cost less than merging."""

SHARED = 8
"""Leading tokens in common that are worth a pass of their own."""


@dataclass(eq=False)
class Row:
    """One completion: its prompt, how it is drawn, and what has been written so far."""

    owner: int
    """Which request of the window it belongs to."""
    ids: list[int]
    sampling: Sampling
    seed: int
    limit: int
    """New tokens that the request and the context allow."""
    logprobs_wanted: bool
    turn: bool
    """Whether the completion begins a turn (see `Renderer.answer_ids`)."""
    stop: tuple[str, ...]
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    completion: Completion | None = None

    def __post_init__(self) -> None:
        """Start the stream of numbers, and look back far enough to see any stop string whole."""
        self.uniforms = Uniforms(self.seed)
        self._tail = 4 * max((len(text) for text in self.stop), default=0) + 4

    def restart(self) -> None:
        """Forget what was written, for a second try; the same seed writes the same again."""
        self.tokens, self.logprobs, self.uniforms = [], [], Uniforms(self.seed)

    def accept(self, token: int, logprob: float | None, renderer: Renderer) -> bool:
        """Add a token, and say whether the row has ended."""
        self.tokens.append(token)
        if logprob is not None:
            self.logprobs.append(logprob)
        if token in renderer.end_ids:
            self._finish(renderer.answer_text(self.tokens[:-1], turn=self.turn), "stop")
        elif self.stop and self._stopped(renderer):
            pass
        elif len(self.tokens) >= self.limit:
            self._finish(renderer.answer_text(self.tokens, turn=self.turn), "length")
        return self.completion is not None

    def _stopped(self, renderer: Renderer) -> bool:
        """End the row before the first stop string, if the text has one now."""
        tail = renderer.decode(self.tokens[-self._tail :])
        if not any(stop in tail for stop in self.stop):
            return False
        text = renderer.decode(self.tokens)
        start = len(text) - len(renderer.answer_text(self.tokens, turn=self.turn))
        places = [place for stop in self.stop if (place := text.find(stop, start)) >= 0]
        if not places:
            return False
        count = len(self.tokens)
        while count and len(renderer.decode(self.tokens[:count])) > min(places):
            count -= 1
        self.tokens, self.logprobs = self.tokens[:count], self.logprobs[:count]
        self._finish(text[start : min(places)], "stop")
        return True

    def _finish(self, text: str, reason: FinishReason) -> None:
        logprobs = tuple(self.logprobs) if self.logprobs_wanted else None
        self.completion = Completion(text=text, token_ids=tuple(self.tokens), finish_reason=reason, logprobs=logprobs)


class Lanes(Protocol):
    """Where rows in the making keep their keys and values."""

    joinable: bool
    """Whether rows may start while others are being written."""

    def start(self, prompts: Sequence[list[int]]) -> Tensor:
        """Read the prompts of new rows, which come after the present ones; return their logits ``[n, V]``."""
        ...

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Read the newest token of every row; return the logits after it ``[B, V]``."""
        ...

    def keep(self, order: list[int]) -> None:
        """Keep these rows, in this order."""
        ...


class SharedLanes:
    """Rows in slots; what all prompts begin with is computed once."""

    joinable = True

    def __init__(
        self, network: Network, prompts: Sequence[list[int]], capacity: int, batch_tokens: int, pad: int
    ) -> None:
        """Compute what the prompts (of all rows to come) begin with."""
        self._network, self._pad, self._batch_tokens = network, pad, batch_tokens
        common = min(common_length(prompts), min(map(len, prompts)) - 1)
        self._common = common if common >= SHARED and len(prompts) > 1 else 0
        self._prefix = prefix_block(network, prompts[0][: self._common]) if self._common else None
        held = self._prefix is not None and self._common >= HELD
        self._ancestors = [self._prefix] if held and self._prefix is not None else []
        self._offset = self._common if held else 0
        self._slots = Slots(capacity)

    def start(self, prompts: Sequence[list[int]]) -> Tensor:
        """Read the prompts, those of similar length together, and a prompt that comes several times once."""
        logits: list[Tensor] = []
        batch: list[list[int]] = []
        copies: list[int] = []
        for prompt in prompts:
            own = prompt[self._common :]
            if batch and own == batch[-1]:
                copies.append(len(batch) - 1)
                continue
            if batch and (len(batch) + 1) * max(len(own), len(batch[0])) > self._batch_tokens:
                logits.append(self._read(batch, copies))
                batch, copies = [], []
            batch.append(own)
            copies.append(len(batch) - 1)
        logits.append(self._read(batch, copies))
        return torch.cat(logits)

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Read one token per row."""
        device = self._network.device
        positions = self._slots.begin_step()[:, None] + self._offset
        ids = torch.tensor(tokens, device=device)[:, None]
        hidden = self._network.hidden(ids, positions, Memory(ancestors=self._ancestors, slots=self._slots))
        return self._network.logits(hidden[:, 0])

    def keep(self, order: list[int]) -> None:
        """Move the last rows into the places of those that left."""
        self._slots.keep(order)

    def _read(self, batch: list[list[int]], copies: list[int]) -> Tensor:
        """Read different prompts, put their keys into slots (a slot per copy), and return the logits per copy."""
        network = self._network
        ids = right_padded(batch, self._pad, network.device)
        positions = torch.arange(self._common, self._common + ids.shape[1], device=network.device)
        own = Block()
        ancestors = [self._prefix] if self._prefix is not None else []
        hidden = network.hidden(ids, positions[None].expand_as(ids), Memory(ancestors=ancestors, written=own))
        last = torch.tensor([len(row) - 1 for row in batch], device=network.device)
        logits = network.logits(hidden[torch.arange(len(batch), device=network.device), last])
        index = torch.tensor(copies, device=network.device)
        parts: list[tuple[Block, Tensor | None]] = [(own, index)]
        before = 0
        if self._prefix is not None and not self._offset:
            parts, before = [(self._prefix, None), (own, index)], self._common
        self._slots.add(parts, before + ids.shape[1], [before + len(batch[copy]) for copy in copies])
        return logits[index]


class PlainLanes:
    """Rows padded on the left, in the model's own cache: for models that shared attention can't run."""

    joinable = False

    def __init__(self, network: Network, pad: int) -> None:
        """Start without rows."""
        self._network, self._pad = network, pad

    def start(self, prompts: Sequence[list[int]]) -> Tensor:
        """Read the prompts of a new batch."""
        self._cache = self._network.cache()
        ids, self._mask = left_padded(prompts, self._pad, self._network.device)
        return self._logits(ids)

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Read one token per row."""
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), 1)], dim=1)
        return self._logits(torch.tensor(tokens, device=self._network.device)[:, None])

    def keep(self, order: list[int]) -> None:
        """Drop the rows that left."""
        if not order:
            return
        index = torch.tensor(order, device=self._network.device)
        self._cache.batch_select_indices(index)
        self._mask = self._mask[index]

    def _logits(self, ids: Tensor) -> Tensor:
        logits: Tensor = self._network.plain(ids, self._mask, cache=self._cache, last=1).logits
        return logits[:, -1].float()


class Decoder:
    """The loop: let rows in, read a token of each, draw the next, let those go that have ended."""

    def __init__(self, rows: Sequence[Row], lanes: Lanes, renderer: Renderer, capacity: int) -> None:
        """Queue the rows: those that may write most first, so that the last ones to end are few."""
        self._waiting = sorted(rows, key=lambda row: (row.limit, len(row.ids)))
        self._lanes, self._renderer, self._capacity = lanes, renderer, capacity
        self._rows: list[Row] = []
        self._ends = sorted(renderer.end_ids)

    @property
    def done(self) -> bool:
        """Whether every row has ended."""
        return not self._waiting and not self._rows

    def advance(self, steps: int) -> list[Row]:
        """Write up to `steps` tokens in every row, and return the rows that ended."""
        ended: list[Row] = []
        for _ in range(steps):
            ended += self._admit()
            if self._rows:
                ended += self._accept(0, self._lanes.step([row.tokens[-1] for row in self._rows]))
        return ended

    def _admit(self) -> list[Row]:
        """Let waiting rows in when enough places are free to make reading their prompts worth a pass."""
        free = self._capacity - len(self._rows)
        if not self._waiting or (self._rows and (not self._lanes.joinable or free < max(1, self._capacity // 8))):
            return []
        new = sorted(
            (self._waiting.pop() for _ in range(min(free, len(self._waiting)))), key=lambda row: (len(row.ids), row.ids)
        )
        first = len(self._rows)
        logits = self._lanes.start([row.ids for row in new])
        self._rows += new
        return self._accept(first, logits)

    def _accept(self, first: int, logits_BV: Tensor) -> list[Row]:
        """Draw a token for each row from `first` on, and let the rows go that end with it."""
        rows = self._rows[first:]
        total = logits_BV.logsumexp(-1) if any(row.logprobs_wanted for row in rows) else None
        early = [place for place, row in enumerate(rows) if len(row.tokens) < row.sampling.min_new_tokens]
        if early:
            device = logits_BV.device
            logits_BV[torch.tensor(early, device=device)[:, None], torch.tensor(self._ends, device=device)] = -torch.inf
        numbers = [row.uniforms.next() if row.sampling.temperature > 0 else 0.0 for row in rows]
        drawn = draw(logits_BV, [row.sampling for row in rows], numbers)
        logprobs: Sequence[float | None] = [None] * len(rows)
        if total is not None:
            logprobs = (logits_BV.gather(-1, drawn[:, None])[:, 0] - total).tolist()
        ended = [
            place
            for place, (row, token, logprob) in enumerate(zip(rows, drawn.tolist(), logprobs, strict=True), first)
            if row.accept(token, logprob if row.logprobs_wanted else None, self._renderer)
        ]
        return self._let_go(ended)

    def _let_go(self, places: list[int]) -> list[Row]:
        """Take rows out; the last ones move into their places."""
        if not places:
            return []
        gone = [self._rows[place] for place in places]
        order = list(range(len(self._rows)))
        for place in reversed(places):
            order[place] = order[-1]
            order.pop()
        self._rows = [self._rows[place] for place in order]
        self._lanes.keep(order)
        return gone


def prefix_block(network: Network, ids: Sequence[int]) -> Block:
    """Return the keys and values of what many prompts begin with."""
    tensor = torch.tensor([list(ids)], device=network.device)
    positions = torch.arange(len(ids), device=network.device)[None]
    block = Block()
    network.hidden(tensor, positions, Memory(written=block))
    return block
