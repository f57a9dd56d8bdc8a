"""Rows as one sequence without padding: each prompt once, its answers side by side after it.

A row is a tree of one trunk (the prompt) and one branch per answer. All rows of a micro-batch lie end to end in a
single sequence; positions go on from the prompt in every branch, and `cai.train.packed_attention` lets a branch see its
own prompt and itself. What comes out is what each prompt with each answer gives alone, and the model's linear layers
have met every token once and no padding.

    prompt 5 6 7, answers 8 9 and 4      input_ids   5 6 7 8      (an answer's last token is predicted, never read)
                                         positions   0 1 2 3
                                         read        2 3 2        the states that predict ...
                                         answer_ids  8 9 4        ... these tokens
                                         answers     0 0 1        of these answers

T tokens of the sequence, N tokens of all answers, A answers.
"""

from collections.abc import Sequence
from typing import Any

import torch

Layout = tuple[tuple[int, tuple[int, ...]], ...]
"""Per row: how many tokens its prompt has in the sequence, and how many each of its answers."""

Row = tuple[Sequence[int], Sequence[Sequence[int]]]
"""The ids of a prompt, and of each answer to it."""


def pack_tokens(rows: Sequence[Row]) -> dict[str, Any]:
    """Return a batch that predicts every token of the answers.

    `input_ids` and `position_ids` [1, T], `layout`, and `read`, `answer_ids`, `answers` [N]: where in the sequence the
    state is that predicts a token, the token, and the answer that it belongs to, counted through all rows.
    """
    batch = _sequence([(prompt, [answer[:-1] for answer in answers]) for prompt, answers in rows])
    read: list[int] = []
    ids: list[int] = []
    owners: list[int] = []
    count = 0
    for (_, answers), starts in zip(rows, _starts(batch["layout"]), strict=True):
        for answer, start in zip(answers, starts, strict=True):
            read += [starts[0] - 1, *range(start, start + len(answer) - 1)]
            ids += answer
            owners += [count] * len(answer)
            count += 1
    numbers = {"read": read, "answer_ids": ids, "answers": owners}
    return {**batch, **{name: torch.tensor(values) for name, values in numbers.items()}}


def pack_ends(rows: Sequence[Row]) -> dict[str, Any]:
    """Return a batch that is read at every answer's last token: `input_ids`, `position_ids`, `layout`, `read` [A]."""
    batch = _sequence(rows)
    read = [
        start + len(answer) - 1
        for (_, answers), starts in zip(rows, _starts(batch["layout"]), strict=True)
        for answer, start in zip(answers, starts, strict=True)
    ]
    return {**batch, "read": torch.tensor(read)}


def _sequence(rows: Sequence[Row]) -> dict[str, Any]:
    ids: list[int] = []
    positions: list[int] = []
    layout = []
    for prompt, answers in rows:
        ids += prompt
        positions += range(len(prompt))
        for answer in answers:
            ids += answer
            positions += range(len(prompt), len(prompt) + len(answer))
        layout.append((len(prompt), tuple(map(len, answers))))
    return {"input_ids": torch.tensor([ids]), "position_ids": torch.tensor([positions]), "layout": tuple(layout)}


def _starts(layout: Layout) -> list[list[int]]:
    """Return where each answer of each row starts in the sequence; the first follows its prompt."""
    found, place = [], 0
    for prompt, answers in layout:
        place += prompt
        starts = []
        for answer in answers:
            starts.append(place)
            place += answer
        found.append(starts)
    return found
