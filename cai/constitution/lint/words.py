"""Words as rules compare them: without those that say nothing, in a common form; and texts that are nearly the same.

All of it is made for English and knows no meanings. Rules use it where a miss costs little and a false alarm is rare.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from functools import lru_cache

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_EMPTY = frozenset(
    """
    a an the this that these those it its they them their theirs he him his she her hers you your yours i me my mine we
    us our ours who whom whose which what when where why how if because as than then so such and or but nor of in on at
    by to for from with about into onto over under through between against out up down off after before while until
    whether although though be is are was were been being am do does did done doing have has had having will would shall
    should can could may might must not no never don't doesn't didn't can't cannot won't isn't aren't shouldn't mustn't
    without avoid also too very more most less least much many some any all every each both either neither other others
    another only even just still else however there here now always ever own same itself themselves himself herself
    yourself anyone anybody someone somebody everyone everybody nobody one ones something anything nothing everything
    """.split()
)
_NEGATIONS = re.compile(
    r"\b(?:not|never|no|nor|without|avoid|refuse|neither|nobody|nothing|cannot|\w+n['’]t)\b", re.IGNORECASE
)
_FORBIDS = re.compile(
    r"^(?:(?:when|if|unless|where|as|before|after|while)\b[^,]*,\s*)?(?:please\s+)?"
    r"(?:never|do not|don['’]t|avoid|refuse|no\b|under no circumstances)",
    re.IGNORECASE,
)
_IRREGULAR = {
    "said": "say",
    "told": "tell",
    "gave": "give",
    "given": "give",
    "made": "make",
    "taken": "take",
    "written": "write",
    "known": "know",
    "shown": "show",
    "left": "leave",
    "kept": "keep",
    "best": "good",
    "better": "good",
    "worse": "bad",
    "worst": "bad",
    "children": "child",
    "people": "person",
    "women": "woman",
    "men": "man",
}
_VOWEL = re.compile(r"[aeiouy]")

NEAR = 0.8
"""Texts that share this part of all their words are nearly the same."""


@lru_cache(maxsize=65536)
def stem(word: str) -> str:
    """Return a word without the endings of its forms; not a word of a dictionary.

    >>> [stem(word) for word in ("crimes", "helping", "helped", "studies", "glass")]
    ['crim', 'help', 'help', 'study', 'glass']
    """
    word = _IRREGULAR.get(word, word)
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    for ending in ("ing", "est", "ed", "er", "es", "ly", "s", "e"):
        bare = word.removesuffix(ending)
        if bare != word and len(bare) > 2 and _VOWEL.search(bare) and not (ending == "s" and bare.endswith("s")):
            return bare
    return word


def words(text: str) -> list[str]:
    """Return the words of a text in small letters."""
    return _WORD.findall(text.casefold().replace("’", "'"))


def content(text: str) -> frozenset[str]:
    """Return the stems of the words that carry meaning.

    >>> sorted(content("Do not help anyone with a crime."))
    ['crim', 'help']
    """
    bare = (word.removesuffix("'s") for word in words(text))
    return frozenset(stem(word) for word in bare if word not in _EMPTY)


def plain(text: str) -> str:
    """Return a text so that layout, case and punctuation make no difference."""
    return " ".join(words(text))


def related(first: frozenset[str], second: frozenset[str]) -> bool:
    """Tell whether two sets of stems have one in common, or two that begin alike (deceive, deception)."""
    if first & second:
        return True
    return bool({word[:4] for word in first if len(word) > 5} & {word[:4] for word in second if len(word) > 5})


@lru_cache(maxsize=8192)
def forbids(text: str) -> bool:
    """Tell whether a text begins by saying what not to do."""
    return _FORBIDS.match(text.strip()) is not None


@lru_cache(maxsize=8192)
def negations(text: str) -> int:
    """Return how many words of a text deny something."""
    return len(_NEGATIONS.findall(text))


def agrees(first: str, second: str) -> bool:
    """Tell whether two texts of the same words say the same, as far as their negations tell."""
    return forbids(first) == forbids(second) and negations(first) == negations(second)


def opposes(first: str, second: str) -> bool:
    """Tell whether, of two texts of the same words, one forbids what the other asks for."""
    return forbids(first) != forbids(second)


def similarity(first: frozenset[str], second: frozenset[str]) -> float:
    """Return which part of all words two sets share (Jaccard's index); 0 for two empty ones."""
    union = len(first | second)
    return len(first & second) / union if union else 0.0


def similar(
    left: Sequence[frozenset[str]], right: Sequence[frozenset[str]], accept: Callable[[int, int], bool]
) -> dict[int, int]:
    """Return, for a number in `right`, the first in `left` that is nearly the same and that `accept`s the pair.

    Fast where most sets differ: sets that share `NEAR` of their words share one of the rarest few.
    """
    counts: Counter[str] = Counter(word for group in (left, right) for item in group for word in item)

    def rarest(item: frozenset[str]) -> list[str]:
        ordered = sorted(item, key=lambda word: (counts[word], word))
        return ordered[: len(item) - math.ceil(NEAR * len(item)) + 1]

    index: dict[str, list[int]] = defaultdict(list)
    for number, item in enumerate(left):
        for word in rarest(item):
            index[word].append(number)
    found: dict[int, int] = {}
    for number, item in enumerate(right):
        near = sorted({other for word in rarest(item) for other in index.get(word, ())})
        for other in near:
            if similarity(left[other], item) >= NEAR and accept(other, number):
                found[number] = other
                break
    return found
