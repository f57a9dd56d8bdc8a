"""`cai constitution show`: what a constitution says and what is derived from it; without one, which are shipped."""

import json
import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from cai.errors import InputError, Problem

if TYPE_CHECKING:
    from cai.constitution import Constitution, Principle

WIDE = 110
"""From so many columns on an id and its title stand beside each other."""

DERIVABLE = ("title", "framing", "critique", "revision", "comparison", "contrast")
_STAGES = DERIVABLE[2:]


@dataclass(frozen=True)
class Shown:
    """A constitution, and what only its file knows."""

    constitution: "Constitution"
    given: dict[str, frozenset[str]]
    """The keys that the file has for a principle; what else is derivable was derived."""
    inherited: frozenset[str]
    """The principles that were taken over from what it extends, as they are."""

    def derived(self, principle: "Principle") -> list[str]:
        """Return what was not given but made from the id or the text."""
        return [name for name in DERIVABLE if name not in self.given[principle.id]]


def show(
    source: Annotated[
        str | None, typer.Argument(help="A YAML or Markdown file, or a shipped name; left out: lists what is shipped.")
    ] = None,
    principle: Annotated[str | None, typer.Argument(help="A principle's id: all there is to know about it.")] = None,
    tag: Annotated[
        list[str] | None, typer.Option(metavar="TAG", help="Only principles with this tag; may be given again.")
    ] = None,
    all_wordings: Annotated[bool, typer.Option("--all-wordings", help="Every principle with its wordings.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Show a constitution, or one of its principles, with what was given and what is derived."""
    console = Console(highlight=False)
    if source is None:
        if tag or all_wordings:
            raise InputError(Problem("SOURCE", 0, 0, "nothing to show", "name a file or a shipped constitution"))
        _list(console, as_json=as_json)
        return
    shown = read(source)
    some = _chosen(shown.constitution, principle, tuple(tag or ()))
    draws = _draws(shown.constitution.principles if principle else some)
    if as_json:
        plain = [_plain(shown, item, draws) for item in some]
        print(json.dumps(plain[0] if principle else _document(shown, plain), ensure_ascii=False, indent=2))
        return
    if principle is None:
        console.print(_head(shown, some))
    if principle or all_wordings:
        for item in some:
            console.print(_whole(shown, item, draws[item.id]))
        if principle is None and (shared := _examples(shown.constitution)):
            console.print(Group(Text("\nFor every principle", "bold underline"), _rows(shared)))
    else:
        console.print(_table(some, draws, wide=console.width >= WIDE))


def read(source: str) -> Shown:
    """Load a constitution with what its file says; raises InputError."""
    from cai.constitution.parse import load_tree, read_constitution

    tree = load_tree(source)
    constitution = read_constitution(tree)
    items = list(zip(constitution.principles, tree.data["principles"], strict=True))
    here = tree.values.get(("extends",))
    inherited = [item.id for n, (item, _) in enumerate(items) if here and tree.place(("principles", n)) == here]
    return Shown(constitution, {item.id: frozenset(said) for item, said in items}, frozenset(inherited))


def _chosen(constitution: "Constitution", principle: str | None, tags: tuple[str, ...]) -> tuple["Principle", ...]:
    from cai.strict_yaml import suggestion

    if principle is not None:
        known = [item.id for item in constitution.principles]
        if principle not in known:
            problem = f"{constitution.name} has no {principle!r}"
            raise InputError(Problem("PRINCIPLE", 0, 0, problem, suggestion(principle, known)))
        return (constitution[principle],)
    tagged = sorted({tag for item in constitution.principles for tag in item.tags})
    for tag in tags:
        if tag not in tagged:
            problem = f"no principle of {constitution.name} has the tag {tag!r}"
            raise InputError(Problem("--tag", 0, 0, problem, suggestion(tag, tagged)))
    return constitution.tagged(tags)


def _draws(principles: tuple["Principle", ...]) -> dict[str, float]:
    total = sum(item.weight for item in principles)
    return {item.id: item.weight / total for item in principles}


def _list(console: Console, *, as_json: bool) -> None:
    """Print the constitutions that come with cai."""
    from cai.constitution import load_constitution
    from cai.constitution.parse import shipped

    found = [load_constitution(path) for path in shipped().values()]
    if as_json:
        fields = ("name", "version", "licence", "description", "digest")
        plain = [
            {**{name: getattr(item, name) for name in fields}, "principles": len(item.principles)} for item in found
        ]
        print(json.dumps(plain, ensure_ascii=False, indent=2))
        return
    table = _grid("name", "version", "principles", "about")
    table.columns[0].no_wrap = True
    table.columns[2].justify = "right"
    for item in found:
        about = re.match(r".*?[.!?](?=\s|$)|.*", item.description, re.DOTALL)
        table.add_row(
            Text(item.name, "bold"), Text(item.version), str(len(item.principles)), Text(about.group() if about else "")
        )
    console.print(table)


def _grid(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _rows(rows: list[tuple[str, str | Text]]) -> Table:
    """Return names and, beside them, texts that wrap between words; empty texts are left out."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, said in rows:
        if said:
            table.add_row(name, Text(said) if isinstance(said, str) else said)
    return table


def _head(shown: Shown, some: tuple["Principle", ...]) -> Panel:
    constitution = shown.constitution
    principles = constitution.principles
    tags = Counter(tag for item in principles for tag in item.tags)
    checked = sum(bool(item.checker) for item in principles)
    probes = [probe for item in principles for probe in item.probes]
    examples = [
        f"{count} of {what}"
        for name, what in (("few_shots", "critique and revision"), ("comparison_shots", "comparison"))
        if (count := sum(len(getattr(each, name)) for each in (constitution, *principles)))
    ]
    rows: list[tuple[str, str | Text]] = [
        ("about", constitution.description),
        ("licence", constitution.licence),
        ("digest", constitution.digest),
        ("principles", f"{len(principles)}: {_tiers(principles)}; {_framings(principles)}"),
        ("extends", f"{len(shown.inherited)} taken over as they are" if shown.inherited else ""),
        ("draws", _chances(some, "" if len(some) == len(principles) else f" of the {len(some)} below")),
        ("probes", f"{len(probes)}, {sum(bool(probe.twin) for probe in probes)} with a twin" if probes else "none"),
        ("checkers", f"{checked}" if checked else ""),
        ("examples", ", ".join(examples)),
        ("templates", "\n".join(f"{name}: {getattr(constitution.wordings, name)}" for name in _replaced(constitution))),
        ("tags", ", ".join(f"{tag} {count}" for tag, count in sorted(tags.items(), key=lambda item: -item[1]))),
    ]
    title = Text(f"{constitution.name} {constitution.version}", "bold")
    return Panel(_rows(rows), title=title, title_align="left")


def _tiers(principles: tuple["Principle", ...]) -> str:
    counts = Counter(item.priority for item in principles)
    tiers = sorted((key for key in counts if key != "hard"), key=int)
    said = [f"{counts[tier]} in tier {tier}" for tier in tiers]
    return ", ".join([f"{counts['hard']} hard", *said] if counts["hard"] else said)


def _framings(principles: tuple["Principle", ...]) -> str:
    avoid = sum(item.framing == "avoid" for item in principles)
    return f"{len(principles) - avoid} to do, {avoid} to avoid"


def _chances(principles: tuple["Principle", ...], among: str) -> str:
    draws = sorted(_draws(principles).values())
    if draws[0] == draws[-1]:
        return f"{_percent(draws[0])} for each{among}"
    return f"{_percent(draws[0])} to {_percent(draws[-1])}, by weight{among}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _replaced(constitution: "Constitution") -> list[str]:
    from cai.constitution import Wordings

    usual = Wordings()
    return [name for name in _STAGES if getattr(constitution.wordings, name) != getattr(usual, name)]


def _table(principles: tuple["Principle", ...], draws: dict[str, float], *, wide: bool) -> Table:
    """Return a row per principle; a column that would be empty, or the same in every row, is not there."""
    weights = len({item.weight for item in principles}) > 1
    tags, checkers = any(item.tags for item in principles), any(item.checker for item in principles)
    columns = ["principle", *["title"] * wide, "tier", "framing", *["weight"] * (weights and wide)]
    columns += [*["drawn"] * weights, "probes"]
    if wide or not (tags and checkers):
        columns += [name for name, there in (("tags", tags), ("checker", checkers)) if there]
    else:
        columns.append("tags, checker")
    table = _grid(*columns)
    for column in table.columns:
        name = str(column.header)
        column.justify = "right" if name in ("weight", "drawn", "probes") else "left"
        column.no_wrap = name in ("tier", "framing", "weight", "drawn", "probes")
    table.columns[0].min_width = min(max(len(item.id) for item in principles), 30)
    for item in principles:
        row = _cells(item, draws[item.id], wide=wide)
        table.add_row(*(row[name] for name in columns))
    return table


def _cells(item: "Principle", draw: float, *, wide: bool) -> dict[str, Text]:
    title, tags, checker = Text(item.title, "dim"), Text(", ".join(item.tags)), Text(item.checker, "cyan")
    return {
        "principle": Text(item.id, "bold") if wide else Text.assemble((item.id, "bold"), "\n", title),
        "title": title,
        "tier": Text("hard", "bold red") if item.priority == "hard" else Text(str(item.priority)),
        "framing": Text(item.framing),
        "weight": Text(f"{item.weight:g}"),
        "drawn": Text(_percent(draw)),
        "probes": Text(str(len(item.probes)) if item.probes else "-"),
        "tags": tags,
        "checker": checker,
        "tags, checker": Text("\n").join(part for part in (tags, checker) if part),
    }


def _whole(shown: Shown, item: "Principle", draw: float) -> Group:
    """Return all there is to know of a principle; what was derived is marked, and where that came from."""
    from cai.constitution.checkers import checkers

    rule = checkers().get(item.checker.partition(":")[0].strip(), "").partition(":")[0]
    margin = f"a successor may fall by {100 * item.gate_margin:g} % of the probes" if item.gate_margin else ""
    framing = f"{item.framing}{' (derived)' if 'framing' in shown.derived(item) else ''}"
    facts = _rows(
        [
            ("text", item.text),
            ("tier", str(item.priority)),
            ("framing", framing),
            ("weight", f"{item.weight:g}, drawn {_percent(draw)}"),
            ("tags", ", ".join(item.tags)),
            ("checker", f"{item.checker} ({rule.rstrip('.')})" if rule else item.checker),
            ("gate", margin),
            ("under", " > ".join(item.path)),
            ("source", item.source),
            ("extends", "taken over as it is" if item.id in shown.inherited else ""),
        ]
    )
    wordings = _grid("stage", "origin", "wording")
    replaced = _replaced(shown.constitution)
    for name in _STAGES:
        derived = name in shown.derived(item)
        origin = ("own template" if name in replaced else "derived") if derived else "given"
        wordings.add_row(name, Text(origin, "dim" if derived else "green"), Text(getattr(item, name)))
    title = Text.assemble(("\n", ""), (item.id, "bold underline"), f"  {item.title}")
    if "title" in shown.derived(item):
        title.append(" (derived)", "dim")
    probes = [
        (f"probe {n}", Text.assemble(probe.prompt, ("\ntwin: ", "dim") if probe.twin else "", probe.twin))
        for n, probe in enumerate(item.probes, 1)
    ]
    return Group(title, facts, wordings, _rows([*probes, *_examples(item)]))


def _examples(item: "Principle | Constitution") -> list[tuple[str, str | Text]]:
    rows: list[tuple[str, str | Text]] = []
    for name, parts in (("example", item.few_shots), ("comparison", item.comparison_shots)):
        for number, part in enumerate(parts, 1):
            said = [(key, value) for key, value in part.model_dump().items() if value]
            lines = Text("\n").join(Text.assemble((f"{key.replace('_', ' ')}: ", "dim"), value) for key, value in said)
            rows.append((f"{name} {number}", lines))
    return rows


def _plain(shown: Shown, item: "Principle", draws: dict[str, float]) -> dict[str, Any]:
    told = {"draw": draws[item.id], "derived": shown.derived(item), "inherited": item.id in shown.inherited}
    return {**item.model_dump(mode="json"), **told}


def _document(shown: Shown, principles: list[dict[str, Any]]) -> dict[str, Any]:
    constitution = shown.constitution
    tags = Counter(tag for item in constitution.principles for tag in item.tags)
    fields = constitution.model_dump(mode="json")
    return {**fields, "principles": principles, "digest": constitution.digest, "tags": dict(sorted(tags.items()))}
