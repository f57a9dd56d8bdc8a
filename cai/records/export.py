"""Records as training rows, in TRL's column conventions: `messages`, or `prompt` / `chosen` / `rejected`.

Soft labels add one column: `chosen_prob`, the probability that `chosen` is the better answer.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from cai.records.schema import Draft, Preference, Prompt, Provenance, Record, Revision
from cai.storage import atomic_write
from cai.types import Dialogue

Row = dict[str, Any]


def turns(dialogue: Dialogue) -> list[dict[str, str]]:
    """Return a dialogue as a list of ``{"role", "content"}``."""
    return [{"role": message.role, "content": message.content} for message in dialogue]


def chat_rows(
    prompts: Sequence[Prompt], drafts: Iterable[Record], revisions: Iterable[Record], *, keep: Literal["all", "last"]
) -> list[Row]:
    """Return what the supervised stage trains on, in the order of the prompts.

    Red-team prompts give their revisions (of ``all`` rounds, as in Bai et al. 2022, section 3.1, or the ``last``
    round's), helpful prompts their drafts. A red-team draft is never trained on.
    """
    answers: dict[str, list[tuple[int, str, str, str]]] = {prompt.id: [] for prompt in prompts}
    kinds = {prompt.id: prompt.kind for prompt in prompts}
    for record in (*drafts, *revisions):
        if isinstance(record, Revision) and record.prompt in answers:
            answers[record.prompt].append((record.round, record.id, record.text, under(record.provenance)))
        elif isinstance(record, Draft) and kinds.get(record.prompt) == "helpful":
            answers[record.prompt].append((0, record.id, record.text, under(record.provenance)))
    rows: list[Row] = []
    for prompt in prompts:
        made = sorted(answers[prompt.id])
        last = made[-1][0] if made else 0
        for number, identity, text, digest in made:
            if keep == "all" or number == last:
                messages = [*turns(prompt.messages), {"role": "assistant", "content": text}]
                about = {"kind": prompt.kind, "category": prompt.category, "constitution": digest}
                rows.append({"messages": messages, **about, "record": identity})
    return rows


def preference_rows(preferences: Iterable[Preference]) -> list[Row]:
    """Return pairs with the likelier answer as `chosen`; exact ties are left out, for they choose nothing."""
    rows: list[Row] = []
    for pair in preferences:
        if pair.prob_a == 0.5:
            continue
        a_wins = pair.prob_a > 0.5
        chosen, rejected = (pair.response_a, pair.response_b) if a_wins else (pair.response_b, pair.response_a)
        rows.append(
            {
                "prompt": turns(pair.messages),
                "chosen": [{"role": "assistant", "content": chosen}],
                "rejected": [{"role": "assistant", "content": rejected}],
                "chosen_prob": pair.prob_a if a_wins else 1.0 - pair.prob_a,
                "kind": pair.kind,
                "category": pair.category,
                "constitution": under(pair.provenance),
                "record": pair.id,
            }
        )
    return rows


def under(provenance: Provenance | None) -> str:
    """Return the digest of the constitution that a record was made under; "" for none."""
    return (provenance.constitution if provenance else None) or ""


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write rows as JSON lines, atomically; raises ValueError for a number that is not finite."""
    lines = (json.dumps(row, ensure_ascii=False, allow_nan=False).encode("utf-8") + b"\n" for row in rows)
    atomic_write(path, b"".join(lines))
