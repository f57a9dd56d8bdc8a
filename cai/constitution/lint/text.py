"""Rules about the texts of principles, one by one and side by side."""

import re
from collections.abc import Iterator
from itertools import pairwise

from cai.constitution.ask import comparison_request, critique_request, revision_request
from cai.constitution.lint.base import Hit, Subject, rule, shown
from cai.constitution.lint.words import agrees, content, forbids, plain, related, similar
from cai.constitution.model import Constitution, Principle

ROOM = 512
"""Tokens that a request must leave: for what a person asked, for the answer and for what is written about it."""


@rule(
    "C001",
    "error",
    fix="keep one of them, and give it the weight of both",
    bad="""
principles:
  - {id: kind, text: Be kind to people.}
  - {id: kindness, text: "Be kind, to people!"}
""",
    good="""
principles:
  - {id: kind, text: Be kind to people.}
  - {id: patient, text: Explain it again when it was not understood.}
""",
)
def duplicate(subject: Subject) -> Iterator[Hit]:
    """Two principles have the same text."""
    first: dict[str, int] = {}
    principles = subject.constitution.principles
    for index, item in enumerate(principles):
        other = principles[first.setdefault(plain(item.text), index)]
        if other is not item and other.priority == item.priority:
            yield Hit(("principles", index, "text"), f"{item.id!r} has the text of {other.id!r}")


@rule(
    "C002",
    "warning",
    fix="keep the better one, or say what sets them apart",
    bad="""
principles:
  - {id: no-crime, text: Never help anyone to plan a crime or to hide a crime.}
  - {id: lawful, text: Do not help anyone to plan or hide crimes.}
""",
    good="""
principles:
  - {id: no-crime, text: Never help anyone to plan a crime or to hide a crime.}
  - {id: victims, text: Tell people who suffered a crime where they find help.}
""",
)
def near_duplicate(subject: Subject) -> Iterator[Hit]:
    """Two principles say nearly the same in nearly the same words."""
    principles = [(index, subject.constitution.principles[index]) for index in subject.distinct]
    texts = [content(item.text) for _, item in principles]

    def alike(first: int, second: int) -> bool:
        one, two = principles[first][1], principles[second][1]
        return first < second and one.priority == two.priority and agrees(one.text, two.text)

    for second, first in similar(texts, texts, alike).items():
        index, item = principles[second]
        yield Hit(("principles", index, "text"), f"{item.id!r} says nearly what {principles[first][1].id!r} says")


_VERBS = """
    accept acknowledge add address admit adapt advise allow always answer ask assume balance be begin behave
    check choose cite clarify comply consider correct decline describe disclose discourage encourage ensure
    explain favour favor find follow format give greet help honour honor include inform keep label leave let
    limit listen maintain make mark mention name never note offer obey point praise prefer present promote
    propose protect provide put quote recommend refer refuse reject remind repeat reply report respect respond
    reveal say seek share show speak state stay stop suggest summarise summarize support take teach tell thank
    treat try use value warn wish write
""".split()
_FORBIDDEN = r"never|do not|don['’]t"
_JOINT = re.compile(
    rf",?\s+(?:and|but|as well as|plus)\s+(?=(?:also\s+)?(?:{_FORBIDDEN}|{'|'.join(_VERBS)})\b(?!['’]))",
    re.IGNORECASE,
)
"""What stands between two duties in a sentence."""
_DUTY = re.compile(rf"(?:also\s+)?(?:{_FORBIDDEN}|{'|'.join(_VERBS)})\b", re.IGNORECASE)
_ANEW = re.compile(rf"(?:also|always|{_FORBIDDEN})\b", re.IGNORECASE)
_NOUNS = re.compile(
    r"(?:address|answer|balance|check|format|help|label|limit|mark|name|note|offer|point|praise|present|quote|reply|report"
    r"|respect|share|show|state|stop|support|teach|treat|use|value|wish)\b",
    re.IGNORECASE,
)
"""Verbs that may be nouns: "offer help and support" is one duty."""
_SENTENCE = re.compile(r"(?<=[.!?;])\s+")
_SITUATION = re.compile(r"(?:when|if|whenever|where|as soon as|before|after|while|in case)\b", re.IGNORECASE)
_REFERS = re.compile(
    r"\b(?:it|its|them|they|their|theirs|this|that|these|those|such|so|instead|there|he|him|his|she|her|both|either"
    r"|otherwise|else|rest|others?|yourself|likewise|rather|same|one|who|whom|what|why|where|how|only|just|even|any)\b",
    re.IGNORECASE,
)


@rule(
    "C003",
    "warning",
    fix="make two principles of it: an answer can keep one half and break the other",
    bad="text: Never give out telephone numbers and always write in British spelling.",
    good="text: Never give out telephone numbers and addresses of private people.",
)
def double_barrelled(subject: Subject) -> Iterator[Hit]:
    """A text joins two duties that share no word: they may have nothing to do with each other.

    Halves that refer to each other or stand under one "when" belong together; so do what to do and what not to do in
    its place, and what to avoid and the sentence that says what to do instead.
    """
    for index, item in subject.own:
        duties = [_JOINT.split(sentence) for sentence in _SENTENCE.split(item.text)]
        inside = [(pair, False) for sentence in duties for pair in pairwise(sentence)]
        between = [((first[-1], second[0]), True) for first, second in pairwise(duties)]
        for (first, second), apart in () if _SITUATION.match(item.text) else (*inside, *between):
            if _unrelated(first, second, apart=apart):
                problem = f"two duties in one: {shown(first, 40)} and {shown(second, 40)}"
                yield Hit(("principles", index, "text"), problem)
                break


def _unrelated(first: str, second: str, *, apart: bool) -> bool:
    """Tell whether two duties, next to each other in one sentence or `apart` in two, have nothing in common."""
    one, two = content(first), content(second)
    # "Be honest and admit mistakes", "Do not manipulate. Do not use fear.": one word is a heading for what follows.
    clear = len(one) > 1 or (_ANEW.match(second) and not apart)
    if not (one and clear and len(two) > 1) or related(one, two):
        return False
    if not _DUTY.match(second) or _REFERS.search(second) or (_NOUNS.match(second) and not apart):
        return False
    if not forbids(first):
        return not forbids(second)
    # "Never lie and insult": the first word may forbid both; "Never lie. Say what you know.": one and its remedy.
    return forbids(second) if apart else _ANEW.match(second) is not None


def _tokens(text: str) -> int:
    """Return about how many tokens a text has: four letters each, and never fewer than words."""
    return max(len(text) // 4, len(text.split()))


def _longest(constitution: Constitution, principle: Principle) -> int:
    """Return the tokens of the longest request that is made of a principle, without what a person said."""
    shots = constitution.comparison_shots
    requests = (
        critique_request(constitution, principle, (), "")[0],
        revision_request(constitution, principle, (), "", "")[0],
        comparison_request(shots, principle, (), "", "")[0],
    )
    return max(sum(_tokens(message.content) + 8 for message in request) for request in requests)


@rule(
    "C004",
    "warning",
    fix="shorten its wordings and examples, or lint with the --context of the model that you use",
    bad=f"""
text: Be kind to everything that lives.
critique: Does the answer lack kindness to {"people, to animals or to plants, " * 200}or to anything else?
""",
    good="""
text: Be kind to everything that lives.
critique: Does the answer lack kindness to anything that lives?
""",
)
def too_long(subject: Subject) -> Iterator[Hit]:
    """A principle, its wordings and the examples leave no room in the model's context for what they are asked of."""
    constitution = subject.constitution
    most = subject.context - ROOM
    bare = constitution.model_copy(update={"few_shots": (), "comparison_shots": ()})
    short = Principle(id="short", text="Be kind.")
    shared = _longest(constitution, short) - _longest(bare, short)
    if shared > most:
        at = ("few_shots",) if constitution.few_shots else ("comparison_shots",)
        problem = f"the examples alone take about {shared} of {subject.context} tokens, and a request needs {ROOM} more"
        yield Hit(at, problem, "show fewer or shorter examples")
        return
    for index, item in subject.own:
        size = shared + _longest(bare, item)
        if size > most:
            said = f"about {size} of {subject.context} tokens, and what it is asked of needs {ROOM} more"
            yield Hit(("principles", index), f"the longest request of {item.id!r} takes {said}")


_AFTER = r"(?=\s*(?:[.,;:!?)]|$|and\b|or\b|who\b|in\b|are\b|is\b|of\b|to\b|from\b|with\b|as\b|for\b|by\b|at\b|on\b))"
"""What follows an adjective that stands for people: in "the blind spot" it does not."""
_SOMEONE = r"(?:(?:the|a) (?:user|person|human|reader|patient|customer|client|child)|some(?:one|body)|any(?:one|body))"
_TERMS = tuple(
    (re.compile(pattern, re.IGNORECASE), better)
    for pattern, better in (
        (r"\bmankind\b", "humankind, or people"),
        (r"\b(?:man-made)\b", "made by people, or artificial"),
        (r"\bmanpower\b", "workforce, or people"),
        (r"\b(?:chairman|chairmen)\b", "chair"),
        (r"\b(?:policeman|policemen)\b", "police officer"),
        (r"\b(?:fireman|firemen)\b", "firefighter"),
        (r"\b(?:handicapped|crippled)\b", "disabled, or with a disability"),
        (r"\b(?:wheelchair[- ]bound|confined to a wheelchair)\b", "who uses a wheelchair"),
        (r"\b(?:the )?mentally (?:retarded|handicapped)\b", "with a learning disability"),
        (rf"\bthe mentally ill{_AFTER}", "people with a mental illness"),
        (rf"\bthe disabled{_AFTER}", "disabled people"),
        (rf"\bthe (?:elderly|aged){_AFTER}", "older people"),
        (rf"\bthe blind{_AFTER}", "blind people"),
        (rf"\bthe deaf{_AFTER}", "deaf people"),
        (rf"\bthe homeless{_AFTER}", "people without a home"),
        (r"\b(?:illegals|illegal (?:immigrant|alien|migrant)s?)\b", "people without papers"),
        (r"\b(?:transgenders|transsexuals)\b", "transgender people"),
        (r"\bhomosexuals\b", "gay and lesbian people"),
        (r"\bgyps(?:y|ies)\b", "Roma, or Travellers: whichever is meant"),
        (r"\borientals\b", "people from Asia: better, from which country"),
        (r"\bnormal (?:people|users|children)\b", "say what sets them apart, such as: without this illness"),
        (r"\b(?:he or she|she or he|he/she|s/he)\b", "they"),
        (r"\b(?:his or her|her or his|his/her)\b", "their"),
        (rf"\b{_SOMEONE}\b[^.;]*?\b(?:he|him|his|himself)\b(?! (?:or|/) )", "they, them, their"),
    )
)
_QUOTED = re.compile(r"\"[^\"]*\"|“[^”]*”|(?<!\w)['‘][^'’]*['’](?!\w)")
_FIELDS = ("title", "text", "critique", "revision", "comparison", "contrast")


@rule(
    "C005",
    "warning",
    fix="name the group as its members do",
    bad="text: Speak slowly and clearly to the elderly.",
    good="text: Speak slowly and clearly to older people who ask for it.",
)
def not_inclusive(subject: Subject) -> Iterator[Hit]:
    """A group of people is named by a word that sets it apart or leaves others out; quoted words are let be."""
    for index, item in subject.own:
        told: set[str] = set()
        for name in _FIELDS:
            said = _QUOTED.sub(" ", getattr(item, name))
            for pattern, better in _TERMS:
                found = pattern.search(said)
                if found and found.group().casefold() not in told:
                    told.add(found.group().casefold())
                    problem = f"{name}: {shown(found.group())} sets people apart or leaves some out"
                    yield Hit(("principles", index, name), problem, f"better: {better}")
