"""Records as training rows, in TRL's column conventions: `messages`, or `prompt` / `chosen` / `rejected`.

Soft labels add one column: `chosen_prob`, the probability that `chosen` is the better answer.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cai.records.schema import Draft, Preference, Prompt, PromptKind, Provenance, Record, Revision
from cai.storage import AtomicFile
from cai.types import Dialogue

Row = dict[str, Any]


def turns(dialogue: Dialogue) -> list[dict[str, str]]:
    """Return a dialogue as a list of ``{"role", "content"}``."""
    return [{"role": message.role, "content": message.content} for message in dialogue]


def chat_row(prompt: Prompt, answer: Draft | Revision) -> Row:
    """Return the row that trains on one answer."""
    messages = [*turns(prompt.messages), {"role": "assistant", "content": answer.text}]
    about = {"kind": prompt.kind, "category": prompt.category, "constitution": under(answer.provenance)}
    return {"messages": messages, **about, "record": answer.id}


def trained_on(answer: Record, kind: PromptKind | None) -> bool:
    """Tell whether an answer to a prompt of a kind may become a row (Bai et al. 2022, section 3.1).

    Red-team prompts give their revisions, helpful prompts their drafts. A red-team draft is never trained on.
    """
    return (isinstance(answer, Revision) and kind is not None) or (isinstance(answer, Draft) and kind == "helpful")


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
                "principles": list(pair.principles),
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
    with AtomicFile(path) as file:
        for row in rows:
            file.write(json_line(row))


def json_line(row: Row) -> bytes:
    """Return a row as a line of JSON; raises ValueError for a number that is not finite."""
    return json.dumps(row, ensure_ascii=False, allow_nan=False).encode("utf-8") + b"\n"
