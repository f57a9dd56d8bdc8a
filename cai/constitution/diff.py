"""How one constitution differs from another, by principles rather than lines, and which prompts a model then sees anew.

A principle is the same one when its id is the same, or, among those left, when its text is: then it was renamed. A
wording that both sides derive from the text is not told as a change of its own: the text or the template is.
"""

import re
from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any, Literal, TypeVar

from cai.constitution.ask import comparison_request, critique_request, revision_request
from cai.constitution.model import ComparisonShot, Constitution, FewShot, Principle, Probe
from cai.constitution.render import fill
from cai.types import Dialogue, Message

Stage = Literal["critique", "revision", "comparison", "contrast"]
STAGES: tuple[Stage, ...] = ("critique", "revision", "comparison", "contrast")
"""What is asked by a principle. ``contrast`` is both instructions of a contrastive judge: the text and its opposite."""

Cause = Literal["wording", "text", "template", "own examples", "shared examples"]
"""Why a prompt changed: a wording that is given, the text or the template it is derived from, examples before it."""

Example = FewShot | ComparisonShot | Probe
T = TypeVar("T")

_TEXTS = ("text", "title", *STAGES, "source")
_VALUES = ("weight", "tags", "priority", "framing", "checker", "gate_margin", "path")
_LISTS = ("probes", "few_shots", "comparison_shots")
_WORD = re.compile(r"\w+(?:['’-]\w+)*")
_TOKEN = re.compile(rf"\s+|{_WORD.pattern}|[^\w\s]")
_REWRITTEN = 3
"""A text that keeps fewer than one word in so many is told as a whole: what it shares with the old one is chance."""
_COSTLY = 250_000
"""Words times words: beyond it frequent words are no anchors, or a text of one word repeated would take seconds."""


@dataclass(frozen=True)
class Edit:
    """A stretch of text that both versions have (``same``), or only one of them."""

    kind: Literal["same", "removed", "added"]
    text: str


@dataclass(frozen=True)
class Reworded:
    """A text that reads differently; a derived one was not given but made from the principle's id or text."""

    field: str
    old: str
    new: str
    old_derived: bool = False
    new_derived: bool = False

    @property
    def edits(self) -> tuple[Edit, ...]:
        """The way from the old text to the new one, word by word."""
        return word_edits(self.old, self.new)


@dataclass(frozen=True)
class Changed:
    """Another value: a weight, tags, a version."""

    field: str
    old: Any
    new: Any


@dataclass(frozen=True)
class Relisted:
    """Probes or examples that came, went, changed or stand in another order."""

    field: str
    added: tuple[Example, ...]
    removed: tuple[Example, ...]
    changed: tuple[tuple[str, tuple[Reworded, ...]], ...]
    """Those with the same prompt: the prompt, and which texts of them changed."""
    moved: int
    """How many have to change places, at least."""


Change = Reworded | Changed | Relisted


@dataclass(frozen=True)
class PrincipleDiff:
    """What changed in one principle. Places count from 1."""

    id: str
    old_id: str
    old_place: int
    new_place: int
    moved: bool
    """Whether it is among the fewest principles that, taken out, leave the others in their old order."""
    changes: tuple[Change, ...]

    @property
    def renamed(self) -> bool:
        """Whether its id changed."""
        return self.id != self.old_id

    def __bool__(self) -> bool:
        """Tell whether anything changed."""
        return self.renamed or self.moved or bool(self.changes)


@dataclass(frozen=True)
class PromptDiff:
    """A prompt that a model sees anew, of a principle that both constitutions have (by its new id)."""

    principle: str
    stage: Stage
    causes: tuple[Cause, ...]


@dataclass(frozen=True)
class Diff:
    """All that changed from `a` to `b`; what did not change is not in it."""

    a: Constitution
    b: Constitution
    changes: tuple[Change, ...]
    """Of the constitution itself, its templates (``wordings.critique``) and the examples that all principles share."""
    added: tuple[Principle, ...]
    removed: tuple[Principle, ...]
    principles: tuple[PrincipleDiff, ...]
    prompts: tuple[PromptDiff, ...]

    @property
    def same_digest(self) -> bool:
        """Whether records made under one count as made under the other."""
        return self.a.digest == self.b.digest

    def __bool__(self) -> bool:
        """Tell whether anything changed; a template that no principle uses does not change the digest."""
        return bool(self.changes or self.added or self.removed or self.principles)


def diff(a: Constitution, b: Constitution) -> Diff:
    """Return what changed from `a` to `b`."""
    matched = _matched(a.principles, b.principles, lambda item: item.id, lambda item: item.text)
    moved = _moved(matched)
    kept = [
        PrincipleDiff(
            id=b.principles[new].id,
            old_id=a.principles[old].id,
            old_place=old + 1,
            new_place=new + 1,
            moved=(old, new) in moved,
            changes=tuple(_principle_changes(a, a.principles[old], b, b.principles[new])),
        )
        for old, new in matched
    ]
    olds, news = {old for old, _ in matched}, {new for _, new in matched}
    return Diff(
        a=a,
        b=b,
        changes=tuple(_own_changes(a, b)),
        added=tuple(item for index, item in enumerate(b.principles) if index not in news),
        removed=tuple(item for index, item in enumerate(a.principles) if index not in olds),
        principles=tuple(item for item in kept if item),
        prompts=tuple(
            prompt for old, new in matched for prompt in _prompts(a, a.principles[old], b, b.principles[new])
        ),
    )


def word_edits(old: str, new: str) -> tuple[Edit, ...]:
    """Return the way from one text to another: what is same or removed makes up the old one, the rest the new one.

    >>> [(edit.kind, edit.text) for edit in word_edits("Stay calm.", "Stay very calm.")]
    [('same', 'Stay'), ('added', ' very'), ('same', ' calm.')]
    """
    before, after = _TOKEN.findall(old), _TOKEN.findall(new)
    matcher = SequenceMatcher(None, before, after, autojunk=len(before) * len(after) > _COSTLY)
    steps: list[tuple[str, str, str]] = []  # same, removed, added: either the first, or one of the others or both
    for kind, i, j, k, m in matcher.get_opcodes():
        gone, come = "".join(before[i:j]), "".join(after[k:m])
        if kind == "equal" and not (gone.isspace() and steps and j < len(before) and m < len(after)):
            steps.append((gone, "", ""))
        elif steps and not steps[-1][0]:  # a space alone between two changes: one change reads better
            steps[-1] = ("", steps[-1][1] + gone, steps[-1][2] + come)
        else:
            steps.append(("", gone, come))
    words = sum(len(_WORD.findall(same)) for same, _, _ in steps)
    if words * _REWRITTEN < min(len(_WORD.findall(old)), len(_WORD.findall(new))):
        steps = [("", old, new)]
    kinds: tuple[Literal["same", "removed", "added"], ...] = ("same", "removed", "added")
    return tuple(Edit(kind, text) for step in steps for kind, text in zip(kinds, step, strict=True) if text)


def _matched(old: Sequence[T], new: Sequence[T], *keys: Callable[[T], Hashable]) -> list[tuple[int, int]]:
    """Return (old index, new index) of what is the same by the first key, then by the next, in the new order."""
    found: dict[int, int] = {}
    left = list(range(len(old)))
    for key in keys:
        waiting: defaultdict[Hashable, deque[int]] = defaultdict(deque)
        for index in left:
            waiting[key(old[index])].append(index)
        for index, item in enumerate(new):
            if index not in found and waiting.get(key(item)):
                found[index] = waiting[key(item)].popleft()
        taken = set(found.values())
        left = [index for index in left if index not in taken]
    return [(found[index], index) for index in sorted(found)]


def _moved(matched: list[tuple[int, int]]) -> set[tuple[int, int]]:
    """Return the pairs outside a longest sequence that is in order on both sides (patience sorting)."""
    tails: list[int] = []
    last: list[int] = []
    before: list[int | None] = []
    for index, (old, _) in enumerate(matched):
        place = bisect_left(tails, old)
        tails[place : place + 1] = [old]
        last[place : place + 1] = [index]
        before.append(last[place - 1] if place else None)
    moved = set(matched)
    step = last[-1] if last else None
    while step is not None:
        moved.discard(matched[step])
        step = before[step]
    return moved


def _own_changes(a: Constitution, b: Constitution) -> Iterator[Change]:
    for name in ("name", "version", "licence"):
        if getattr(a, name) != getattr(b, name):
            yield Changed(name, getattr(a, name), getattr(b, name))
    if a.description != b.description:
        yield Reworded("description", a.description, b.description)
    for stage in STAGES:
        old, new = getattr(a.wordings, stage), getattr(b.wordings, stage)
        if old != new:
            yield Reworded(f"wordings.{stage}", old, new)
    yield from _lists(a, b, ("few_shots", "comparison_shots"))


def _principle_changes(a: Constitution, old: Principle, b: Constitution, new: Principle) -> Iterator[Change]:
    for name in _TEXTS:
        before, after = getattr(old, name), getattr(new, name)
        derived = is_derived(a, old, name), is_derived(b, new, name)
        if before != after and derived != (True, True):
            yield Reworded(name, before, after, *derived)
    for name in _VALUES:
        if getattr(old, name) != getattr(new, name):
            yield Changed(name, getattr(old, name), getattr(new, name))
    yield from _lists(old, new, _LISTS)


def is_derived(constitution: Constitution, principle: Principle, field: str) -> bool:
    """Tell whether a wording, or the title, is what stands there when a file leaves it out."""
    value = getattr(principle, field)
    if field == "title":
        return bool(value == Principle(id=principle.id, text=principle.text).title)
    return field in STAGES and bool(value == fill(getattr(constitution.wordings, field), text=principle.text))


def _lists(old: Any, new: Any, names: Sequence[str]) -> Iterator[Relisted]:
    for name in names:
        before, after = getattr(old, name), getattr(new, name)
        if before != after:
            yield _relisted(name, before, after)


def _relisted(name: str, old: Sequence[Example], new: Sequence[Example]) -> Relisted:
    matched = _matched(old, new, lambda item: item, lambda item: item.prompt)
    olds, news = {index for index, _ in matched}, {index for _, index in matched}
    changed = []
    for before, after in ((old[i], new[j]) for i, j in matched if old[i] != new[j]):
        texts = ((field, getattr(before, field), getattr(after, field)) for field in type(before).model_fields)
        changed.append((after.prompt, tuple(Reworded(*text) for text in texts if text[1] != text[2])))
    return Relisted(
        field=name,
        added=tuple(item for index, item in enumerate(new) if index not in news),
        removed=tuple(item for index, item in enumerate(old) if index not in olds),
        changed=tuple(changed),
        moved=len(_moved(matched)),
    )


def _prompts(a: Constitution, old: Principle, b: Constitution, new: Principle) -> Iterator[PromptDiff]:
    asked_a, asked_b = _asked(a, old), _asked(b, new)
    for stage in STAGES:
        (before, shared_before), (after, shared_after) = asked_a[stage], asked_b[stage]
        if before == after:
            continue
        causes = list(_wording_causes(a, old, b, new, stage))
        name = "comparison_shots" if stage == "comparison" else "few_shots"
        own = getattr(old, name) != getattr(new, name) and before[shared_before:-1] != after[shared_after:-1]
        if own and stage != "contrast":
            causes.append("own examples")
        if before[:shared_before] != after[:shared_after]:
            causes.append("shared examples")
        yield PromptDiff(new.id, stage, tuple(causes))


def _asked(constitution: Constitution, principle: Principle) -> dict[Stage, tuple[Dialogue, int]]:
    """Return what each stage asks, with as little of a run in it as can be, and how many turns all principles share."""
    prompt = (Message("user", "?"),)
    comparison, _ = comparison_request(constitution.comparison_shots, principle, prompt, "?", "?")
    told = (Message("system", principle.text), Message("system", principle.contrast))
    return {
        "critique": critique_request(constitution, principle, prompt, "?"),
        "revision": revision_request(constitution, principle, prompt, "?", "?"),
        "comparison": (comparison, 2 * len(constitution.comparison_shots)),
        "contrast": (told, 0),
    }


def _wording_causes(a: Constitution, old: Principle, b: Constitution, new: Principle, stage: Stage) -> Iterator[Cause]:
    derived = is_derived(a, old, stage) and is_derived(b, new, stage)
    if getattr(old, stage) != getattr(new, stage):
        if not derived:
            yield "wording"
        elif getattr(a.wordings, stage) != getattr(b.wordings, stage):
            yield "template"
    if old.text != new.text and (derived or stage == "contrast"):
        yield "text"


def to_plain(found: Diff) -> dict[str, Any]:
    """Return a diff as plain values for JSON; texts come with their word-level edits."""
    sides = {
        side: {"name": item.name, "version": item.version, "digest": item.digest}
        for side, item in (("a", found.a), ("b", found.b))
    }
    return {
        **sides,
        "same_digest": found.same_digest,
        "changes": [_plain_change(change) for change in found.changes],
        "added": [item.model_dump(mode="json") for item in found.added],
        "removed": [item.model_dump(mode="json") for item in found.removed],
        "principles": [
            {
                "id": item.id,
                "old_id": item.old_id,
                "old_place": item.old_place,
                "new_place": item.new_place,
                "moved": item.moved,
                "changes": [_plain_change(change) for change in item.changes],
            }
            for item in found.principles
        ],
        "prompts": [
            {"principle": item.principle, "stage": item.stage, "causes": list(item.causes)} for item in found.prompts
        ],
    }


def _plain_change(change: Change) -> dict[str, Any]:
    if isinstance(change, Reworded):
        edits = [[edit.kind, edit.text] for edit in change.edits]
        derived = {"old_derived": change.old_derived, "new_derived": change.new_derived}
        return {"field": change.field, "old": change.old, "new": change.new, **derived, "edits": edits}
    if isinstance(change, Changed):
        return {"field": change.field, "old": change.old, "new": change.new}
    return {
        "field": change.field,
        "added": [item.model_dump(mode="json") for item in change.added],
        "removed": [item.model_dump(mode="json") for item in change.removed],
        "changed": [
            {"prompt": prompt, "changes": [_plain_change(text) for text in texts]} for prompt, texts in change.changed
        ],
        "moved": change.moved,
    }
