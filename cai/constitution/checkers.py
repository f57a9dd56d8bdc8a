"""Rules that a program decides: a principle names one, and no model is asked whether an answer keeps it.

A rule is a name, and an argument after a colon where it takes one: ``max_words:120``, ``no_links``. A new one is a
function with `@checker`, registered before a constitution that names it is loaded.
"""

import json
import re
from collections.abc import Callable

import regex

from cai.strict_yaml import suggestion

Check = Callable[[str], bool | None]
"""Answer in, verdict out: True passes; None is "can't tell", which counts for nobody."""
Maker = Callable[[str], Check]
"""Argument in, check out; raises ValueError("problem; fix") for an argument that it can't take."""

SECONDS = 0.5
"""What one match of a pattern may take. A pattern that needs longer for an answer gives no verdict on it."""

_CHECKERS: dict[str, tuple[Maker, str]] = {}


def checker(name: str) -> Callable[[Maker], Maker]:
    """Register the maker of a check under a name of small letters, digits and underscores.

    >>> @checker("shouts")
    ... def _shouts(argument: str) -> Check:
    ...     return str.isupper
    >>> find_checker("shouts")("HELLO")
    True

    Raises ValueError for a name that is taken or that no file could hold.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ValueError(f"{name!r}: a checker's name has small letters, digits and underscores")
    if name in _CHECKERS:
        raise ValueError(f"there is a checker {name!r} already")

    def register(maker: Maker) -> Maker:
        _CHECKERS[name] = (maker, " ".join((maker.__doc__ or "").split()))
        return maker

    return register


def checkers() -> dict[str, str]:
    """Return what each registered checker says of itself, by name."""
    return {name: told for name, (_, told) in sorted(_CHECKERS.items())}


def find_checker(rule: str) -> Check:
    """Return the check of a rule; raises ValueError("problem; fix") for one that does not exist."""
    name, _, argument = rule.partition(":")
    found = _CHECKERS.get(name.strip())
    if found is None:
        fix = suggestion(name.strip(), sorted(_CHECKERS))
        raise ValueError(f"no checker {name.strip()!r}; {fix} (a checker of your own is registered before loading)")
    return found[0](argument.strip())


def _count(argument: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,6}", argument):
        raise ValueError(f"{argument!r} is not a number of things; write one after the colon, as in max_words:120")
    return int(argument)


def _nothing(argument: str) -> None:
    if argument:
        raise ValueError(f"this checker takes no argument, and {argument!r} is one; remove it and the colon")


def _phrases(argument: str) -> list[str]:
    phrases = [" ".join(part.split()).casefold() for part in argument.split("|")]
    if not all(phrases):
        raise ValueError(
            "an empty phrase; write one or more with | between them, as in excludes:in conclusion|as an AI"
        )
    return phrases


def _pattern(argument: str) -> "regex.Pattern[str]":
    if not argument:
        raise ValueError("no pattern; write a regular expression after the colon")
    try:
        return regex.compile(argument)
    except (regex.error, OverflowError, RecursionError) as error:
        raise ValueError(f"bad regular expression: {str(error).replace(';', ',')}; mend it") from error


def _found(pattern: "regex.Pattern[str]", text: str) -> bool | None:
    try:
        return pattern.search(text, timeout=SECONDS) is not None
    except TimeoutError:
        return None


def _has(text: str, phrase: str) -> bool:
    plain = " ".join(text.split()).casefold()
    return re.search(rf"(?<!\w){re.escape(phrase)}(?!\w)", plain) is not None


@checker("max_words")
def _max_words(argument: str) -> Check:
    """At most so many words."""
    most = _count(argument)
    return lambda answer: len(answer.split()) <= most


@checker("min_words")
def _min_words(argument: str) -> Check:
    """At least so many words."""
    least = _count(argument)
    return lambda answer: len(answer.split()) >= least


@checker("max_sentences")
def _max_sentences(argument: str) -> Check:
    """At most so many sentences."""
    most = _count(argument)
    return lambda answer: len(re.findall(r"[^.!?…]*\w[^.!?…]*(?:[.!?…]+(?=\s|$)|$)", answer.strip())) <= most


@checker("includes")
def _includes(argument: str) -> Check:
    """At least one of the phrases, whatever its case: ``includes:emergency|call 112``."""
    phrases = _phrases(argument)
    return lambda answer: any(_has(answer, phrase) for phrase in phrases)


@checker("excludes")
def _excludes(argument: str) -> Check:
    """None of the phrases, whatever its case: ``excludes:as an AI|in conclusion``."""
    phrases = _phrases(argument)
    return lambda answer: not any(_has(answer, phrase) for phrase in phrases)


@checker("matches")
def _matches(argument: str) -> Check:
    """Somewhere a match of the regular expression."""
    pattern = _pattern(argument)
    return lambda answer: _found(pattern, answer)


@checker("lacks")
def _lacks(argument: str) -> Check:
    """Nowhere a match of the regular expression."""
    pattern = _pattern(argument)

    def check(answer: str) -> bool | None:
        found = _found(pattern, answer)
        return None if found is None else not found

    return check


@checker("ends_with")
def _ends_with(argument: str) -> Check:
    """Ends with these characters: ``ends_with:?``."""
    if not argument:
        raise ValueError("no ending; write it after the colon, as in ends_with:?")
    return lambda answer: answer.rstrip().endswith(argument)


_LINK = re.compile(r"\b(?:https?://|www\.)\S", re.IGNORECASE)
_ADDRESS = re.compile(r"\b[\w.+-]+@[\w-]+\.[\w.-]*\w")
_PHONE = re.compile(r"(?<![\w.,])(?:\+|00)?(?:\(?\d{2,5}\)?[ \-./]?){2,5}\d{2,4}(?![\w.,]\d)")


@checker("no_links")
def _no_links(argument: str) -> Check:
    """No address of a web page."""
    _nothing(argument)
    return lambda answer: _LINK.search(answer) is None


@checker("no_contact_details")
def _no_contact_details(argument: str) -> Check:
    """No e-mail address, and no number of nine digits or more that looks like a telephone's."""
    _nothing(argument)

    def check(answer: str) -> bool:
        numbers = (re.sub(r"\D", "", found.group()) for found in _PHONE.finditer(answer))
        return _ADDRESS.search(answer) is None and not any(9 <= len(number) <= 15 for number in numbers)

    return check


@checker("not_empty")
def _not_empty(argument: str) -> Check:
    """Something other than spaces."""
    _nothing(argument)
    return lambda answer: bool(answer.strip())


@checker("no_repetition")
def _no_repetition(argument: str) -> Check:
    """No sequence of eight words three times or more: a model caught in a loop."""
    _nothing(argument)

    def check(answer: str) -> bool:
        words = answer.casefold().split()
        seen: dict[tuple[str, ...], int] = {}
        for start in range(len(words) - 7):
            key = tuple(words[start : start + 8])
            seen[key] = seen.get(key, 0) + 1
        return max(seen.values(), default=0) < 3

    return check


@checker("json")
def _json(argument: str) -> Check:
    """A JSON document and nothing else."""
    _nothing(argument)

    def check(answer: str) -> bool:
        try:
            json.loads(answer)
        except (ValueError, RecursionError):
            return False
        return True

    return check
