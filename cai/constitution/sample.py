"""Draws of principles from explicit seeds. The same seed gives the same principle on any machine and any Python.

Only `random.Random(seed).random()` is used: of that alone Python promises that its sequence never changes. A seed is an
integer or a text; texts are hashed (SHA-512) by `random` itself, not by `hash()`, which differs from run to run.
"""

import random
from bisect import bisect
from itertools import accumulate

from cai.constitution.model import Constitution, Principle
from cai.errors import InputError, Problem
from cai.strict_yaml import suggestion

Seed = int | str


def draw(constitution: Constitution, seed: Seed, *, tags: tuple[str, ...] = ()) -> Principle:
    """Return one principle, each as likely as its weight; the paper draws afresh for every step (section 3.1).

    `tags` leaves only principles with one of them. Raises ValueError when none is left.
    """
    principles = _among(constitution, tags)
    bounds = list(accumulate(principle.weight for principle in principles))
    return principles[min(bisect(bounds, random.Random(seed).random() * bounds[-1]), len(principles) - 1)]


def draw_distinct(constitution: Constitution, seed: Seed, count: int, *, tags: tuple[str, ...] = ()) -> list[Principle]:
    """Return `count` different principles (all, if there are fewer), drawn one after the other by weight."""
    left = list(_among(constitution, tags))
    generator = random.Random(seed)
    drawn: list[Principle] = []
    while left and len(drawn) < count:
        bounds = list(accumulate(principle.weight for principle in left))
        drawn.append(left.pop(min(bisect(bounds, generator.random() * bounds[-1]), len(left) - 1)))
    return drawn


def draw_balanced(constitution: Constitution, seed: Seed, count: int, *, tags: tuple[str, ...] = ()) -> list[Principle]:
    """Return `count` principles of which each is used as often as any other, or once more; weights don't count."""
    principles = _among(constitution, tags)
    generator = random.Random(seed)
    drawn: list[Principle] = []
    while len(drawn) < count:
        drawn.extend(sorted(principles, key=lambda _: generator.random()))
    return drawn[:count]


def check_tags(constitution: Constitution, tags: tuple[str, ...], path: str) -> None:
    """Raise InputError for tags that no principle has: a run would draw from fewer than was meant."""
    known = {tag for principle in constitution.principles for tag in principle.tags}
    problems = [
        Problem(path, 0, 0, f"no principle has the tag {tag!r}", suggestion(tag, sorted(known)))
        for tag in tags
        if tag not in known
    ]
    if problems:
        raise InputError(problems)


def _among(constitution: Constitution, tags: tuple[str, ...]) -> tuple[Principle, ...]:
    principles = constitution.tagged(tags)
    if not principles:
        raise ValueError(f"no principle of {constitution.name} has a tag among {', '.join(tags)}")
    return principles
