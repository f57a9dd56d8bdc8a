"""`cai constitution diff`: what changed between two constitutions, for people and for programs."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from cai.constitution import Principle
    from cai.constitution.diff import Change, Diff, Edit, PrincipleDiff

MARKS = {"same": ("", "", ""), "removed": ("[-", "-]", "red strike"), "added": ("{+", "+}", "green underline")}
"""What stands around a stretch of text where there are no colours, and its style where there are."""

_INDENT = 4


def diff(
    a: Annotated[str, typer.Argument(help="The old one: a YAML or Markdown file, or a shipped name.")],
    b: Annotated[str, typer.Argument(help="The new one.")],
    json_: Annotated[bool, typer.Option("--json", help="One JSON document in place of the text.")] = False,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="End with 1 when they differ.")] = False,
) -> None:
    """Compare two constitutions by their principles, and say which prompts change.

    With git: git difftool -y -x 'cai constitution diff' -- constitutions/NAME.yaml
    """
    from cai.constitution import diff as differences
    from cai.constitution import load_constitution

    found = differences.diff(load_constitution(a), load_constitution(b))
    if json_:
        print(json.dumps(differences.to_plain(found), ensure_ascii=False, indent=2))
    else:
        print_diff(found)
    if exit_code and found:
        raise typer.Exit(1)


def print_diff(found: "Diff", *, console: Console | None = None) -> None:
    """Print what changed: the constitution's own fields, then principles, then the prompts that follow from them."""
    console = console or Console()
    marked = console.color_system is None or console.no_color
    console.print(_head(found), highlight=False)
    if found.changes:
        _section(console, "Constitution", "")
        for change in found.changes:
            _put(console, _told(change, marked))
    for sign, style, principles in (("-", "red", found.removed), ("+", "green", found.added)):
        for principle in principles:
            _section(console, f"{sign} {principle.id}", "removed" if sign == "-" else "added", style)
            _put(console, _whole(principle))
    for item in found.principles:
        _section(console, f"~ {item.id}", ", ".join(_place(item)), "yellow")
        for change in item.changes:
            _put(console, _told(change, marked))
    if found.prompts:
        console.print()
        console.print(_prompts(found))
    console.print()
    console.print(_summary(found), highlight=False)


def _head(found: "Diff") -> Text:
    head = Text()
    for sign, side in (("-", found.a), ("+", found.b)):
        style = "red" if sign == "-" else "green"
        head.append(f"{sign} {side.name} {side.version}", style)
        count = len(side.principles)
        head.append(f"  digest {side.digest[:12]}, {count} principle{'s' * (count != 1)}\n", "dim")
    head.append("The digests are equal." if found.same_digest else "The digests differ.")
    return head


def _section(console: Console, title: str, said: str, style: str = "") -> None:
    line = Text(title, f"bold {style}".strip())
    if said:
        line.append(f"  {said}", "not bold")
    console.print()
    console.print(line, highlight=False)


def _put(console: Console, text: Text) -> None:
    """Print a text indented; `rich.padding` would fill its lines up with spaces."""
    for line in text.wrap(console, max(console.width - _INDENT, 20)):
        line.rstrip()
        console.print(Text(" " * _INDENT).append_text(line), highlight=False, soft_wrap=True)


def _place(item: "PrincipleDiff") -> Iterator[str]:
    if item.renamed:
        yield f"renamed from {item.old_id}"
    if item.moved:
        yield f"moved from place {item.old_place} to {item.new_place}"


def _whole(principle: "Principle") -> Text:
    """Return what one wants to know of a principle that came or went: its text, and what is unusual about it."""
    from cai.constitution.model import Principle

    text = Text(principle.text)
    bare = Principle(id=principle.id, text=principle.text)
    for name in ("title", "weight", "tags", "priority", "framing", "checker", "gate_margin"):
        value = getattr(principle, name)
        if value != getattr(bare, name):
            text.append(f"\n{_name(name)}: ", "bold").append(_value(value))
    for name in ("probes", "few_shots", "comparison_shots"):
        if getattr(principle, name):
            text.append(f"\n{_name(name)}: ", "bold").append(str(len(getattr(principle, name))))
    return text


def _told(change: "Change", marked: bool) -> Text:
    from cai.constitution.diff import Changed, Edit, Reworded

    text = Text()
    text.append(f"{_name(change.field)}: ", "bold")
    if isinstance(change, Reworded):
        if not (change.old_derived or change.new_derived):
            return text.append_text(_edited(change.edits, marked))
        given = Edit("added", change.new) if change.old_derived else Edit("removed", change.old)
        text.append_text(_edited([given], marked))
        return text.append(" (was derived)" if change.old_derived else " (now derived)", "dim")
    if isinstance(change, Changed) and change.field == "tags":
        return text.append_text(_tags(change.old, change.new))
    if isinstance(change, Changed):
        return text.append(_value(change.old), "red").append(" -> ").append(_value(change.new), "green")
    return _relisted(text, change, marked)


def _edited(edits: Iterable["Edit"], marked: bool) -> Text:
    text = Text()
    for edit in edits:
        before, after, style = MARKS[edit.kind]
        text.append(f"{before}{edit.text}{after}" if marked else edit.text, style)
    return text


def _tags(old: tuple[str, ...], new: tuple[str, ...]) -> Text:
    gone, come = [tag for tag in old if tag not in new], [tag for tag in new if tag not in old]
    if not gone and not come:
        return Text(f"{_value(old)} -> {_value(new)}")
    parts = [Text(f"-{tag}", "red") for tag in gone] + [Text(f"+{tag}", "green") for tag in come]
    return Text(" ").join(parts)


def _relisted(text: Text, change: Any, marked: bool) -> Text:
    counts = [(len(change.added), "added"), (len(change.removed), "removed"), (len(change.changed), "changed")]
    text.append(", ".join(f"{count} {what}" for count, what in (*counts, (change.moved, "moved")) if count))
    for sign, style, items in (("-", "red", change.removed), ("+", "green", change.added)):
        for item in items:
            text.append(f"\n  {sign} {_short(item.prompt)}", style)
    for prompt, texts in change.changed:
        text.append(f"\n  ~ {_short(prompt)}", "yellow")
        for reworded in texts:
            text.append(f"\n    {_name(reworded.field)}: ", "bold").append_text(_edited(reworded.edits, marked))
    return text


def _prompts(found: "Diff") -> Table:
    """Return which prompts change and why; principles with the same changes share a row."""
    from cai.constitution.diff import STAGES

    causes: dict[str, dict[str, str]] = {}
    for prompt in found.prompts:
        causes.setdefault(prompt.principle, {})[prompt.stage] = ", ".join(prompt.causes)
    rows: dict[tuple[str, ...], list[str]] = {}
    for principle, by_stage in causes.items():
        rows.setdefault(tuple(by_stage.get(stage, "") for stage in STAGES), []).append(principle)
    table = Table(
        title="Prompts that change, and why",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE,
        caption_justify="left",
    )
    table.add_column("principle", overflow="fold")
    for stage in STAGES:
        table.add_column(stage, min_width=len(stage))
    kept = len(found.b.principles) - len(found.added)
    for row, principles in rows.items():
        everyone = len(principles) == kept > 1
        table.add_row(f"all {kept} that both have" if everyone else ", ".join(principles), *row)
    if any(prompt.stage == "contrast" for prompt in found.prompts):
        table.caption = "contrast: a judge is told the text, and then its opposite"
    return table


def _summary(found: "Diff") -> str:
    """Return the counts in one line."""
    from cai.constitution.diff import Reworded

    if not found:
        return "Nothing changed."
    counts = Counter(added=len(found.added), removed=len(found.removed))
    for item in found.principles:
        counts.update({"renamed": int(item.renamed), "moved": int(item.moved)})
        counts.update({"reworded" if isinstance(change, Reworded) else _kind(change.field) for change in item.changes})
    said = ", ".join(f"{counts[kind]} {kind}" for kind in _KINDS if counts[kind])
    changed = len({prompt.principle for prompt in found.prompts})
    kept = len(found.b.principles) - len(found.added)
    parts = [f"Principles: {said}." if said else "Principles: none changed."]
    parts.append(
        f"Prompts change for {changed or 'none'} of the {kept} that both have." if kept else "None is in both."
    )
    return " ".join(parts)


_KINDS = ("added", "removed", "renamed", "moved", "reworded", "reweighted", "retagged", "changed otherwise")


def _kind(field: str) -> str:
    return {"weight": "reweighted", "tags": "retagged"}.get(field, "changed otherwise")


def _name(field: str) -> str:
    return field.removeprefix("wordings.").replace("_", " ") + (" template" if field.startswith("wordings.") else "")


def _value(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value) or "none"


def _short(text: str, most: int = 60) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"
