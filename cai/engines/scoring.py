"""Score continuations: the prompt is computed once for all its candidates, what prompts share once for all of them.

The first token of every candidate is predicted by the prompt's last position, so candidates of one token (a choice
between A and B) cost nothing beyond the prompt. Longer ones are rows of a second pass that look back at the prompt's
keys and values. Logits over the vocabulary are computed for the candidates' positions only.

Shapes: R requests, C candidates of each, L tokens of a row.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cai.engines.attention import Block, Memory
from cai.engines.decoding import SHARED, prefix_block
from cai.engines.network import Network, common_length, left_padded, right_padded, target_logprobs


@dataclass(eq=False)
class Item:
    """One request to score, in ids."""

    owner: int
    prompt: list[int]
    candidates: list[list[int]]

    @property
    def cost(self) -> int:
        """Tokens to read."""
        return len(self.prompt) + sum(map(len, self.candidates))


class Scorer:
    """Scores items that may begin alike."""

    def __init__(self, network: Network, items: Sequence[Item], batch_tokens: int, pad: int) -> None:
        """Compute what all prompts begin with."""
        self._network, self._batch_tokens, self._pad = network, batch_tokens, pad
        prompts = [item.prompt for item in items]
        common = min(common_length(prompts), min(map(len, prompts)) - 1)
        self._common = common if network.shared and common >= SHARED and len(items) > 1 else 0
        with network.inference():
            self._ancestors = [prefix_block(network, prompts[0][: self._common])] if self._common else []

    def batches(self, items: Sequence[Item]) -> Iterator[list[Item]]:
        """Yield items of about the same length and the same number of candidates, as many as a pass should read."""
        batch: list[Item] = []
        longest = 0
        for item in sorted(items, key=lambda item: (len(item.candidates), item.cost, item.owner)):
            longest = max(longest, item.cost - self._common)
            full = (len(batch) + 1) * longest > self._batch_tokens
            if batch and (full or len(item.candidates) != len(batch[0].candidates)):
                yield batch
                batch, longest = [], item.cost - self._common
            batch.append(item)
        if batch:
            yield batch

    def logprobs(self, batch: Sequence[Item]) -> list[list[list[float]]]:
        """Return the log-probability of each token of each candidate of each item."""
        if not self._network.shared:
            return self._plain_logprobs(batch)
        if len(batch[0].candidates) == 1:
            return [[logprobs] for logprobs in self._single(batch)]
        prompts, last_RH = self._read_prompts(batch)
        firsts = self._firsts(batch, last_RH)
        rows = [candidate[:-1] for item in batch for candidate in item.candidates]
        if not any(rows):
            return firsts
        hidden = self._network.hidden(*self._rows(batch, rows), Memory(ancestors=[*self._ancestors, prompts]))
        places = [(row, place) for row, ids in enumerate(rows) for place in range(len(ids))]
        targets = [token for item in batch for candidate in item.candidates for token in candidate[1:]]
        rest = iter(self._at(hidden, places, targets))
        return [
            [
                first + [next(rest) for _ in candidate[1:]]
                for first, candidate in zip(scores, item.candidates, strict=True)
            ]
            for scores, item in zip(firsts, batch, strict=True)
        ]

    def states(self, batch: Sequence[Item], layers: tuple[int, ...]) -> list[list[Tensor]]:
        """Return each candidate's mean hidden state at the layers, ``[layers, hidden]`` in float32."""
        if not self._network.shared:
            return self._plain_states(batch, layers)
        prompts, _ = self._read_prompts(batch)
        rows = [candidate for item in batch for candidate in item.candidates]
        memory = Memory(ancestors=[*self._ancestors, prompts])
        hidden = self._network.all_hidden(*self._rows(batch, rows), memory)
        means = iter(
            torch.stack([hidden[layer][row, : len(ids)].float().mean(0) for layer in layers]).cpu()
            for row, ids in enumerate(rows)
        )
        return [[next(means) for _ in item.candidates] for item in batch]

    def _single(self, batch: Sequence[Item]) -> list[list[float]]:
        """Score items of one candidate each, in one pass."""
        rows = [(item.prompt + item.candidates[0][:-1])[self._common :] for item in batch]
        ids = right_padded(rows, self._pad, self._network.device)
        hidden = self._network.hidden(ids, self._positions(ids), Memory(ancestors=self._ancestors))
        starts = [len(item.prompt) - self._common - 1 for item in batch]
        counts = [len(item.candidates[0]) for item in batch]
        places = [
            (row, start + place)
            for row, (start, count) in enumerate(zip(starts, counts, strict=True))
            for place in range(count)
        ]
        scores = iter(self._at(hidden, places, [token for item in batch for token in item.candidates[0]]))
        return [[next(scores) for _ in range(count)] for count in counts]

    def _read_prompts(self, batch: Sequence[Item]) -> tuple[Block, Tensor]:
        """Return the keys and values of the prompts, padding hidden, and the hidden state at the end of each."""
        rows = [item.prompt[self._common :] for item in batch]
        ids = right_padded(rows, self._pad, self._network.device)
        block = Block()
        memory = Memory(ancestors=self._ancestors, written=block)
        hidden = self._network.hidden(ids, self._positions(ids), memory)
        lengths = torch.tensor([len(row) for row in rows], device=ids.device)
        beyond = torch.arange(ids.shape[1], device=ids.device) >= lengths[:, None]
        if bool(beyond.any()):
            bias = torch.zeros(beyond.shape, dtype=block.keys[0].dtype, device=ids.device)
            block.bias_A11S = bias.masked_fill_(beyond, -torch.inf)[:, None, None]
        return block, hidden[torch.arange(len(rows), device=ids.device), lengths - 1]

    def _firsts(self, batch: Sequence[Item], last_RH: Tensor) -> list[list[list[float]]]:
        """Return the log-probability of each candidate's first token (nothing for an empty candidate)."""
        owners = [row for row, item in enumerate(batch) for candidate in item.candidates if candidate]
        targets = [candidate[0] for item in batch for candidate in item.candidates if candidate]
        index, target = torch.tensor([owners, targets], dtype=torch.long, device=last_RH.device)
        values = iter(self._network.logprobs(last_RH, index, target).tolist())
        return [[[next(values)] if candidate else [] for candidate in item.candidates] for item in batch]

    def _rows(self, batch: Sequence[Item], rows: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
        """Return the ids and positions of rows that come after the prompts."""
        ids = right_padded([row or [self._pad] for row in rows], self._pad, self._network.device)
        starts = torch.tensor([len(item.prompt) for item in batch for _ in item.candidates], device=ids.device)
        return ids, starts[:, None] + torch.arange(ids.shape[1], device=ids.device)

    def _positions(self, ids: Tensor) -> Tensor:
        places = torch.arange(self._common, self._common + ids.shape[1], device=ids.device)
        return places[None].expand_as(ids)

    def _at(self, hidden: Tensor, places: Sequence[tuple[int, int]], targets: Sequence[int]) -> list[float]:
        """Return the log-probabilities of targets after the hidden states at (row, place)."""
        if not targets:
            return []
        row, place = torch.tensor(places, device=hidden.device).T
        target = torch.tensor(targets, device=hidden.device)
        rows = torch.arange(len(target), device=hidden.device)
        values: list[float] = self._network.logprobs(hidden[row, place], rows, target).tolist()
        return values

    def _plain_logprobs(self, batch: Sequence[Item]) -> list[list[list[float]]]:
        """Score by the model's own forward, a row per candidate, padded on the left so that they end together."""
        scores: list[list[list[float]]] = []
        for item in batch:
            ids, mask = left_padded(
                [item.prompt + candidate for candidate in item.candidates], self._pad, self._network.device
            )
            last = max(map(len, item.candidates)) + 1
            logits = self._network.plain(ids, mask, last=last).logits.float()
            scores.append([])
            for row, candidate in enumerate(item.candidates):
                count = len(candidate)
                if not count:
                    scores[-1].append([])
                    continue
                target = torch.tensor(candidate, device=logits.device)
                scores[-1].append(target_logprobs(logits[row, -count - 1 : -1], target).tolist())
        return scores

    def _plain_states(self, batch: Sequence[Item], layers: tuple[int, ...]) -> list[list[Tensor]]:
        """Return the mean states by the model's own forward."""
        states: list[list[Tensor]] = []
        for item in batch:
            ids, mask = left_padded(
                [item.prompt + candidate for candidate in item.candidates], self._pad, self._network.device
            )
            hidden = self._network.plain(ids, mask, last=1, states=True).hidden_states
            states.append(
                [
                    torch.stack([hidden[layer][row, -len(candidate) :].float().mean(0) for layer in layers]).cpu()
                    for row, candidate in enumerate(item.candidates)
                ]
            )
        return states
