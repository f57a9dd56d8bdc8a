"""Rules that a program can hold a constitution against: slips, contradictions, what a stage would stumble over.

They read words and know no meanings: a finding is something to look at, and silence is no praise. The rules stand in
`text`, `wordings`, `structure`, `examples` and `files`, one function each.
"""

from collections.abc import Collection, Iterable
from pathlib import Path

from cai.constitution.lint import examples, files, structure, text, wordings
from cai.constitution.lint.base import CONTEXT, RULES, SEVERITIES, Finding, Rule, Severity, Subject
from cai.constitution.model import Constitution
from cai.constitution.parse import load_tree, read_constitution
from cai.strict_yaml import Tree

__all__ = ["CONTEXT", "RULES", "SEVERITIES", "Finding", "Rule", "Severity", "lint", "lint_file"]

_MODULES = (text, wordings, structure, examples, files)
"""Imported for the rules that they register."""


def lint(
    constitution: Constitution,
    *,
    tree: Tree | None = None,
    others: Iterable[Constitution] = (),
    context: int = CONTEXT,
    rules: Collection[str] | None = None,
) -> list[Finding]:
    """Return what the rules find in a constitution, in the order of its lines.

    `tree` is what it was read from and says where things stand; `others` are compared with it; `context` is that of the
    smallest model in use, in tokens; `rules` are the ids of those to apply, all of them if it is None. In a file that
    `extends` another, principles that were taken over as they are are only looked at beside its own.
    """
    subject = Subject(constitution=constitution, tree=tree, others=tuple(others), context=context)
    chosen = [RULES[key] for key in sorted(RULES) if rules is None or key in rules]
    found = [finding for each in chosen for finding in each.findings(subject)]
    return sorted(found, key=lambda finding: (finding.problem.line, finding.problem.col, finding.rule))


def lint_file(source: str | Path, *, context: int = CONTEXT) -> list[Finding]:
    """Return what the rules find in a YAML or Markdown file, or in a shipped constitution; raises InputError."""
    tree = load_tree(source)
    return lint(read_constitution(tree), tree=tree, context=context)
