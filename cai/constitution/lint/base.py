"""What a rule is, what it looks at and what it finds.

A rule is a function that yields hits, registered by `@rule` with an id that never changes its meaning. Its docstring
explains it in a line; `bad` and `good` are parts of a file that show it, and the tests run them.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, get_args

from cai.constitution.lint.words import plain
from cai.constitution.model import Constitution, Principle
from cai.errors import Problem
from cai.strict_yaml import Location, Place, Tree

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
"""From what makes a run wrong, over what makes it worse, to what is worth knowing."""

CONTEXT = 2048
"""Tokens that a small model takes at once."""


@dataclass(frozen=True)
class Finding:
    """One thing that a rule found, and where.

    >>> str(Finding("C041", "note", Problem("c.yaml", 1, 1, "no licence", "name one")))
    'c.yaml:1:1: C041 no licence; name one'
    """

    rule: str
    severity: Severity
    problem: Problem

    def __str__(self) -> str:
        """Return the one-line form that editors can jump to."""
        at = self.problem
        return str(Problem(at.path, at.line, at.col, f"{self.rule} {at.problem}", at.fix))


@dataclass(frozen=True)
class Hit:
    """What a rule yields: a part of the file, what is wrong with it, and what to do if the rule's own advice won't."""

    at: Location
    problem: str
    fix: str = ""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is linted, and what rules may compare it with."""

    constitution: Constitution
    tree: Tree | None = None
    """Where its parts stand; None for one that comes from no file."""
    others: tuple[Constitution, ...] = ()
    """Constitutions of other files."""
    context: int = CONTEXT
    """Tokens that the smallest model takes which is asked by this constitution."""

    @cached_property
    def own(self) -> list[tuple[int, Principle]]:
        """The principles that this file gives or changes, with their number; what it took over is another's affair."""
        numbered = list(enumerate(self.constitution.principles))
        return [(index, item) for index, item in numbered if not self.inherited(index)]

    @cached_property
    def distinct(self) -> list[int]:
        """The numbers of principles, without those that repeat the text of an earlier one at the same priority."""
        first: dict[tuple[str, object], int] = {}
        for index, item in enumerate(self.constitution.principles):
            first.setdefault((plain(item.text), item.priority), index)
        return list(first.values())

    def inherited(self, index: int) -> bool:
        """Tell whether a principle was taken over as it is, from what the file `extends`."""
        if self.tree is None or ("extends",) not in self.tree.values:
            return False
        return self.tree.values.get(("principles", index)) == self.tree.values["extends",]

    def place(self, location: Location) -> Place:
        """Return the line and column of a part, or of the nearest thing around it; 0 without a file."""
        return self.tree.place(location) if self.tree else (0, 0)

    @property
    def path(self) -> str:
        """The file's name, or what stands for it."""
        return self.tree.name if self.tree else self.constitution.name


Check = Callable[[Subject], Iterator[Hit]]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A check with its name, its weight and its documentation."""

    id: str
    severity: Severity
    fix: str
    """What to do, where a hit does not say it better."""
    bad: str
    """A part of a file that it finds fault with."""
    good: str
    """The same, mended."""
    check: Check = field(repr=False)

    @property
    def about(self) -> str:
        """What it finds, in a line."""
        return self._told[0]

    @property
    def more(self) -> str:
        """What else its docstring says: what it lets pass."""
        return " ".join(self._told[1:])

    @property
    def _told(self) -> list[str]:
        return [" ".join(part.split()) for part in (self.check.__doc__ or "").split("\n\n")]

    def findings(self, subject: Subject) -> Iterator[Finding]:
        """Run the check."""
        for hit in self.check(subject):
            place = subject.place(hit.at)
            yield Finding(self.id, self.severity, Problem(subject.path, *place, hit.problem, hit.fix or self.fix))


RULES: dict[str, Rule] = {}
"""All rules by id, filled by the modules that have them."""


def rule(id: str, severity: Severity, *, fix: str, bad: str, good: str) -> Callable[[Check], Check]:
    """Register a check as a rule; raises ValueError for an id that is taken or malformed."""
    if not re.fullmatch(r"C\d{3}", id) or id in RULES:
        raise ValueError(f"{id!r}: not a new id such as C045")

    def register(check: Check) -> Check:
        RULES[id] = Rule(id=id, severity=severity, fix=fix, bad=bad.strip("\n"), good=good.strip("\n"), check=check)
        return check

    return register


def shown(text: str, most: int = 60) -> str:
    """Return the beginning of a text in quotes, for a message.

    >>> shown("Be kind and calm.", 10)
    "'Be kind…'"
    """
    plain = " ".join(text.split())
    if len(plain) > most:
        plain = plain[: plain.rfind(" ", 0, most) if " " in plain[:most] else most] + "…"
    return repr(plain)
