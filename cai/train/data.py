"""Rows into tensors: rendered by the one renderer, checked before the first step, padded on the right.

B rows, L tokens of the longest.
"""

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cai.engines.render import Renderer
from cai.errors import InputError, Problem
from cai.records.loaders import dialogue_of, read_rows
from cai.types import Dialogue, Message

IGNORED = -100
"""The label of a position that the loss does not count."""


@dataclass(frozen=True)
class Example:
    """A prompt and an answer as ids, the end of turn among the answer's; `name` says which row it is in messages."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    name: str

    def __len__(self) -> int:
        """Return the number of tokens."""
        return len(self.prompt) + len(self.answer)


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt; `target` is the probability that `chosen` is the better one."""

    chosen: Example
    rejected: Example
    target: float
    source: str

    def __len__(self) -> int:
        """Return the number of tokens of both."""
        return len(self.chosen) + len(self.rejected)


def load_chats(paths: Sequence[Path], renderer: Renderer, *, max_length: int) -> tuple[list[Example], Counter[str]]:
    """Return the examples of files of `messages`, and how many rows were dropped for which reason.

    Raises InputError naming every row that is not a dialogue ending with the assistant, or when nothing is left.
    """
    examples: list[Example] = []
    dropped: Counter[str] = Counter()
    problems: list[Problem] = []
    for path in paths:
        for line, row in read_rows(path):
            try:
                dialogue = dialogue_of(row.get("messages"))
                if dialogue[-1].role != "assistant":
                    raise ValueError("the dialogue does not end with the assistant; add the answer to learn")
            except ValueError as error:
                problems.append(_problem(path, line, error))
                continue
            example = _example(dialogue, renderer, max_length, f"{path.name}:{line}")
            if isinstance(example, str):
                dropped[example] += 1
            else:
                examples.append(example)
    _check(problems, examples, paths, dropped)
    return examples, dropped


def load_pairs(paths: Sequence[Path], renderer: Renderer, *, max_length: int) -> tuple[list[Pair], Counter[str]]:
    """Return the pairs of files of `prompt`, `chosen`, `rejected` (and `chosen_prob`), and the drops by reason.

    Without `prompt`, `chosen` and `rejected` are whole dialogues (hh-rlhf's form) that share their beginning. Raises
    InputError naming every row that is neither, or when nothing is left.
    """
    pairs: list[Pair] = []
    dropped: Counter[str] = Counter()
    problems: list[Problem] = []
    for path in paths:
        for line, row in read_rows(path):
            try:
                prompt, chosen, rejected, target = _pair_of(row)
            except ValueError as error:
                problems.append(_problem(path, line, error))
                continue
            if chosen == rejected:
                dropped["chosen equals rejected"] += 1
                continue
            name = f"{path.name}:{line}"
            both = [
                _example((*prompt, Message("assistant", text)), renderer, max_length, name)
                for text in (chosen, rejected)
            ]
            first, second = both
            if isinstance(first, Example) and isinstance(second, Example):
                pairs.append(Pair(first, second, target, str(row.get("kind") or path.name)))
            else:
                dropped[next(item for item in both if isinstance(item, str))] += 1
    _check(problems, pairs, paths, dropped)
    return pairs, dropped


def _problem(path: Path, line: int, error: ValueError) -> Problem:
    problem, _, fix = str(error).partition("; ")
    return Problem(str(path), line, 1, problem, fix or "mend the row")


def _check(problems: list[Problem], kept: Sequence[object], paths: Sequence[Path], dropped: Counter[str]) -> None:
    if problems:
        raise InputError(problems)
    if not kept:
        why = ", ".join(f"{count} {reason}" for reason, count in dropped.items()) or "the files hold none"
        names = ", ".join(map(str, paths)) or "data"
        raise InputError(Problem(names, 0, 0, f"no rows to train on ({why})", "give rows with answers to learn from"))


def _pair_of(row: dict[str, Any]) -> tuple[Dialogue, str, str, float]:
    if "chosen" not in row or "rejected" not in row:
        raise ValueError(f"no 'chosen' and 'rejected' (fields: {', '.join(sorted(row)) or 'none'}); add them")
    target = row.get("chosen_prob", 1.0)
    if isinstance(target, bool) or not isinstance(target, (int, float)) or not 0 <= target <= 1:
        raise ValueError(f"'chosen_prob' is {target!r}; make it a number from 0 to 1")
    if "prompt" in row:
        return dialogue_of(row["prompt"]), _answer_of(row["chosen"]), _answer_of(row["rejected"]), float(target)
    chosen, rejected = dialogue_of(row["chosen"]), dialogue_of(row["rejected"])
    if chosen[-1].role != "assistant" or rejected[-1].role != "assistant" or chosen[:-1] != rejected[:-1]:
        raise ValueError("'chosen' and 'rejected' do not share all but the assistant's last turn; give 'prompt' apart")
    return chosen[:-1], chosen[-1].content, rejected[-1].content, float(target)


def _answer_of(given: Any) -> str:
    if isinstance(given, str):
        return given
    if isinstance(given, list) and len(given) == 1 and isinstance(given[0], dict):
        content = given[0].get("content")
        if isinstance(content, str):
            return content
    raise ValueError("'chosen' and 'rejected' must be a text or a list of one message; mend them")


def _example(dialogue: Dialogue, renderer: Renderer, max_length: int, name: str) -> Example | str:
    """Return an example, or the reason why there is none."""
    if not dialogue[-1].content.strip():
        return "empty answer"
    ids, mask = renderer.example(dialogue)
    start = mask.index(1)
    prompt, answer = ids[:start], ids[start:]
    room = max_length - len(answer)
    if room < 1:
        return "answer longer than max_length"
    return Example(tuple(prompt[-room:]), tuple(answer), name)


def padded(examples: Sequence[Example], pad_id: int) -> dict[str, Tensor]:
    """Return `input_ids`, `attention_mask` and `labels` [B, L], padded on the right.

    The label of position i is its own token; the answer's positions have one, all others `IGNORED`.
    """
    longest = max(len(example) for example in examples)
    input_ids = torch.full((len(examples), longest), pad_id)
    attention_mask = torch.zeros((len(examples), longest), dtype=torch.long)
    labels = torch.full((len(examples), longest), IGNORED)
    for index, example in enumerate(examples):
        start, end = len(example.prompt), len(example)
        input_ids[index, :end] = torch.tensor(example.prompt + example.answer)
        attention_mask[index, :end] = 1
        labels[index, start:end] = torch.tensor(example.answer)
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}


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
