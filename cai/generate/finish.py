"""From the journals to what is trained on: the rows, what was left out of them and why, and the counts."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from cai.generate.config import GenerateConfig
from cai.generate.near import NearDuplicates
from cai.generate.quality import examples
from cai.generate.thinking import ThinkingConfig, join_thinking
from cai.records.export import Row, chat_rows, write_rows
from cai.records.journal import of_type, read_ranks
from cai.records.schema import Critique, Draft, Dropped, Prompt, Revision, short
from cai.storage import atomic_write, atomic_write_json, canonical_json

LEFT_OUT = "left_out"
"""The journal of what was made well and is no training row; it follows from the others, and is written anew."""


def finish(config: GenerateConfig, prompts: Sequence[Prompt]) -> None:
    """Write sft.jsonl, left_out.jsonl and result.json from all processes' journals.

    The settings are written to config.json unless that is there: a run's stage writes it before it begins.
    """
    drafts, critiques, revisions = (
        list(read_ranks(config.out, name).values()) for name in ("drafts", "critiques", "revisions")
    )
    made = chat_rows(prompts, drafts, revisions, keep=config.keep)
    alike = near_duplicates(made, config.near_duplicates)
    rows = [row for row in made if row["record"] not in alike]
    answers = {record.id: record for record in (*drafts, *revisions) if isinstance(record, Draft | Revision)}
    left_out = [_left_out(answers[name], first) for name, first in alike.items()]
    if config.train_on_thinking:
        rows = [_with_thinking(row, answers[row["record"]].thinking, config.thinking) for row in rows]
    write_rows(config.out / "sft.jsonl", rows)
    write_left_out(config.out, left_out)
    dropped = of_type([*drafts, *critiques, *revisions, *left_out], Dropped)
    result = {
        "counts": {
            "prompts": len(prompts),
            "drafts": len(of_type(drafts, Draft)),
            "critiques": len(of_type(critiques, Critique)),
            "revisions": len(of_type(revisions, Revision)),
            "training_rows": len(rows),
        },
        "dropped": dict(sorted(Counter(f"{record.stage}: {record.reason}" for record in dropped).items())),
        "dropped_examples": examples(dropped, {prompt.id: prompt.text for prompt in prompts}),
    }
    if not (config.out / "config.json").exists():
        atomic_write_json(config.out / "config.json", config.to_plain())
    atomic_write_json(config.out / "result.json", result)


def write_left_out(out: Path, records: Iterable[Dropped]) -> None:
    """Write the journal of what was left out in the end."""
    lines = (canonical_json(record.to_json()) + b"\n" for record in records)
    atomic_write(out / f"{LEFT_OUT}.jsonl", b"".join(lines))


def near_duplicates(rows: Iterable[Row], threshold: float | None) -> dict[str, str]:
    """Return the records of rows that repeat an earlier one; to each, the record of the first row that it is like.

    Prompt and answer are compared together, so that one refusal may serve many prompts. The rows' own order decides,
    which is that of the prompts and rounds.
    """
    if threshold is None:
        return {}
    found: dict[str, str] = {}
    with NearDuplicates(threshold) as seen:
        for row in rows:
            first = seen.like(row["record"], "\n".join(turn["content"] for turn in row["messages"]))
            if first is not None:
                found[row["record"]] = first
    return found


def _with_thinking(row: Row, thinking: str, config: ThinkingConfig) -> Row:
    """Return a row whose last turn begins as the model's own does."""
    *turns, answer = row["messages"]
    return {**row, "messages": [*turns, {**answer, "content": join_thinking(thinking, answer["content"], config)}]}


def _left_out(answer: Draft | Revision, first: str) -> Dropped:
    return Dropped(
        key=short(["row", answer.id, first]),
        stage="row",
        prompt=answer.prompt,
        reason="near-duplicate of an earlier row",
        text=answer.text,
    )
