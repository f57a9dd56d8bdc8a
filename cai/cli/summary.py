"""What a person reads when a run has ended: what was made, how the successor compares, and what to do next."""

import json
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

MADE = (
    ("generate", "drafts", "drafts"),
    ("generate", "critiques", "critiques"),
    ("generate", "revisions", "revisions"),
    ("label", "labels", "preference labels"),
    ("evaluate", "compared", "held-out prompts compared"),
)
"""Counts to show: the stage, the count's name in its result.json, and how a person calls it."""

NEXT = (
    "read the answers side by side in the report; then --size full, your own --constitution and --prompts, "
    "or recipes/successor.py for every setting"
)


def print_summary(run: Path, report: Path, *, console: Console | None = None) -> None:
    """Print the counts, the comparison with the parent with 95 % intervals, and where the report is."""
    console = console or Console()
    config = _read(run / "run.json").get("config", {})  # not what stands in the folder: that may be of an earlier run
    generation = run / f"gen-{config.get('generations', 1)}"
    console.print()
    console.print(_entry("Made", ", ".join(f"{count} {name}" for name, count in _counts(generation))))
    console.print()
    summary = _read(generation / "evaluate" / "summary.json")
    console.print(_comparison(summary))
    console.print(_changes(summary))
    # A path goes past the window's edge rather than onto a second line, so that it can be copied whole.
    for name, path in (("Report", report), ("Successor", generation / config.get("rl", "ppo") / "model")):
        console.print(f"[bold]{name:9}[/bold]  {escape(str(path))}", soft_wrap=True)
    console.print(_entry("Next", NEXT))


def _entry(name: str, said: str) -> Table:
    """Return a name and, beside it, a text that wraps between words."""
    entry = Table.grid(padding=(0, 2))
    entry.add_column(width=9, style="bold")
    entry.add_column()
    entry.add_row(name, said)
    return entry


def _counts(generation: Path) -> list[tuple[str, int]]:
    found = []
    for stage, key, name in MADE:
        count = _read(generation / stage / "result.json").get("counts", {}).get(key)
        if count is not None:
            found.append((name, count))
    return found


def _comparison(summary: dict[str, Any]) -> Table:
    table = _table("Successor against its parent on held-out prompts")
    for column in ("judge", "wins", "95 % interval", "n", "finding"):
        table.add_column(column, justify="right" if column in ("wins", "n") else "left", no_wrap=True)
    for name, measure in summary.get("measures", {}).items():
        table.add_row(
            name.replace("_", " ") + (" *" if measure["trained_on"] else ""),
            f"{100 * measure['win_rate']:.0f} %",
            f"{100 * measure['low']:.0f} to {100 * measure['high']:.0f} %",
            str(measure["n"]),
            measure["verdict"],
        )
    table.caption = "* not independent: the successor was trained on it"
    return table


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", caption_justify="left", title_style="bold", box=box.SIMPLE)


def _changes(summary: dict[str, Any]) -> Table:
    table = _table("Wording of a refusal, share of answers")
    for column in ("prompts", "parent", "successor", "change, 95 % interval"):
        table.add_column(column, no_wrap=True)
    for kind, change in summary.get("rates", {}).get("refusal_wording", {}).items():
        table.add_row(
            kind.replace("_", "-"),
            f"{100 * change['parent']:.0f} %",
            f"{100 * change['candidate']:.0f} %",
            f"{100 * change['low']:+.0f} to {100 * change['high']:+.0f} points",
        )
    return table


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        return {}
    return found
