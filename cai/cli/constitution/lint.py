"""`cai constitution lint`: what rules find in constitutions, for people and for CI."""

import json
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cai.errors import InputError, Problem

if TYPE_CHECKING:
    from cai.constitution import Constitution
    from cai.constitution.lint import Finding, Rule
    from cai.strict_yaml import Tree

FOUND = 2
"""The exit code for a file with errors, and with --strict for one with warnings: that of bad input."""
LONGEST = 200
"""Characters of an example's line that are shown; the example of what is too long has more."""
_STYLES = {"error": "red", "warning": "yellow", "note": "cyan"}


def lint(
    sources: Annotated[
        list[str] | None, typer.Argument(help="YAML or Markdown files, or names of shipped constitutions.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Fail for warnings too, not for errors only.")] = False,
    select: Annotated[str, typer.Option(help="Only these rules, as in C001,C013; C01 stands for C010 to C019.")] = "",
    ignore: Annotated[str, typer.Option(help="Not these rules.")] = "",
    context: Annotated[
        int, typer.Option(min=256, help="Tokens that the smallest model takes which the constitution is for.")
    ] = 2048,
    list_rules: Annotated[bool, typer.Option("--rules", help="List the rules.")] = False,
    explain: Annotated[str, typer.Option(help="Explain a rule, with a bad and a good example.")] = "",
) -> None:
    """Look for slips, contradictions and gaps in constitutions; exit 2 when there are errors."""
    from cai.constitution.lint import RULES

    console = Console(highlight=False)
    if explain:
        _explain(RULES[_one(explain)], console, as_json=as_json)
        return
    chosen = set(_known(select, "--select") if select else RULES) - set(_known(ignore, "--ignore"))
    if list_rules:
        _list([RULES[key] for key in sorted(chosen)], console, as_json=as_json)
        return
    if not sources:
        raise InputError(Problem("SOURCES", 0, 0, "there is nothing to lint", "name a file or a shipped constitution"))
    read = _read(sources)
    found = _lint(read, context=context, rules=chosen)
    counts = Counter[str](finding.severity for findings in found for finding in findings)
    if as_json:
        print(json.dumps(_document(read, found, counts), indent=2, ensure_ascii=False))
    else:
        for (tree, _), findings in zip(read, found, strict=True):
            _show(tree.name, findings, console)
        console.print(f"{_several(len(read), 'file')}, {_counted(counts)}")
    if counts["error"] or (strict and counts["warning"]):
        raise typer.Exit(FOUND)


def _read(sources: list[str]) -> "list[tuple[Tree, Constitution]]":
    """Read every file before any is linted; raises InputError with the problems of all."""
    from cai.constitution.parse import load_tree, read_constitution

    read, problems = [], []
    for source in dict.fromkeys(sources):
        try:
            tree = load_tree(source)
            read.append((tree, read_constitution(tree)))
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    return read


def _lint(read: "list[tuple[Tree, Constitution]]", *, context: int, rules: set[str]) -> "list[list[Finding]]":
    """Lint each beside the others and beside those that are shipped."""
    from cai.constitution import load_constitution
    from cai.constitution.lint import lint as lint_one
    from cai.constitution.parse import shipped

    beside = [constitution for _, constitution in read]
    given = {item.digest for item in beside}
    packaged = [load_constitution(path) for path in shipped().values()]
    beside += [item for item in packaged if item.digest not in given]
    return [
        lint_one(
            constitution,
            tree=tree,
            others=[item for item in beside if item is not constitution],
            context=context,
            rules=rules,
        )
        for tree, constitution in read
    ]


def _known(said: str, option: str) -> list[str]:
    """Return the rules that a list of ids, or of their beginnings, names; raises InputError for one that is none."""
    from cai.constitution.lint import RULES

    found: list[str] = []
    for part in filter(None, (part.strip().upper() for part in said.split(","))):
        named = [key for key in sorted(RULES) if key.startswith(part)]
        if not named:
            raise InputError(Problem(option, 0, 0, f"there is no rule {part!r}", "list them with --rules"))
        found += named
    return found


def _one(said: str) -> str:
    from cai.constitution.lint import RULES
    from cai.strict_yaml import suggestion

    key = said.strip().upper()
    if key not in RULES:
        raise InputError(Problem("--explain", 0, 0, f"there is no rule {key!r}", suggestion(key, RULES)))
    return key


def _show(path: str, findings: "list[Finding]", console: Console) -> None:
    """Print a file's findings, the worst kind first, each in a line that editors can jump to."""
    from cai.constitution.lint import SEVERITIES

    if not findings:
        return
    console.print(Text(path, style="bold"), soft_wrap=True)
    for severity in SEVERITIES:
        some = [finding for finding in findings if finding.severity == severity]
        if some:
            console.print(Text(_several(len(some), severity), style=_STYLES[severity]))
        for finding in some:
            console.print(Text(str(finding)), soft_wrap=True)
    console.print()


def _document(
    read: "list[tuple[Tree, Constitution]]", found: "list[list[Finding]]", counts: Counter[str]
) -> dict[str, Any]:
    files = [
        {
            "path": tree.name,
            "name": constitution.name,
            "digest": constitution.digest,
            "findings": [
                {"rule": finding.rule, "severity": finding.severity, **asdict(finding.problem)} for finding in findings
            ],
        }
        for (tree, constitution), findings in zip(read, found, strict=True)
    ]
    return {"files": files, "errors": counts["error"], "warnings": counts["warning"], "notes": counts["note"]}


def _several(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _counted(counts: Counter[str]) -> str:
    from cai.constitution.lint import SEVERITIES

    return ", ".join(_several(counts[severity], severity) for severity in SEVERITIES)


def _entry(rule: "Rule") -> dict[str, str]:
    return {"id": rule.id, "severity": rule.severity, "about": rule.about, "more": rule.more, "fix": rule.fix}


def _list(rules: "list[Rule]", console: Console, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([_entry(rule) for rule in rules], indent=2, ensure_ascii=False))
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("Rule", no_wrap=True)
    table.add_column("Kind", no_wrap=True)
    table.add_column("What it finds")
    for rule in rules:
        table.add_row(rule.id, Text(rule.severity, style=_STYLES[rule.severity]), Text(rule.about))
    console.print(table)


def _cut(line: str) -> str:
    return line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} … {line[-LONGEST // 2 :]}"


def _explain(rule: "Rule", console: Console, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({**_entry(rule), "bad": rule.bad, "good": rule.good}, indent=2, ensure_ascii=False))
        return
    console.print(Text.assemble((rule.id, "bold"), " ", (rule.severity, _STYLES[rule.severity])))
    console.print(Text(f"{rule.about} {rule.more}".rstrip()))
    console.print(Text(f"\nTo mend it: {rule.fix}."))
    for name, example in (("Bad", rule.bad), ("Good", rule.good)):
        console.print()
        console.print(Text(name, style="bold"))
        console.print(Text("\n".join(f"  {_cut(line)}" for line in example.splitlines())), soft_wrap=True)
