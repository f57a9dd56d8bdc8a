"""Rules about how principles stand to each other: priorities, balance, weights, tags."""

import difflib
from collections import Counter
from collections.abc import Iterator

from cai.constitution.lint.base import Hit, Subject, rule
from cai.constitution.lint.wordings import is_derived
from cai.constitution.lint.words import agrees, content, opposes, similar

FEW = 5
"""Principles from which on a share, or a tag used once, says something."""
ONE_SIDED = 0.9
"""Share of principles that may say what to avoid."""
RARELY = 0.01
"""Share of draws below which a principle is as good as absent, unless all are that rare."""


@rule(
    "C021",
    "warning",
    fix="say of some of them what to do in place of what to avoid",
    bad="""
principles:
  - {id: a, text: Never lie about prices.}
  - {id: b, text: Do not insult anyone.}
  - {id: c, text: Avoid medical guesses.}
  - {id: d, text: Never spread rumours.}
  - {id: e, text: Do not reveal secrets.}
""",
    good="""
principles:
  - {id: a, text: Say what things cost.}
  - {id: b, text: Do not insult anyone.}
  - {id: c, text: Avoid medical guesses.}
  - {id: d, text: Never spread rumours.}
  - {id: e, text: Do not reveal secrets.}
""",
)
def one_sided(subject: Subject) -> Iterator[Hit]:
    """Nearly all principles say what to avoid, so a model that refuses everything keeps them best."""
    principles = subject.constitution.principles
    avoid = sum(item.framing == "avoid" for item in principles)
    if len(principles) >= FEW and avoid > ONE_SIDED * len(principles):
        yield Hit(("principles",), f"{avoid} of {len(principles)} principles say only what to avoid")


@rule(
    "C022",
    "error",
    fix="keep one of them, at the priority that is meant",
    bad="""
principles:
  - {id: kind, text: Be kind to people in every answer., priority: hard}
  - {id: kindly, text: Be kind to people in your answer., priority: 3}
""",
    good="""
principles:
  - {id: kind, text: Be kind to people in every answer., priority: hard}
  - {id: brief, text: Answer in few words., priority: 3}
""",
)
def two_priorities(subject: Subject) -> Iterator[Hit]:
    """Two principles say the same, or nearly, at different priorities."""
    principles = [(index, subject.constitution.principles[index]) for index in subject.distinct]
    texts = [content(item.text) for _, item in principles]

    def alike(first: int, second: int) -> bool:
        one, two = principles[first][1], principles[second][1]
        return first < second and one.priority != two.priority and agrees(one.text, two.text)

    for second, first in similar(texts, texts, alike).items():
        (index, one), (_, two) = principles[second], principles[first]
        problem = f"{one.id!r} says at priority {one.priority} what {two.id!r} says at {two.priority}"
        yield Hit(("principles", index, "text"), problem)


@rule(
    "C023",
    "error",
    fix="keep one, or say in both where each of them holds",
    bad="""
principles:
  - {id: no-diagnosis, text: Never name an illness that a person may have., priority: hard}
  - {id: diagnosis, text: Name the illness that a person may have.}
""",
    good="""
principles:
  - {id: no-diagnosis, text: Never name an illness that a person may have., priority: hard}
  - {id: doctor, text: Say which doctor knows about such signs.}
""",
)
def opposed(subject: Subject) -> Iterator[Hit]:
    """A principle asks for what another one forbids, or for what another one gives as its opposite."""
    principles = [(index, subject.constitution.principles[index]) for index in subject.distinct]
    texts = [content(item.text) for _, item in principles]
    contrasts = [
        frozenset() if is_derived(subject, item, "contrast") else content(item.contrast) for _, item in principles
    ]

    def forbidden(first: int, second: int) -> bool:
        one, two = principles[first][1].text, principles[second][1].text
        return first < second and len(texts[first]) > 1 and opposes(one, two)

    def contrary(first: int, second: int) -> bool:
        one, two = principles[first][1].contrast, principles[second][1].text
        return first != second and len(texts[second]) > 1 and agrees(one, two)

    told = set()
    for second, first in similar(texts, texts, forbidden).items():
        told.add(frozenset((second, first)))
        index, item = principles[second]
        yield Hit(("principles", index, "text"), f"{item.id!r} and {principles[first][1].id!r} ask for opposites")
    for second, first in similar(contrasts, texts, contrary).items():
        if frozenset((second, first)) not in told:
            told.add(frozenset((second, first)))
            index, item = principles[second]
            problem = f"{item.id!r} asks for what {principles[first][1].id!r} gives as its opposite"
            yield Hit(("principles", index, "text"), problem)


@rule(
    "C024",
    "warning",
    fix="add 'probes', or a 'checker' if a program can decide it",
    bad="""
text: Never give out telephone numbers.
priority: hard
""",
    good="""
text: Never give out telephone numbers.
priority: hard
checker: no_contact_details
""",
)
def hard_untested(subject: Subject) -> Iterator[Hit]:
    """A hard constraint has neither checker nor probe, so nothing would show that a model breaks it."""
    for index, item in subject.own:
        if item.priority == "hard" and not item.checker and not item.probes:
            yield Hit(("principles", index, "priority"), f"{item.id!r} is a hard constraint that nothing tests")


@rule(
    "C025",
    "warning",
    fix="give it to another principle, or remove it",
    bad="""
principles:
  - {id: a, text: Say what things cost., tags: [honesty]}
  - {id: b, text: Do not insult anyone., tags: [tone]}
  - {id: c, text: Avoid medical guesses., tags: [honest]}
  - {id: d, text: Greet people by name., tags: [tone]}
  - {id: e, text: Admit what you do not know., tags: [honesty]}
""",
    good="""
principles:
  - {id: a, text: Say what things cost., tags: [honesty]}
  - {id: b, text: Do not insult anyone., tags: [tone]}
  - {id: c, text: Avoid medical guesses., tags: [honesty]}
  - {id: d, text: Greet people by name., tags: [tone]}
  - {id: e, text: Admit what you do not know., tags: [honesty]}
""",
)
def lonely_tag(subject: Subject) -> Iterator[Hit]:
    """A tag is used once: it selects what the id selects, or it is a slip of the pen."""
    principles = subject.constitution.principles
    count = Counter(tag for item in principles for tag in set(item.tags))
    if len(principles) < FEW:
        return
    for index, item in subject.own:
        for number, tag in enumerate(item.tags):
            if count[tag] == 1:
                near = difflib.get_close_matches(tag, set(count) - {tag}, n=1, cutoff=0.75)
                fix = f"did you mean {near[0]!r}?" if near else ""
                yield Hit(("principles", index, "tags", number), f"the tag {tag!r} is used once", fix)


@rule(
    "C026",
    "warning",
    fix="raise its weight, or remove it",
    bad="""
principles:
  - {id: kind, text: Be kind to people., weight: 100}
  - {id: brief, text: Answer in few words., weight: 0.5}
""",
    good="""
principles:
  - {id: kind, text: Be kind to people., weight: 2}
  - {id: brief, text: Answer in few words., weight: 1}
""",
)
def hardly_drawn(subject: Subject) -> Iterator[Hit]:
    """A weight is so small beside the others that the principle is hardly ever drawn."""
    principles = subject.constitution.principles
    total = sum(item.weight for item in principles)
    least = min(RARELY, 0.25 / len(principles)) * total
    for index, item in enumerate(principles):
        if item.weight < least:
            share = f"{item.weight / total:.2%}"
            yield Hit(("principles", index, "weight"), f"{item.id!r} is drawn {share} of the times")


@rule(
    "C027",
    "warning",
    fix="keep 'hard' for what nothing may outweigh, and give the others tiers",
    bad="""
principles:
  - {id: a, text: Say what things cost., priority: hard}
  - {id: b, text: Do not insult anyone., priority: hard}
  - {id: c, text: Avoid medical guesses., priority: hard}
  - {id: d, text: Greet people by name., priority: hard}
  - {id: e, text: Answer in few words., priority: 2}
""",
    good="""
principles:
  - {id: a, text: Say what things cost.}
  - {id: b, text: Do not insult anyone.}
  - {id: c, text: Avoid medical guesses., priority: hard}
  - {id: d, text: Greet people by name.}
  - {id: e, text: Answer in few words., priority: 2}
""",
)
def all_hard(subject: Subject) -> Iterator[Hit]:
    """Most principles are hard constraints: where nothing gives way, nothing comes first."""
    principles = subject.constitution.principles
    hard = sum(item.priority == "hard" for item in principles)
    if len(principles) >= FEW and hard > len(principles) / 2:
        yield Hit(("principles",), f"{hard} of {len(principles)} principles are hard constraints")
