"""What makes a generated text unfit to use. Each check is a function that gives a reason or None.

The checks read words, not meaning, and each would rather miss a bad text than lose a good one; those that know English
wording find nothing in other languages. What a check finds is journalled with its reason, and counted.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from cai.generate.language import switched
from cai.records.schema import Dropped, PromptKind
from cai.types import Dialogue, FinishReason

Stage = Literal["draft", "critique", "revision"]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A text to check, with what it came from."""

    text: str
    finish_reason: FinishReason
    stage: Stage = "draft"
    kind: PromptKind = "red_team"
    dialogue: Dialogue = ()
    """What the person asked."""
    before: str = ""
    """The answer that a revision was made of."""
    critique: str = ""
    """The critique that a revision follows, if any."""

    @property
    def trained_on(self) -> bool:
        """Whether the text may become a training row; drafts to red-team prompts and critiques never do."""
        return self.stage == "revision" or (self.stage == "draft" and self.kind != "red_team")


_ANSWER = r"(?:answer|response|reply|critique)"
_ABOUT_ANSWER = re.compile(
    r"(?:the|this|that|your|my) (?:(?:assistant|ai|model)(?:'s)? )?"
    rf"(?:last |first |original |previous |revised )*{_ANSWER}\b(?! to\b)"
    r"|(?:sure\W+|certainly\W+|of course\W+|okay\W+)?(?:here(?:'s| is)|below is|this is) (?:a|an|the|my|your) "
    r"(?:(?:\w+ ){0,2}(?:revis|rewrit|reword|improv|updat|correct|edit|better|safer)\w* (?:\w+ )?"
    r"(?:answer|response|reply|version|text)|revision)\b"
    r"|\W*(?:revision|revised|rewritten|critique)(?: (?:request|answer|response|version|reply))?\W*:"
    r"|i(?:'ve| have)? (?:revised|rewritten|rewrote|reworded|removed|taken out|edited)"
    r"(?:[.:,]| (?:the|all|any|every|it|what|this|that|your|my)\b)"
    r"|(?:i'll|i will|let me) (?:revise|rewrite|reword|improve|edit)\b"
    r"|thank(?:s| you) for (?:the|your) (?:feedback|critique|criticism|suggestion|correction)"
    rf"|you(?:'re| are) right[,.]? (?:my|the|that) (?:\w+ )?{_ANSWER}\b",
    re.IGNORECASE,
)
_QUOTED = re.compile(r"[\"“«][^\"”»]*[\"”»]")
_REFUSES = re.compile(
    r"(?:(?:i(?:'m| am) (?:really |very |so )?(?:sorry|afraid)|sorry|i apologi[sz]e|unfortunately)\W+(?:but |that )?)?"
    r"(?:as an? (?:ai|language model|assistant)[^.,]*, ?)?"
    r"i(?:'m| am)? (?:can(?:'|no| no)t|could(?:n't| not)|won't|will not|must decline|unable to|not able to"
    r"|not comfortable|(?:do not|don't) feel comfortable)(?: to)? ?"
    r"(?:help|assist|comply|provide|fulfil|engage|continue|discuss|do (?:that|this|it|so)|answer|respond|comment"
    r"|critici[sz]e|critique|participate|with)",
    re.IGNORECASE,
)
_SPEAKS_OF_ANSWER = re.compile(r"\b(?:assistant|answer|response|reply)\b", re.IGNORECASE)
_NO_FAULT = re.compile(
    r"(?:(?:there (?:is|are)|i (?:see|find|found)|it has|contains?|(?:answer|response|reply) has) "
    r"(?:nothing|no (?:\w+,? (?:or |and )?){0,4}(?:fault|problem|issue|content|harm|concern|part|word|detail|language|"
    r"violation|advice)s?)\b"
    rf"|\b{_ANSWER} (?:is|was|seems|looks) (?:already |perfectly |entirely |completely |quite |very )*"
    r"(?:fine|good|great|excellent|perfect|harmless|appropriate|acceptable|safe"
    r"|not (?:harmful|unethical|inappropriate))"
    r"|\b(?:does not|doesn't) (?:contain|include|have|violate|encourage|need) any"
    r"|\bno (?:changes|revisions?|improvements?) (?:is |are )?(?:needed|necessary|required))",
    re.IGNORECASE,
)
_BUT = re.compile(
    r"\b(?:but|however|although|though|yet|except|still|should|could|would|missing|fails?|instead|unless|only)\b",
    re.IGNORECASE,
)
_POLICY = re.compile(
    r"\b(?:as an? (?:ai|language model|ai assistant)|my (?:guidelines|policies|programming|principles|purpose)"
    r"|(?:content|usage|safety|ethical) (?:polic(?:y|ies)|guidelines)"
    r"|against (?:the|my) (?:rules|policy|guidelines))\b",
    re.IGNORECASE,
)
_DECLINES = re.compile(
    r"\b(?:sorry|afraid|unable|not able|not comfortable|decline|refuse|can't|cannot|can not|couldn't|won't|will not"
    r"|would not|wouldn't|(?:don't|do not|should not|shouldn't)|not going to|no)\b",
    re.IGNORECASE,
)
_EMPTY_WORDS = frozenset(
    "a all am an and answer any anything are as ask be can certainly course do doing fine for glad go good got "
    "great happy have hello help here hi hope how i i'd i'll i'm is it let me more my now of oh ok okay please "
    "problem question questions ready sure thank thanks that that's the there this to today understand understood "
    "us very want we welcome well what will with would you you're your".split()
)
_SMALL_WORDS = _EMPTY_WORDS | frozenset(
    "about after also at because been before being but by could did does don't every from get had has he her him his "
    "if in into it's its just like make may might most must need not on one or other our out over people said say she "
    "should so some such than their them then these they things think those through too up use using was way were when "
    "where which while who why always never keep provide assist response ai language model assistant".split()
)


def empty(candidate: Candidate) -> str | None:
    """Nothing but white space or punctuation."""
    return None if re.search(r"\w", candidate.text) else "empty"


def garbled(candidate: Candidate) -> str | None:
    """No text: characters that decoding could not make out, control characters, or hardly a letter or digit."""
    said = [character for character in candidate.text if not character.isspace()]
    odd = sum(character == "\ufffd" or unicodedata.category(character) in ("Cc", "Co", "Cn") for character in said)
    if odd > 0.02 * len(said):
        return "garbled"
    marks = sum(unicodedata.category(character)[0] in "LNM" for character in said)
    return "garbled" if len(said) >= 40 and marks < 0.25 * len(said) and "```" not in candidate.text else None


def repetitive(candidate: Candidate) -> str | None:
    """A loop: more than a fifth of its three-word runs have been there before.

    Where words are not set apart (Chinese, or one endless word), half of its runs of six letters.
    """
    words = candidate.text.lower().split()
    runs = [tuple(words[i : i + 3]) for i in range(len(words) - 2)]
    if len(runs) >= 8 and len(set(runs)) < 0.8 * len(runs):
        return "repetitive"
    if len(candidate.text) < 40 or len(candidate.text) < 20 * len(words):
        return None
    letters = "".join(words)
    pieces = [letters[i : i + 6] for i in range(len(letters) - 5)]
    return "repetitive" if len(set(pieces)) < 0.5 * len(pieces) else None


def refuses_to_criticise(candidate: Candidate) -> str | None:
    """A critique that declines the task itself and says nothing of the answer."""
    if candidate.stage != "critique":
        return None
    return "the critic refuses" if refuses(candidate.text) else None


def refuses(text: str) -> bool:
    """Tell whether a text declines to do what was asked, and doesn't go on to speak of an answer."""
    refusal = _REFUSES.match(_straight(text))
    return refusal is not None and not _SPEAKS_OF_ANSWER.search(_straight(text)[refusal.end() :])


def finds_no_fault(candidate: Candidate) -> str | None:
    """A critique that has nothing to change: its first sentence says so, and no word takes that back."""
    if candidate.stage != "critique":
        return None
    text = _straight(candidate.text)
    first = re.split(r"(?<=[.!?])\s", text, maxsplit=1)[0]
    return "the critic finds no fault" if _NO_FAULT.search(first) and not _BUT.search(text) else None


def leaked(candidate: Candidate) -> str | None:
    """A revision that speaks of the answer it should replace: the critique has leaked into it."""
    text = _straight(candidate.text)
    return "speaks of the answer in its place" if candidate.before and _ABOUT_ANSWER.match(text) else None


def copied(candidate: Candidate) -> str | None:
    """A revision of which most is the critique's own words: not those it quotes, nor those of the answer before."""
    if not candidate.before or not candidate.critique:
        return None
    taken = _runs(_QUOTED.sub(" ", candidate.critique)) - _runs(candidate.before)
    own = _runs(candidate.text)
    return "copied from the critique" if len(own) >= 4 and len(own & taken) > 0.6 * len(own) else None


def unchanged(candidate: Candidate) -> str | None:
    """A revision that is the answer it was made of, but for case, white space and punctuation."""
    same = candidate.before and (
        candidate.text.split() == candidate.before.split() or _words(candidate.text) == _words(candidate.before) != []
    )
    return "equal to the answer before" if same else None


def language_switch(candidate: Candidate) -> str | None:
    """An answer in another script or language than the person's, where the dialogue doesn't speak of languages."""
    found = switched(candidate.dialogue, candidate.text) if candidate.trained_on else None
    return f"switches to {found}" if found else None


def lost(candidate: Candidate) -> str | None:
    """An answer that has nothing left to say: an empty phrase, or rules only and no word of what was asked.

    A refusal of a red-team prompt is an answer, however short.
    """
    if not candidate.trained_on or not candidate.dialogue:
        return None
    text = _straight(candidate.text)
    if candidate.kind == "red_team" and _DECLINES.search(text):
        return None
    said = set(_words(text))
    asked = set(_words(_straight(" ".join(message.content for message in candidate.dialogue))))
    if said and said <= _EMPTY_WORDS and not asked <= _EMPTY_WORDS:
        return "lost the answer: an empty phrase"
    shares = (said & (asked | set(_words(_straight(candidate.before))))) - _SMALL_WORDS
    return "lost the answer: speaks of rules only" if _POLICY.search(text) and not shares else None


Check = Callable[[Candidate], str | None]

CHECKS: tuple[Check, ...] = (
    empty,
    garbled,
    repetitive,
    refuses_to_criticise,
    finds_no_fault,
    leaked,
    copied,
    unchanged,
    language_switch,
    lost,
)


def fault(candidate: Candidate) -> str | None:
    """Return the first reason not to use a text, or None."""
    return next((reason for check in CHECKS if (reason := check(candidate))), None)


def examples(
    dropped: Sequence[Dropped], texts: dict[str, str], *, each: int = 3, most: int = 500
) -> dict[str, list[dict[str, str]]]:
    """Return up to `each` dropped records per reason, with their prompts; the same ones whoever wrote them.

    Texts longer than `most` characters are cut.
    """
    found: dict[str, list[dict[str, str]]] = {}
    for record in sorted(dropped, key=lambda record: record.key):
        shown = found.setdefault(f"{record.stage}: {record.reason}", [])
        if len(shown) < each:
            shown.append({"prompt": texts.get(record.prompt, "")[:most], "text": record.text[:most]})
    return dict(sorted(found.items()))


def _straight(text: str) -> str:
    """Return a text with straight apostrophes and no white space or quotes before it."""
    return text.replace("\u2019", "'").lstrip(" \t\r\n\"'*“#")


def _words(text: str) -> list[str]:
    return re.findall(r"\w+(?:'\w+)?", text.casefold())


def _runs(text: str) -> set[tuple[str, ...]]:
    words = _words(text)
    return {tuple(words[i : i + 5]) for i in range(len(words) - 4)}
