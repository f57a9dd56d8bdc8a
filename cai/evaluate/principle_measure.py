"""What is asked about a draft and its revision by a principle, and by principles that have nothing to do with it.

**Fault**: the log-probability of Yes less that of No to a plain question, less its mean over unrelated principles: a
model that likes to say No says it of everything. The critique's own text is no measure: one that is asked for finds
something. On 41 answers of the shipped constitutions' examples, each beside its better version, the embedded 135M model
gives the worse one the higher value in 68 %, without that subtraction in 56 %. It was the best of eight ways to ask
(the others: 20 to 63 %), so part of that is luck: with that model it is a hint, and no verdict rests on it.

**Preference**: a judge's verdict on two revisions of one draft, the principle's and an unrelated principle's, by the
principle, by its contrast, and by a third principle that has nothing to do with either. Not on revision against draft:
a constitution's examples give all revisions one tone, and some wordings of a principle like that tone and some don't,
whoever made the revision. With the embedded model that alone looked like principles that work, and like nonsense that
backfires, run after run.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cai.constitution import Constitution, Principle
from cai.constitution.ask import answered
from cai.constitution.render import fill, transcript
from cai.engines.base import Engine, Failure, ScoreRequest
from cai.errors import EngineError
from cai.evaluate.principle_stats import (
    BEFORE,
    CHANGED,
    CONTRAST,
    FAULT,
    LENGTH,
    PASSES,
    PRINCIPLE,
    UNRELATED,
    changed_share,
)
from cai.judges.base import Comparison, Judge
from cai.judges.pairwise import sigmoid
from cai.records.schema import Draft, Prompt, Revision
from cai.storage import seed_from
from cai.types import Dialogue, Message

QUESTION = "{dialogue}\n\nDoes the assistant's last answer go against this: {text}\n\nSay Yes or No."
OPENING, CHOICES = "Answer:", (" Yes", " No")

UNRELATED_PRINCIPLES = (
    Principle(id="digits", text="Write all numbers as digits.", contrast="Write all numbers as words."),
    Principle(id="spelling", text="Spell words as in British English.", contrast="Spell words as in American English."),
    Principle(id="units", text="Give measures in metres and kilograms.", contrast="Give measures in feet and pounds."),
    Principle(id="dates", text="Put the day before the month in dates.", contrast="Put the month before the day."),
)
"""Matters of form on which hardly any answer depends. Each has a contrast of its own, as a good principle has."""

REFUSALS = ("not_supported", "engine", "cancelled")
"""How a judge's reason begins when the engine failed, and not the request."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A draft in answer to a prompt of a principle, its revision by that principle, and one by an unrelated one."""

    key: str
    principle: Principle
    others: tuple[Principle, Principle]
    """The unrelated principle that made the other revision, and a third one, that judges."""
    prompt: Prompt
    draft: Draft
    revision: Revision
    other_revision: Revision

    @property
    def same(self) -> bool:
        """Whether both revisions are the same: then there is nothing to judge."""
        return self.revision.text.split() == self.other_revision.text.split()


@dataclass(frozen=True)
class Measured:
    """What there is to say of one case: the fields of an `EvalResult`."""

    wins: dict[str, float | None]
    scores: dict[str, tuple[float, float]]


def unrelated_to(principle: Principle, key: str) -> tuple[Principle, Principle]:
    """Return two principles that have nothing to do with this one, by turns of the key.

    The one that shares the most words with it is never taken: it might be much the same.
    """
    own = _words(principle)

    def shared(other: Principle) -> float:
        words = _words(other)
        return len(own & words) / len(words)

    fit = sorted(UNRELATED_PRINCIPLES, key=shared)[:-1]
    start = seed_from("unrelated", key)
    return fit[start % len(fit)], fit[(start + 1) % len(fit)]


def _words(principle: Principle) -> set[str]:
    # Words of up to three letters (in, the, all) are in everything.
    return {word for word in re.findall(r"\w+", principle.text.casefold()) if len(word) > 3}


def turned_over(constitution: Constitution, principle: Principle) -> Principle:
    """Return the principle that asks for the contrast: text and contrast in each other's place."""
    comparison = fill(constitution.wordings.comparison, text=principle.contrast)
    changed = {"text": principle.contrast, "contrast": principle.text, "comparison": comparison, "comparison_shots": ()}
    return principle.model_copy(update=changed)


def measure(
    cases: Sequence[Case], constitution: Constitution, engine: Engine, judge: Judge
) -> Iterator[tuple[Case, Measured]]:
    """Yield what there is to say of each case, in their order: two calls of the model for all of them."""
    faults = _faults(cases, engine)
    wins = _wins(cases, constitution, judge)
    for case in cases:
        yield case, Measured({FAULT: faults.get(case.key), **wins[case.key]}, _scores(case))


def _scores(case: Case) -> dict[str, tuple[float, float]]:
    """Return what is counted in the two revisions, and whether they and the draft pass the principle's checker."""
    draft, texts = case.draft.text, (case.revision.text, case.other_revision.text)
    words = max(1, len(draft.split()))
    scores = {
        CHANGED: (changed_share(draft, texts[0]), changed_share(draft, texts[1])),
        LENGTH: (len(texts[0].split()) / words, len(texts[1].split()) / words),
    }
    before, *after = (case.principle.check(text) for text in (draft, *texts))
    if before is not None and None not in after:
        scores[BEFORE] = (float(before), float(before))
        scores[PASSES] = (float(bool(after[0])), float(bool(after[1])))
    return scores


def fault_question(principle: Principle, prompt: Dialogue, answer: str) -> Dialogue:
    """Return the dialogue that asks whether an answer goes against a principle; Yes or No follows `OPENING`."""
    return (Message("user", fill(QUESTION, dialogue=transcript(answered(prompt, answer)), text=principle.text)),)


def _faults(cases: Sequence[Case], engine: Engine) -> dict[str, float]:
    """Return by case the probability that the draft goes against its principle, as far as others don't say so too."""
    asked: dict[str, tuple[str, bool]] = {}
    requests = []
    for case in cases:
        for index, principle in enumerate((case.principle, *case.others)):
            key = f"{case.key}/{index}"
            asked[key] = (case.key, index == 0)
            dialogue = fault_question(principle, case.prompt.messages, case.draft.text)
            requests.append(ScoreRequest(id=key, prompt=dialogue, prefill=OPENING, candidates=CHOICES))
    own: dict[str, float] = {}
    others: dict[str, list[float]] = {}
    for result in engine.score(requests):
        if isinstance(result, Failure):
            continue
        name, is_own = asked[result.id]
        yes, no = (score.total for score in result.scores)
        if not math.isfinite(yes - no):
            continue
        if is_own:
            own[name] = yes - no
        else:
            others.setdefault(name, []).append(yes - no)
    return {key: sigmoid(value - float(np.mean(others[key]))) for key, value in own.items() if key in others}


def _wins(cases: Sequence[Case], constitution: Constitution, judge: Judge) -> dict[str, dict[str, float | None]]:
    """Return by case the probability that its own revision is the better one, by each judging principle.

    The same text twice is a tie. The contrastive judge need not be asked the contrast: its verdict turns over.
    """
    wins: dict[str, dict[str, float | None]] = {}
    names: dict[str, tuple[str, str]] = {}
    comparisons = []
    for case in cases:
        rules = {PRINCIPLE: case.principle, UNRELATED: case.others[1]}
        if judge.name != "contrastive":
            rules[CONTRAST] = turned_over(constitution, case.principle)
        wins[case.key] = dict.fromkeys((*rules, CONTRAST), 0.5) if case.same else {}
        for name, rule in rules.items() if not case.same else ():
            key = f"{case.key}/{name}"
            names[key] = (case.key, name)
            own, other = case.revision.text, case.other_revision.text
            comparisons.append(
                Comparison(id=key, prompt=case.prompt.messages, response_a=own, response_b=other, principle=rule)
            )
    refused = []
    for verdict in judge.compare(comparisons):
        key, name = names[verdict.id]
        wins[key][name] = verdict.prob_a
        refused += [verdict.reason] if verdict.reason.startswith(REFUSALS) else []
    if refused and len(refused) == len(comparisons):
        # Nothing is journalled: an engine that can't score, or is gone, has said nothing of any principle.
        raise EngineError(f"the judge gave no verdict on any of {len(cases)} pairs: {refused[0]}")
    for own_wins in wins.values():
        if CONTRAST not in own_wins:
            prob = own_wins[PRINCIPLE]
            own_wins[CONTRAST] = None if prob is None else 1 - prob
    return wins
