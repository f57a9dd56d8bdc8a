"""From the journals to what is trained on: the rows, what was left out of them and why, and the counts.

The journals are read as streams, and rows are put in order by where their records lie: no text is held longer than it
takes to write it.
"""

import contextlib
import weakref
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from cai.generate.config import GenerateConfig
from cai.generate.near import NearDuplicates
from cai.generate.quality import examples
from cai.generate.thinking import ThinkingConfig, join_thinking
from cai.records.export import Row, chat_row, json_line, trained_on
from cai.records.index import Place, Records, open_table, read_at
from cai.records.journal import rank_paths
from cai.records.loaders import PromptSet
from cai.records.schema import Draft, Dropped, Prompt, Record, Revision, short
from cai.storage import AtomicFile, atomic_write_json, canonical_json, remove_parts, seed_from

JOURNALS = ("drafts", "critiques", "revisions")

LEFT_OUT = "left_out"
"""The journal of what was made well and is no training row; it follows from the others, and is written anew."""

SHOWN = 3
"""Examples of each reason."""


class Drops:
    """What is not used: how much for which reason, and for each a few examples, which the records' keys choose."""

    def __init__(self) -> None:
        """Begin with none."""
        self._counts: Counter[str] = Counter()
        self._shown: dict[str, list[Dropped]] = {}

    def add(self, record: Dropped) -> None:
        """Count one."""
        reason = f"{record.stage}: {record.reason}"
        self._counts[reason] += 1
        shown = self._shown.setdefault(reason, [])
        shown.append(record)
        shown.sort(key=lambda each: each.key)
        del shown[SHOWN:]

    def result(self, prompts: PromptSet) -> dict[str, Any]:
        """Return the counts and the examples as result.json has them."""
        shown = [record for records in self._shown.values() for record in records]
        asked = {record.prompt: prompts.by_id(record.prompt) for record in shown}
        texts = {name: prompt.text for name, prompt in asked.items() if prompt is not None}
        counts = dict(sorted(self._counts.items()))
        return {"dropped": counts, "dropped_examples": examples(shown, texts, each=SHOWN)}


class Answers:
    """Where the answers lie that may become rows, in the order of prompts and rounds."""

    def __init__(self, prompts: PromptSet) -> None:
        """Begin with none."""
        self._prompts = prompts
        self._paths: list[Path] = []
        self._table = open_table(
            "CREATE TABLE answers (place INTEGER, round INTEGER, id TEXT, file INTEGER, line INTEGER, start INTEGER,"
            " length INTEGER, PRIMARY KEY (place, round, id)) WITHOUT ROWID"
        )
        weakref.finalize(self, self._table.close)

    def add(self, record: Record, place: Place) -> None:
        """Note a record, if it is an answer to train on."""
        if not isinstance(record, Draft | Revision):
            return
        stands = self._prompts.position(record.prompt)
        if stands is None or not trained_on(record, stands.kind):
            return
        if place.path not in self._paths:
            self._paths.append(place.path)
        number = record.round if isinstance(record, Revision) else 0
        row = (stands.place, number, record.id, self._paths.index(place.path), *place[1:])
        self._table.execute("INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def read(self, keep: Literal["all", "last"] | int) -> Iterator[tuple[Prompt, Draft | Revision]]:
        """Yield each answer that is kept, with its prompt; drafts that are trained on are of no round, and all kept."""
        chosen, given = "", tuple[int, ...]()
        if keep == "last":
            chosen = "WHERE round = (SELECT MAX(round) FROM answers AS own WHERE own.place = answers.place)"
        elif keep != "all":
            chosen, given = "WHERE round IN (0, ?)", (keep,)
        query = f"SELECT file, line, start, length FROM answers {chosen} ORDER BY place, round, id"
        for file, *where in self._table.execute(query, given):
            answer = read_at(Place(self._paths[file], *where))
            if isinstance(answer, Draft | Revision) and (prompt := self._prompts.by_id(answer.prompt)):
                yield prompt, answer


def finish(config: GenerateConfig, prompts: PromptSet) -> None:
    """Write sft.jsonl, left_out.jsonl and result.json from all processes' journals.

    The settings are written to config.json unless that is there: a run's stage writes it before it begins.
    """
    remove_parts(config.out)
    counts: Counter[str] = Counter()
    drops, answers = Drops(), Answers(prompts)
    for name in JOURNALS:
        records = Records()
        for path in rank_paths(config.out, name):
            for record, place in records.scan(path):
                counts[record.kind_name] += 1
                answers.add(record, place)
                if isinstance(record, Dropped):
                    drops.add(record)
    rows = _write(config, answers, drops)
    result = {
        "counts": {
            "prompts": len(prompts),
            "drafts": counts["draft"],
            "critiques": counts["critique"],
            "revisions": counts["revision"],
            "training_rows": rows,
        },
        **drops.result(prompts),
    }
    if config.keep_going:
        result["rows"] = {"read": prompts.read, "repeated": prompts.repeated, "rejected": prompts.rejected}
    if not (config.out / "config.json").exists():
        atomic_write_json(config.out / "config.json", config.to_plain())
    atomic_write_json(config.out / "result.json", result)


def _write(config: GenerateConfig, answers: Answers, drops: Drops) -> int:
    """Write the rows and what is left out of them; return how many rows there are."""
    count = 0
    last = _last_helpful(config, answers)
    with AtomicFile(config.out / "sft.jsonl") as sft, AtomicFile(config.out / f"{LEFT_OUT}.jsonl") as left_out:
        for answer, row, first in with_repeats(_rows(config, answers), config.near_duplicates):
            record = None
            if first is not None:
                record = _left_out(answer, "near-duplicate of an earlier row", first)
            elif last is not None and row["kind"] == "helpful" and _lot(config, answer) > last:
                record = _left_out(answer, "beyond helpful_ratio")
            if record is not None:
                left_out.write(canonical_json(record.to_json()) + b"\n")
                drops.add(record)
                continue
            count += 1
            if config.train_on_thinking:
                row = _with_thinking(row, answer.thinking, config.thinking)
            sft.write(json_line(row))
    return count


def _rows(config: GenerateConfig, answers: Answers) -> Iterator[tuple[Draft | Revision, Row]]:
    return ((answer, chat_row(prompt, answer)) for prompt, answer in answers.read(config.keep))


def _last_helpful(config: GenerateConfig, answers: Answers) -> int | None:
    """Return the highest lot with which a helpful row is let in; None lets all in."""
    if config.helpful_ratio is None:
        return None
    revised, lots = 0, array("Q")
    for answer, row, first in with_repeats(_rows(config, answers), config.near_duplicates):
        if first is None and row["kind"] == "helpful":
            lots.append(_lot(config, answer))
        elif first is None:
            revised += 1
    most = min(len(lots), int(config.helpful_ratio * revised))
    return sorted(lots)[most - 1] if most else -1


def _lot(config: GenerateConfig, answer: Draft | Revision) -> int:
    return seed_from(config.seed, "helpful", answer.id)


def write_left_out(out: Path, records: Iterable[Dropped]) -> None:
    """Write the journal of what was left out in the end."""
    with AtomicFile(out / f"{LEFT_OUT}.jsonl") as file:
        for record in records:
            file.write(canonical_json(record.to_json()) + b"\n")


def with_repeats(
    rows: Iterable[tuple[Draft | Revision, Row]], threshold: float | None
) -> Iterator[tuple[Draft | Revision, Row, str | None]]:
    """Yield each answer and its row with the record of the first row that it is like, or None.

    Prompt and answer are compared together, so that one refusal may serve many prompts. The rows' own order decides,
    which is that of the prompts and rounds. What is compared lies on disk: see `cai.generate.near`.
    """
    with contextlib.ExitStack() as stack:
        seen = stack.enter_context(NearDuplicates(threshold)) if threshold is not None else None
        for answer, row in rows:
            text = "\n".join(turn["content"] for turn in row["messages"])
            yield answer, row, seen.like(row["record"], text) if seen else None


def _with_thinking(row: Row, thinking: str, config: ThinkingConfig) -> Row:
    """Return a row whose last turn begins as the model's own does."""
    *turns, answer = row["messages"]
    return {**row, "messages": [*turns, {**answer, "content": join_thinking(thinking, answer["content"], config)}]}


def _left_out(answer: Draft | Revision, reason: str, first: str = "") -> Dropped:
    return Dropped(
        key=short(["row", answer.id, first]),
        stage="row",
        prompt=answer.prompt,
        reason=reason,
        text=answer.text,
    )
