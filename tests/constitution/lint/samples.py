"""Constitutions of a few lines, for the tests of rules."""

import textwrap
from pathlib import Path

from cai.constitution.lint import RULES, Finding, lint
from cai.constitution.parse import load_tree, read_constitution
from cai.strict_yaml import load


def whole(part: str) -> str:
    """Return a file of which a rule's example is a part: one principle, or several keys of a constitution."""
    part = textwrap.dedent(part).strip("\n")
    data = load(part).data
    lines = [f'{key}: "{value}"' for key, value in (("name", "sample"), ("version", "1.0")) if key not in data]
    if "text" in data:
        one = textwrap.indent(part, "    ").lstrip()
        part = f"principles:\n  - {one}" if "id" in data else f"principles:\n  - id: one\n    {one}"
    return "\n".join([*lines, part, ""])


def findings(rule: str, part: str, **options: object) -> list[Finding]:
    """Return what one rule finds in a part of a file."""
    tree = load(whole(part), name="sample.yaml")
    return lint(read_constitution(tree), tree=tree, rules=[rule], **options)  # type: ignore[arg-type]


def hits(rule: str, part: str, **options: object) -> list[str]:
    """Return the problems that one rule finds in a part of a file."""
    assert rule in RULES
    return [finding.problem.problem for finding in findings(rule, part, **options)]


def file_findings(path: Path, text: str) -> list[Finding]:
    """Return what all rules find in a file, written to a path."""
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    tree = load_tree(path)
    return lint(read_constitution(tree), tree=tree)
