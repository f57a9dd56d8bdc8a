"""Critique chains: a draft, then rounds of critique and revision, each with what it changed."""

from collections.abc import Sequence
from dataclasses import dataclass

from cai.records.journal import of_type
from cai.records.schema import Critique, Draft, Dropped, Prompt, Record, Revision
from cai.report.diff import Segment, compare_words, share_changed
from cai.types import Dialogue


@dataclass(frozen=True, kw_only=True)
class Round:
    """One critique and the revision that follows it; `revision` is None when that was dropped or is owed."""

    number: int
    principle: str
    critique: str
    """Empty where the run revises at once."""
    critique_cut: bool
    revision: str | None
    revision_cut: bool
    changes: tuple[Segment, ...]
    """From the answer that was criticised to the revision."""


@dataclass(frozen=True, kw_only=True)
class Chain:
    """What became of one draft."""

    messages: Dialogue
    kind: str
    category: str
    sample: int
    draft: str
    draft_cut: bool
    rounds: tuple[Round, ...]
    changes: tuple[Segment, ...]
    """From the draft to the last revision."""
    changed: float | None
    """The share of draft and last revision that the two do not have in common; None without a revision."""
    dropped: tuple[str, ...]
    """Why work on this prompt was left out."""

    @property
    def final(self) -> str:
        """The last answer: the last revision, or the draft."""
        revisions = [step.revision for step in self.rounds if step.revision is not None]
        return revisions[-1] if revisions else self.draft


@dataclass(frozen=True, kw_only=True)
class Chains:
    """All chains of a generation, and how many records of each type they are made of."""

    chains: tuple[Chain, ...]
    drafts: int
    critiques: int
    revisions: int


@dataclass(frozen=True)
class _Links:
    """The records of the stage, by what they follow from."""

    critiques: dict[str, list[Critique]]
    """By the id of the answer. An answer has several when the revision of a round was dropped."""
    revisions: dict[str, Revision]
    """By the id of the critique, or of the answer where a run revises at once."""
    reasons: dict[str, list[str]]
    """Why something was dropped, by the id of the prompt."""


def read_chains(
    prompts: Sequence[Prompt], drafts: Sequence[Record], critiques: Sequence[Record], revisions: Sequence[Record]
) -> Chains:
    """Join the records of the generate stage by their ids."""
    by_id = {prompt.id: prompt for prompt in prompts}
    everything = [*drafts, *critiques, *revisions]
    links = _Links({}, {}, {})
    for critique in sorted(of_type(everything, Critique), key=lambda critique: critique.round):
        links.critiques.setdefault(critique.answer, []).append(critique)
    for revision in of_type(everything, Revision):
        links.revisions.setdefault(revision.critique, revision)
    for record in of_type(everything, Dropped):
        links.reasons.setdefault(record.prompt, []).append(f"{record.stage}: {record.reason}")
    found = of_type(everything, Draft)
    return Chains(
        chains=tuple(_chain(draft, by_id.get(draft.prompt), links) for draft in found),
        drafts=len(found),
        critiques=len(of_type(everything, Critique)),
        revisions=len(of_type(everything, Revision)),
    )


def _chain(draft: Draft, prompt: Prompt | None, links: _Links) -> Chain:
    rounds: list[Round] = []
    answer: Draft | Revision | None = draft
    last: Draft | Revision = draft
    while answer is not None:
        last = answer
        answer = None
        for critique in links.critiques.get(last.id, []):
            answer = links.revisions.get(critique.id)
            rounds.append(_round(last.text, critique, answer))
            if answer is not None:
                break
        if answer is None and (answer := links.revisions.get(last.id)) is not None:
            rounds.append(_round(last.text, None, answer))
    revised = [step for step in rounds if step.revision is not None]
    changes = revised[0].changes if len(revised) == 1 else ()
    if len(revised) > 1:
        changes = tuple(compare_words(draft.text, last.text))
    return Chain(
        messages=prompt.messages if prompt else (),
        kind=prompt.kind if prompt else "",
        category=prompt.category if prompt else "",
        sample=draft.sample,
        draft=draft.text,
        draft_cut=draft.finish_reason == "length",
        rounds=tuple(rounds),
        changes=changes,
        changed=share_changed(list(changes)) if revised else None,
        dropped=tuple(links.reasons.get(draft.prompt, ())),
    )


def _round(before: str, critique: Critique | None, revision: Revision | None) -> Round:
    asked = critique or revision
    assert asked is not None
    return Round(
        number=asked.round,
        principle=asked.principle,
        critique=critique.text if critique else "",
        critique_cut=critique is not None and critique.finish_reason == "length",
        revision=revision.text if revision else None,
        revision_cut=revision is not None and revision.finish_reason == "length",
        changes=tuple(compare_words(before, revision.text)) if revision else (),
    )
