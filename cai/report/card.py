"""The card of a data set: who made it under which constitution, what was left out, what it cost, what it is for."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cai.constitution import load_constitution
from cai.errors import CaiError
from cai.records.dataset import Format, rows_file, write_dataset
from cai.records.journal import rank_paths
from cai.records.rows import read_rows
from cai.report.files import RunFiles
from cai.storage import atomic_write

JOURNALS = ("drafts", "critiques", "revisions", "responses", "preferences")

COLUMNS = {
    "messages": "the dialogue; the last turn is the answer to learn",
    "prompt": "the dialogue, up to the turn that is answered",
    "chosen": "the likelier answer",
    "rejected": "the other one",
    "chosen_prob": "how probable it is that `chosen` is the better one: a soft label, above one half",
    "spread": "how far the votes of several principles lie apart (standard deviation of their logits)",
    "kind": "`red_team`, `benign` or `helpful`",
    "category": "the prompt's category",
    "principles": "ids of the principles that the label was judged by; empty: by the constitution as a whole",
    "constitution": "SHA-256 of the constitution",
    "record": "id of the record in the run's journals",
}

USES = {
    "sft.jsonl": "Supervised finetuning of language models (TRL's `SFTTrainer` reads it as it is), and research on "
    "Constitutional AI ([Bai et al. 2022](https://arxiv.org/abs/2212.08073), section 3).",
    "pairs.jsonl": "Preference models and DPO (TRL's `RewardTrainer` and `DPOTrainer` read it as it is; "
    "`chosen_prob` is a soft label for those that take one), and research on AI feedback "
    "([Bai et al. 2022](https://arxiv.org/abs/2212.08073), section 4).",
}

LIMITS = """\
Models wrote the answers, and no person has checked them. Red-team prompts ask for harm by design, and an answer may
give it. The checks that dropped texts read words, not meaning. Not for the evaluation of models that it was made with
or trained on, and no evidence that a model trained on it is safe."""


@dataclass
class Facts:
    """What the files of a run say of its rows."""

    rows: int
    columns: Sequence[str]
    kinds: Counter[str] = field(default_factory=Counter)
    constitutions: Counter[str] = field(default_factory=Counter)
    models: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """(record, engine, model) → records."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0


def export_run(run: Path, out: Path, *, form: Format = "parquet", name: str = "", licence: str = "") -> int:
    """Write the rows of a finished run as a data set with its card; return how many rows there are.

    Raises InputError for a folder without rows.
    """
    rows = rows_file(run)
    count = write_dataset(rows, out, form=form)
    card = data_card(run, rows, name=name or run.resolve().name, licence=licence)
    atomic_write(out / "README.md", card.encode("utf-8"))
    return count


def data_card(run: Path, rows: Path, *, name: str, licence: str = "") -> str:
    """Return the card, with the header that the hub and `datasets` read."""
    facts, files = gather(run, rows), RunFiles(run)
    config, result = files.object("config.json"), files.object("result.json")
    head = ["---", *([f"license: {json.dumps(licence)}"] if licence else []), f"pretty_name: {json.dumps(name)}"]
    head += ["tags:", *(f"- {tag}" for tag in ("constitutional-ai", "rlaif", "trl", "synthetic"))]
    head += ["size_categories:", f"- {_size(facts.rows)}"]
    head += ["configs:", "- config_name: default", "  data_files:", "  - split: train", "    path: data/train-*", "---"]
    parts = [
        "\n".join(head),
        f"# {_cell(name)}",
        f"{facts.rows:,} rows, made by models under a written constitution with [cai](https://pypi.org/project/cai/).",
        "## Columns",
        _table(("column", "what it is"), [(f"`{each}`", COLUMNS.get(each, "")) for each in facts.columns]),
        "## Made how",
        _made(config, facts),
        _table(("records", "engine", "model", "count"), [(*key, f"{n:,}") for key, n in sorted(facts.models.items())]),
        "Settings:\n\n```json\n" + json.dumps(_settings(config), indent=2, ensure_ascii=False) + "\n```",
        "## Counts and filters",
        _table(("what", "count"), [(key, f"{n:,}") for key, n in _counts(result, facts)]),
        _filters(config, result, files.object("summary.json")),
        "## Costs",
        _costs(config, facts),
        "## Intended use",
        USES[rows.name],
        "## Limits",
        LIMITS,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def gather(run: Path, rows: Path) -> Facts:
    """Read a run's rows and journals as streams."""
    facts = Facts(0, ())
    for _, row in read_rows(rows):
        facts.rows += 1
        facts.columns = facts.columns or list(row)
        facts.kinds[str(row.get("kind", ""))] += 1
        facts.constitutions[str(row.get("constitution", ""))] += 1
    for journal in JOURNALS:
        for record in _objects(rank_paths(run, journal)):
            made = record.get("provenance")
            if record.get("type") == "preference":
                facts.models["judged pairs", str(record.get("judge")), "–"] += 1
            elif isinstance(made, dict):
                facts.models[journal, str(made.get("engine")), str(made.get("model"))] += 1
    for row in _objects(rank_paths(run, "costs")):
        facts.prompt_tokens += int(row.get("prompt", 0))
        facts.completion_tokens += int(row.get("completion", 0))
        facts.seconds += float(row.get("seconds", 0.0))
    return facts


def _objects(paths: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """Yield the objects of JSON-lines files that are there; a torn last line is left out."""
    for path in (path for path in paths if path.is_file()):
        with path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    yield json.loads(line)


def _made(config: dict[str, Any], facts: Facts) -> str:
    lines = []
    for digest, count in sorted(facts.constitutions.items()):
        known = _constitution(str(config.get("constitution", "")), digest)
        lines.append(f"- Constitution: {known or 'unknown name'}, SHA-256 `{digest or 'none'}` ({count:,} rows)")
    return "\n".join(lines)


def _constitution(source: str, digest: str) -> str:
    """Return the name and version of the constitution that the settings name, if it is still the same one."""
    try:
        found = load_constitution(source)
    except CaiError:
        return ""
    return f"{_cell(found.name)}, version {_cell(found.version)}" if found.digest == digest else ""


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that say how the texts came about: no paths, and nothing about servers."""
    kept = "seed format tags draw drafts_per_prompt rounds critique keep helpful_per_prompt sampling critique_tokens "
    kept += "thinking train_on_thinking near_duplicates window principles_per_label clamp pairs"
    shown = {key: config[key] for key in kept.split() if key in config}
    if isinstance(shown.get("pairs"), dict):
        shown["pairs"] = {key: shown["pairs"][key] for key in ("kind", "n", "certainty") if key in shown["pairs"]}
    return shown


def _counts(result: dict[str, Any], facts: Facts) -> list[tuple[str, int]]:
    counted = [(str(key).replace("_", " "), int(value)) for key, value in result.get("counts", {}).items()]
    return [*counted, *((f"rows of kind {kind or 'unknown'}", n) for kind, n in sorted(facts.kinds.items()))]


def _filters(config: dict[str, Any], result: dict[str, Any], summary: dict[str, Any]) -> str:
    lines = []
    if config.get("near_duplicates") is not None:
        share = config["near_duplicates"]
        lines.append(f"A row that shares {share:.0%} of its three-word runs with an earlier one is left out.")
    dropped = result.get("dropped") or summary.get("dropped") or {}
    if dropped:
        table = _table(("left out because", "count"), [(str(key), f"{n:,}") for key, n in dropped.items()])
        lines.append(table)
    return "\n\n".join(lines) or "Nothing was left out."


def _costs(config: dict[str, Any], facts: Facts) -> str:
    if not facts.prompt_tokens + facts.completion_tokens:
        return "Not counted."
    text = (
        f"{facts.prompt_tokens:,} tokens read and {facts.completion_tokens:,} written in {facts.seconds / 3600:.2f} h"
    )
    server = (config.get("engine") or {}).get("server") or {}
    money = facts.prompt_tokens * server.get("prompt_price", 0.0)
    money += facts.completion_tokens * server.get("completion_price", 0.0)
    return text + (f", {money / 1e6:.2f} in money." if money else " of work.")


def _size(rows: int) -> str:
    """Return the hub's name for a size.

    >>> _size(999), _size(1000), _size(250_000)
    ('n<1K', '1K<n<10K', '100K<n<1M')
    """
    steps = [("1K", 1e3), ("10K", 1e4), ("100K", 1e5), ("1M", 1e6), ("10M", 1e7), ("100M", 1e8)]
    low = ""
    for name, most in steps:
        if rows < most:
            return f"{low}<n<{name}" if low else f"n<{name}"
        low = name
    return "n>100M"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    """Return a text that can't end its cell, its line, or begin markup of its own."""
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())
