"""Rules about the wordings in which each stage asks about a principle."""

import re
from collections.abc import Iterator

from cai.constitution.lint.base import Hit, Subject, rule, shown
from cai.constitution.lint.words import agrees, content, plain, related, similarity, stem, words
from cai.constitution.model import FewShot, Principle
from cai.constitution.render import fill, placeholders
from cai.strict_yaml import Location

ASKING = ("critique", "revision", "comparison")
WORDINGS = (*ASKING, "contrast")


def is_derived(subject: Subject, item: Principle, name: str) -> bool:
    """Tell whether a wording is what the template makes of the text."""
    return bool(getattr(item, name) == fill(getattr(subject.constitution.wordings, name), text=item.text))


@rule(
    "C011",
    "warning",
    fix="write a 'contrast': an instruction that leads to what the principle does not want",
    bad="text: Keep the secrets of the people who talk to you.",
    good="""
text: Keep the secrets of the people who talk to you.
contrast: Tell others what people told you in confidence.
""",
)
def no_opposite(subject: Subject) -> Iterator[Hit]:
    """A principle gives no contrast, and "do the opposite of this" is an instruction that small models can't follow."""
    for index, item in subject.own:
        if is_derived(subject, item, "contrast"):
            yield Hit(("principles", index, "text"), f"{item.id!r} names no opposite")


@rule(
    "C012",
    "error",
    fix="write what an answer that breaks the principle would do",
    bad="""
text: Keep the secrets of the people who talk to you.
contrast: Keep secrets of people who talk to you!
""",
    good="""
text: Keep the secrets of the people who talk to you.
contrast: Never keep the secrets of the people who talk to you.
""",
)
def no_contrast(subject: Subject) -> Iterator[Hit]:
    """A contrast says what the text says, so nothing is told apart by it."""
    for index, item in subject.own:
        if is_derived(subject, item, "contrast"):
            continue
        same = plain(item.contrast) == plain(item.text)
        text, contrast = content(item.text), content(item.contrast)
        if same or (len(text) > 1 and similarity(text, contrast) == 1 and agrees(item.text, item.contrast)):
            yield Hit(("principles", index, "contrast"), f"the contrast of {item.id!r} says the same as its text")


_ANSWER = r"(?i:answer|response|reply|option|choice|completion|candidate|assistant|text|message)s?"
_HINTS = re.compile(
    rf"\([AB]\)|\b{_ANSWER} (?:[AB]|[12]|one|two)\b(?! (?:of|is|that|which))"
    rf"|\b(?i:first|second|former|latter|1st|2nd|last|top|bottom|left|right)(?:-hand)? (?:{_ANSWER}|one)\b"
    r"|\bthe (?:former|latter)\b|\b[AB],? (?:or|and|over|than|vs\.?|rather than) [AB]\b"
)


@rule(
    "C013",
    "error",
    fix="ask about 'these answers': each of them stands in either place",
    bad="""
text: Be kind to people.
comparison: Is the second answer kinder than the first one?
""",
    good="""
text: Be kind to people.
comparison: Which of these answers is kinder?
""",
)
def hints(subject: Subject) -> Iterator[Hit]:
    """A comparison names one of the options, which leads the judge to it."""
    for index, item in subject.own:
        found = _HINTS.search(item.comparison)
        if found and not is_derived(subject, item, "comparison"):
            problem = f"the comparison of {item.id!r} hints at an option with {shown(found.group())}"
            yield Hit(("principles", index, "comparison"), problem)


@rule(
    "C014",
    "error",
    fix="say it in words: only 'wordings' have a place to fill, and that is {text}",
    bad="""
text: Be kind to people.
critique: Where is this answer unkind? {answer}
""",
    good="""
text: Be kind to people.
critique: Where is the assistant's last answer unkind?
""",
)
def unknown_placeholder(subject: Subject) -> Iterator[Hit]:
    """A wording has a place in braces, which no one fills: models would read the braces."""
    for index, item in subject.own:
        for name in ("text", *WORDINGS):
            given = getattr(item, name)
            found = placeholders(given)
            if found and (name == "text" or not is_derived(subject, item, name)):
                yield Hit(("principles", index, name), f"{name}: nothing fills {{{found[0]}}}")
    shots: list[tuple[Location, FewShot]] = [
        (("few_shots", number), shot) for number, shot in enumerate(subject.constitution.few_shots)
    ]
    for index, item in subject.own:
        shots += [(("principles", index, "few_shots", number), shot) for number, shot in enumerate(item.few_shots)]
    for at, shot in shots:
        for name in ("critique_request", "revision_request"):
            if found := placeholders(getattr(shot, name)):
                yield Hit((*at, name), f"{name}: nothing fills {{{found[0]}}}")


_SUBJECT = ("title", "text", "critique", "comparison", "contrast")
_ABOUT_ANSWERS = frozenset(
    stem(word)
    for word in """
    answer response reply assistant model last rewrite revise change edit please text make take place put
    """.split()
)


@rule(
    "C015",
    "warning",
    fix="let the revision mend what the critique looks for, in the same words",
    bad="""
text: Protect the privacy of people who are not there.
critique: Say which private facts of other people the answer gives away.
revision: Rewrite the answer in short and cheerful sentences.
""",
    good="""
text: Protect the privacy of people who are not there.
critique: Say which private facts of other people the answer gives away.
revision: Rewrite the answer without the private facts of other people.
""",
)
def does_not_follow(subject: Subject) -> Iterator[Hit]:
    """A revision shares no word with the text and the critique, so it mends something else than was criticised."""
    for index, item in subject.own:
        asked = frozenset().union(*(content(getattr(item, name)) for name in _SUBJECT)) - _ABOUT_ANSWERS
        mended = content(item.revision) - _ABOUT_ANSWERS
        if not related(asked, mended):
            said = "names nothing to mend" if not mended else "speaks of something else than its critique"
            yield Hit(("principles", index, "revision"), f"the revision of {item.id!r} {said}")


_STATES = frozenset(
    """
    the a an this that these those it he she they we i there its their his her our my any all every each no some most
    answer answers response responses reply replies assistant assistants model models good bad
    """.split()
)


@rule(
    "C016",
    "warning",
    fix="write a request: a question, or a sentence that begins with what to do",
    bad="""
text: Be kind to people.
critique: The answer is not kind to people.
""",
    good="""
text: Be kind to people.
critique: Say where the answer is not kind to people.
""",
)
def asks_nothing(subject: Subject) -> Iterator[Hit]:
    """A critique, revision or comparison states something and asks nobody for anything."""
    for index, item in subject.own:
        for name in ASKING:
            given = getattr(item, name)
            starts = [words(sentence)[:1] for sentence in re.split(r"(?<=[.!:])\s+", given)]
            if "?" not in given and all(not start or start[0] in _STATES for start in starts):
                yield Hit(
                    ("principles", index, name), f"the {name} of {item.id!r} asks for nothing: {shown(given, 40)}"
                )


@rule(
    "C017",
    "warning",
    fix="write it for this principle, or leave it out: then it is derived from the text",
    bad="""
principles:
  - {id: kind, text: Be kind to people., critique: Where is the answer unkind?}
  - {id: brief, text: Answer in few words., critique: Where is the answer unkind?}
""",
    good="""
principles:
  - {id: kind, text: Be kind to people., critique: Where is the answer unkind?}
  - {id: brief, text: Answer in few words., critique: Where is the answer long-winded?}
""",
)
def copied(subject: Subject) -> Iterator[Hit]:
    """Two principles of different texts have one wording in common: one of them was copied and not changed."""
    principles = subject.constitution.principles
    for name in WORDINGS:
        first: dict[str, int] = {}
        for index, item in enumerate(principles):
            other = principles[first.setdefault(plain(getattr(item, name)), index)]
            if other is not item and plain(other.text) != plain(item.text) and not subject.inherited(index):
                yield Hit(("principles", index, name), f"the {name} of {item.id!r} is that of {other.id!r}")
