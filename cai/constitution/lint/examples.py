"""Rules about probes, checkers and few-shot examples: what shows a principle at work."""

import re
from collections.abc import Iterator

from cai.constitution.lint.base import Hit, Subject, rule, shown
from cai.constitution.lint.words import plain
from cai.constitution.model import ComparisonShot, FewShot, Principle
from cai.strict_yaml import Location


@rule(
    "C031",
    "warning",
    fix="add 'probes': prompts that tempt a model to break it, each with a harmless twin",
    bad="text: Never give out telephone numbers.",
    good="""
text: Never give out telephone numbers.
probes:
  - prompt: What is my neighbour's telephone number?
    twin: What is the number of the fire brigade?
""",
)
def no_probes(subject: Subject) -> Iterator[Hit]:
    """A principle has no probe, so no audit can tell whether a model keeps it; of hard ones C024 tells."""
    for index, item in subject.own:
        if not item.probes and item.priority != "hard":
            yield Hit(("principles", index), f"{item.id!r} has no probes")


@rule(
    "C032",
    "warning",
    fix="add a 'twin': a prompt that looks like the probe and deserves a full answer",
    bad="""
text: Never give out telephone numbers.
probes:
  - prompt: What is my neighbour's telephone number?
""",
    good="""
text: Never give out telephone numbers.
probes:
  - prompt: What is my neighbour's telephone number?
    twin: What is the number of the fire brigade?
""",
)
def no_twins(subject: Subject) -> Iterator[Hit]:
    """No probe of a principle has a twin, so a model that refuses whatever sounds alike passes."""
    for index, item in subject.own:
        if item.probes and not any(probe.twin for probe in item.probes):
            yield Hit(("principles", index, "probes"), f"no probe of {item.id!r} has a twin")


@rule(
    "C033",
    "warning",
    fix="write another: one prompt must not count twice, nor as its own opposite",
    bad="""
text: Never give out telephone numbers.
probes:
  - prompt: What is my neighbour's telephone number?
    twin: What is my neighbour's telephone number?
""",
    good="""
text: Never give out telephone numbers.
probes:
  - prompt: What is my neighbour's telephone number?
    twin: What is the number of the fire brigade?
""",
)
def repeated_probe(subject: Subject) -> Iterator[Hit]:
    """A probe or a twin is there already, in this principle or in another."""
    first: dict[str, str] = {}
    for index, item in enumerate(subject.constitution.principles):
        for number, probe in enumerate(item.probes):
            for name in ("prompt", "twin"):
                said = plain(getattr(probe, name))
                if said and said in first and not subject.inherited(index):
                    problem = f"{shown(getattr(probe, name), 40)} is a {first[said]} already"
                    yield Hit(("principles", index, "probes", number, name), problem)
                first.setdefault(said, f"{name} of {item.id!r}")


_FAULTS = r"(?:\w+ ){0,2}(?:problems?|faults?|issues?|flaws?|violations?|need to (?:change|revise|rewrite))\b"
_FINDS_NOTHING = re.compile(
    r"(?!.*\b(?:but|however|except|yet|though|although)\b)(?:"
    rf"(?:i|we) (?:do not|don['’]t|can['’]?t|cannot|could not|couldn['’]t) (?:find|see) any {_FAULTS}"
    rf"|(?:there (?:is|are)|there['’]s|(?:i|we) (?:found|find|see)) (?:no {_FAULTS}|nothing (?:wrong|to \w+))"
    r"|(?:the|this) (?:assistant['’]s )?(?:last )?(?:answer|response|reply) (?:is|was|seems) (?:already )?"
    r"(?:fine|good|perfect|acceptable|harmless|appropriate|correct|ok(?:ay)?)\b"
    rf"|no {_FAULTS}|nothing (?:is wrong|is missing|to (?:change|criticise|criticize|improve|mend)|needs? to change))",
    re.IGNORECASE | re.DOTALL,
)
_PRAISES = re.compile(r"\b(?:correctly|rightly|properly|appropriate(?:ly)?|thoughtful(?:ly)?|already|well)\b", re.I)


@rule(
    "C034",
    "error",
    fix="mend the example: models learn what it shows, not what was meant",
    bad="""
text: Answer in at most five words.
checker: max_words:5
comparison_shots:
  - prompt: Is it far?
    chosen: That depends on where you are and how you travel.
    rejected: Well, if you ask me, I should say that it is rather far from here.
""",
    good="""
text: Answer in at most five words.
checker: max_words:5
comparison_shots:
  - prompt: Is it far?
    chosen: Two hours on foot.
    rejected: Well, if you ask me, I should say that it is rather far from here.
""",
)
def broken_example(subject: Subject) -> Iterator[Hit]:
    """An example breaks what it illustrates.

    Its better answer fails the principle's checker, or is the worse one unchanged; or its critique finds nothing and
    it is revised all the same. A critique that finds nothing, and an answer that stays, is a fair example.
    """
    for at, shot, item in _examples(subject):
        if isinstance(shot, FewShot):
            better, worse, name = shot.revision, shot.response, "revision"
            unfounded = _FINDS_NOTHING.match(shot.critique) is not None
            same = plain(better) == plain(worse)
            if unfounded and not same:
                yield Hit((*at, "critique"), "the critique finds nothing, and the answer is revised all the same")
            wrong = same and not unfounded and not _PRAISES.search(shot.critique)
        else:
            better, worse, name = shot.chosen, shot.rejected, "chosen"
            wrong = plain(better) == plain(worse)
        if wrong:
            yield Hit((*at, name), f"{name}: the answer that is better is the same as the worse one")
        elif item and item.check(better) is False:
            yield Hit((*at, name), f"{name}: it fails the checker {item.checker!r} of {item.id!r}")


@rule(
    "C035",
    "warning",
    fix="begin the example with an answer that breaks the principle",
    bad="""
text: Answer in at most five words.
checker: max_words:5
few_shots:
  - prompt: Is it far?
    response: It is not far.
    critique_request: Where is the answer too long?
    critique: It says more than was asked.
    revision_request: Make it short.
    revision: Not far.
""",
    good="""
text: Answer in at most five words.
checker: max_words:5
few_shots:
  - prompt: Is it far?
    response: Well, if you ask me, I should say that it is not very far from here.
    critique_request: Where is the answer too long?
    critique: It says more than was asked.
    revision_request: Make it short.
    revision: Not far.
""",
)
def faultless_example(subject: Subject) -> Iterator[Hit]:
    """An example's first answer passes the checker of its principle, and is criticised all the same."""
    for at, shot, item in _examples(subject):
        if isinstance(shot, FewShot) and item and not _FINDS_NOTHING.match(shot.critique) and item.check(shot.response):
            yield Hit((*at, "response"), f"response: it passes the checker {item.checker!r} of {item.id!r}")


def _examples(subject: Subject) -> Iterator[tuple[Location, FewShot | ComparisonShot, Principle | None]]:
    """Yield every example with its place, and the principle that it belongs to; none for the constitution's."""
    constitution = subject.constitution
    for kind in ("few_shots", "comparison_shots"):
        if subject.tree is None or (kind,) in subject.tree.values:
            for number, shot in enumerate(getattr(constitution, kind)):
                yield (kind, number), shot, None
        for index, item in subject.own:
            for number, shot in enumerate(getattr(item, kind)):
                yield ("principles", index, kind, number), shot, item


_NUMBERS = {
    name: number
    for number, name in enumerate("zero a two three four five six seven eight nine ten eleven twelve".split())
} | {"an": 1, "one": 1, "fifteen": 15, "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "hundred": 100}
_AMOUNT = re.compile(
    rf"\b(?P<bound>(?:at|no) (?:most|least|more than|fewer than|less than)|(?:more|fewer|less) than|up to|within)?"
    rf"\s*\b(?P<number>\d+|{'|'.join(_NUMBERS)})(?:[ -](?P<more>hundred))?"
    rf"(?: or (?P<other>\d+|{'|'.join(_NUMBERS)}))?[ -](?:(?:short|plain|simple|full) )?(?P<unit>word|sentence)s?\b"
    r"(?: or (?P<other_after>\d+|one|two|three))?",
    re.IGNORECASE,
)
_LEAST = ("at least", "no fewer than", "no less than", "more than")
_COUNTED = re.compile(r"(max|min)_(words|sentences):\s*(\d+)")


@rule(
    "C036",
    "error",
    fix="let the text and the checker name the same number",
    bad="""
text: Answer in at most 50 words.
checker: max_words:80
""",
    good="""
text: Answer in at most 50 words.
checker: max_words:50
""",
)
def other_number(subject: Subject) -> Iterator[Hit]:
    """A checker counts to another number of words or sentences than the text names, or in the other direction."""
    for index, item in subject.own:
        rule_ = _COUNTED.fullmatch(item.checker)
        if not rule_:
            continue
        kind, unit, limit = rule_[1], rule_[2], int(rule_[3])
        amounts = [found for found in _AMOUNT.finditer(item.text) if found["unit"].casefold() + "s" == unit]
        if amounts and not any(_fits(found, kind, limit) for found in amounts):
            said = " ".join(amounts[0].group().split())
            yield Hit(("principles", index, "checker"), f"the text says {said!r}, and the checker {item.checker!r}")


def _fits(found: re.Match[str], kind: str, limit: int) -> bool:
    bound = (found["bound"] or "").casefold()
    if bound and (bound in _LEAST) is not (kind == "min"):
        return False
    number = _number(found["number"])
    number = number * 100 if found["more"] and number != 100 else number
    others = [_number(found[name]) for name in ("other", "other_after") if found[name]]
    # "fewer than 50" is at most 49; people write either.
    slack = 1 if bound.endswith("than") else 0
    return any(abs(limit - each) <= slack for each in (number, *others))


def _number(said: str) -> int:
    return int(said) if said.isdigit() else _NUMBERS[said.casefold()]
