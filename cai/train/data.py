"""Rows into ids: rendered by the one renderer, checked before the first step, in the order they are trained on."""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cai.engines.render import Renderer
from cai.errors import InputError, Problem
from cai.records.splits import said
from cai.train.checks import Item, measure_chats, measure_pairs, rows_of
from cai.train.packing import Row


@dataclass(frozen=True)
class Example:
    """A prompt and an answer as ids, the end of turn among the answer's; `name` says which row it is in messages."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    name: str

    def __len__(self) -> int:
        """Return the number of tokens."""
        return len(self.prompt) + len(self.answer)

    @property
    def row(self) -> Row:
        """The ids of the prompt, and of the one answer."""
        return self.prompt, (self.answer,)


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt; `target` is the probability that `chosen` is the better one.

    Both have the same ids as prompt, however it was cut; `key` tells the prompt by all that the person says in it, form
    aside (`cai.records.splits`).
    """

    chosen: Example
    rejected: Example
    target: float
    source: str
    key: str
    head: int = 0
    """Which score of a preference model it teaches, of those with several."""

    def __len__(self) -> int:
        """Return the number of tokens, the prompt's counted once."""
        return len(self.chosen) + len(self.rejected.answer)

    @property
    def row(self) -> Row:
        """The ids of the prompt, and of both answers."""
        return self.chosen.prompt, (self.chosen.answer, self.rejected.answer)


def load_chats(paths: Sequence[Path], renderer: Renderer, *, max_length: int) -> tuple[list[Example], Counter[str]]:
    """Return the examples of files of `messages`, and how many rows were dropped for which reason.

    Raises InputError naming every row that is not a dialogue ending with the assistant, or when nothing is left.
    """
    return chats_of(measure_chats(rows_of(paths), renderer), paths, max_length=max_length)


def chats_of(items: Sequence[Item], paths: Sequence[Path], *, max_length: int) -> tuple[list[Example], Counter[str]]:
    """Return the examples of measured rows, and the drops by reason; raises InputError when nothing is left."""
    examples: list[Example] = []
    dropped: Counter[str] = Counter()
    for item in items:
        found = _examples(item, max_length)
        if isinstance(found, str):
            dropped[found] += 1
        else:
            examples += found
    _check(examples, paths, dropped)
    return examples, dropped


def load_pairs(
    paths: Sequence[Path],
    renderer: Renderer,
    *,
    max_length: int,
    principle: Callable[[dict[str, Any]], str] | None = None,
    head: Callable[[str, dict[str, Any]], int] | None = None,
) -> tuple[list[Pair], Counter[str]]:
    """Return the pairs of files of `prompt`, `chosen`, `rejected` (and `chosen_prob`), and the drops by reason.

    Without `prompt`, `chosen` and `rejected` are whole dialogues (hh-rlhf's form) that share their beginning. A journal
    of preferences gives the rows that its export has. `principle` gives a row's principle to a model that reads it,
    `head` the score that a row teaches. Raises InputError naming every row that is none of these, or when nothing is
    left.
    """
    items, dropped = measure_pairs(rows_of(paths), renderer, principle, head)
    return pairs_of(items, paths, dropped, max_length=max_length)


def pairs_of(
    items: Sequence[Item], paths: Sequence[Path], dropped: Counter[str], *, max_length: int
) -> tuple[list[Pair], Counter[str]]:
    """Return the pairs of measured rows, and the drops by reason, those given among them.

    Raises InputError when nothing is left.
    """
    pairs: list[Pair] = []
    dropped = Counter(dropped)
    for item in items:
        same = item.ids[1] == item.ids[2]  # also texts that differ in what the renderer takes off
        found = "chosen equals rejected" if same else _examples(item, max_length)
        if isinstance(found, str):
            dropped[found] += 1
        else:
            pairs.append(Pair(found[0], found[1], item.target, item.source, said(item.prompt), item.head))
    _check(pairs, paths, dropped)
    return pairs, dropped


def _check(kept: Sequence[object], paths: Sequence[Path], dropped: Counter[str]) -> None:
    if not kept:
        why = ", ".join(f"{count} {reason}" for reason, count in dropped.items()) or "the files hold none"
        names = ", ".join(map(str, paths)) or "data"
        raise InputError(Problem(names, 0, 0, f"no rows to train on ({why})", "give rows with answers to learn from"))


def _examples(item: Item, max_length: int) -> list[Example] | str:
    """Return an example per answer, or the reason why there are none; the longest says where the prompt is cut."""
    if not all(answer.strip() for answer in item.answers):
        return "empty answer"
    start, *ends = item.ids
    room = max_length - item.least
    if room < 1:
        return "answer longer than max_length"
    prompt = start[: item.kept] + start[item.kept :][-room:]
    return [Example(prompt, end, item.place) for end in ends]


def training_order(lengths: Sequence[int], *, epochs: int, batch_size: int, seed: int) -> list[int]:
    """Return which row comes when, over all epochs: shuffled afresh each epoch, rows of like length in one batch.

    The order is decided here and not by a sampler, so it is the same for any number of processes and after a resume.
    An incomplete last batch is left out, unless it is the only one.
    """
    generator = random.Random(seed)
    order: list[int] = []
    for _ in range(epochs):
        rows = generator.sample(range(len(lengths)), len(lengths))
        pool = batch_size * 16
        for start in range(0, len(rows), pool):
            near = sorted(rows[start : start + pool], key=lambda row: lengths[row])
            batches = [near[i : i + batch_size] for i in range(0, len(near), batch_size)]
            whole = [batch for batch in batches if len(batch) == batch_size]
            rest = [row for batch in batches if len(batch) < batch_size for row in batch]
            generator.shuffle(whole)
            order.extend(row for batch in whole for row in batch)
            order.extend(rest)
    full = len(order) // batch_size * batch_size
    return order[:full] or order


def percentiles(values: Iterable[int]) -> dict[str, int]:
    """Return the median, the 95th percentile and the largest of some lengths."""
    ranked = sorted(values)
    return {"median": ranked[len(ranked) // 2], "p95": ranked[int(len(ranked) * 0.95)], "max": ranked[-1]}
