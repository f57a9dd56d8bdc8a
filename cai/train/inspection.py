"""What a file of training rows holds, in figures: lengths in tokens, labels, repetitions, what would be cut."""

from collections.abc import Sequence
from typing import Any

from cai.train.checks import Item, findings

CUTS = (5, 25, 50, 75, 95, 99, 100)
"""Percentiles that are told; 100 is the largest."""

BARS = 10
"""Equal parts of [0, 1] that the labels' histogram has."""


def describe(items: Sequence[Item], max_length: int, *, template: bool = True) -> dict[str, Any]:
    """Return the figures of measured rows, all of JSON: `rows`, `prompts`, `tokens`, `labels`, `cut`, `findings`.

    `tokens` has percentiles of the prompt, of each answer and of prompt and longest answer together (nearest rank).
    `labels` counts rows by `chosen_prob`, the last part with 1; None for rows of one answer. `cut` counts rows that
    would be dropped, rows whose prompt would be cut, and the tokens that prompts would lose, at `max_length`.
    """
    pairs = bool(items) and len(items[0].answers) == 2
    whole = [item.prompt_tokens + max(item.answer_tokens) for item in items]
    fits = [item.least < max_length for item in items]
    lost = [max(0, each - max_length) if fit else 0 for each, fit in zip(whole, fits, strict=True)]
    columns = {"prompt": [item.prompt_tokens for item in items]}
    for number, name in enumerate(("chosen", "rejected") if pairs else ("answer",)):
        columns[name] = [item.answer_tokens[number] for item in items]
    columns["together"] = whole
    return {
        "kind": "pairs" if pairs else "chats",
        "rows": len(items),
        "prompts": len({item.key for item in items}),
        "tokens": {name: ranks(values) for name, values in columns.items()},
        "labels": histogram([item.target for item in items]) if pairs else None,
        "cut": {
            "max_length": max_length,
            "rows_dropped": len(fits) - sum(fits),
            "prompts_cut": sum(bool(each) for each in lost),
            "tokens_lost": sum(lost),
        },
        "findings": [each.to_json() for each in findings(items, max_length, template=template)],
    }


def ranks(values: Sequence[int]) -> dict[str, int]:
    """Return percentiles by nearest rank: the least value that so many percent do not exceed."""
    ranked = sorted(values)
    return {f"p{cut}": ranked[max(0, -(-cut * len(ranked) // 100) - 1)] for cut in CUTS} if ranked else {}


def histogram(labels: Sequence[float]) -> list[int]:
    """Return how many labels lie in each tenth of [0, 1]."""
    counts = [0] * BARS
    for label in labels:
        counts[min(BARS - 1, int(label * BARS))] += 1
    return counts
