"""Long documents, made by chance: no sentence is lost, none is said twice, and a change elsewhere renames nothing."""

import random
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cai.constitution import Constitution
from cai.constitution.prose import prose_to_constitution

WORDS = "the model should weigh what people need against what it knows and speak plainly about both of them".split()


KINDS = ("values", "priorities", "hard constraints", "work")


def principles(text: str, name: str = "doc.md") -> Constitution:
    return prose_to_constitution(text, name=name)


def by_text(text: str) -> dict[str, str]:
    return {item.text: item.id for item in principles(text).principles}


def flat(text: str) -> str:
    return " ".join(text.split())


def generated(words: int, seed: int = 0) -> tuple[str, list[str]]:
    """Return a document of so many words, and its sentences: each has a number that no other has."""
    drawn = random.Random(seed)
    sentences: list[str] = []
    parts = ["# A long document"]
    count = 0

    def sentence(end: str = ".") -> str:
        nonlocal count
        size = drawn.randint(6, 24)
        count += size
        said = f"Sentence {len(sentences)}x says {' '.join(drawn.choice(WORDS) for _ in range(size - 3))}{end}"
        sentences.append(said)
        return said

    while count < words:
        parts.append(f"{'#' * drawn.randint(2, 4)} Part {len(parts)} of {drawn.choice(KINDS)}")
        for _ in range(drawn.randint(1, 5)):
            parts.append("\n".join(sentence() for _ in range(drawn.randint(1, 9))))
        kind = drawn.choice(["-", "1.", ""])
        if kind:
            if drawn.random() < 0.5:
                parts.append(f"{sentence()} {sentence(':')}")
            parts.append("\n".join(f"{kind} {sentence()}" for _ in range(drawn.randint(2, 30))))
    return "\n\n".join(parts) + "\n", sentences


@dataclass(frozen=True)
class Block:
    """A part of a generated document, with what must be found in the principles, in its order."""

    text: str
    sentences: tuple[str, ...] = ()
    level: int = 0
    """A heading's."""
    leads: bool = False
    """Whether it ends with a colon."""


TITLES = ("Values", "Priorities", "Hard constraints", "What is never done", "On work", "Tiers of care", "1. First")
WORD = st.sampled_from(["weigh", "*people*", "what", "`code`", "never", "[a](b)", "it's", "(so)", "e.g.", "é", "—"])


@st.composite
def documents(draw: st.DrawFn) -> list[Block]:
    """Documents of every kind of block; each of their sentences has a number that no other has."""
    count = 0

    def sentence(end: str = ".") -> str:
        nonlocal count
        count += 1
        return f"Say{count}x {' '.join(draw(st.lists(WORD, max_size=6)))}".rstrip() + f" so{end}"

    def some(least: int = 1, most: int = 4) -> list[str]:
        return [sentence(draw(st.sampled_from([".", "!", "?"]))) for _ in range(draw(st.integers(least, most)))]

    def listed(mark: str) -> Block:
        lines, said = [], []
        for number in range(draw(st.integers(1, 4))):
            head, inner = some(1, 2), some(0, 2)
            said += [*head, *inner]
            bullet = f"{number + 1}. " if mark == "1." else f"{mark} "
            body = [*head, *(f"- {text}" for text in inner)]
            lines += [f"{bullet if not index else ' ' * len(bullet)}{text}" for index, text in enumerate(body)]
        return Block("\n".join(lines), tuple(said))

    def block() -> Iterator[Block]:
        kind = draw(st.sampled_from(["words", "lead", "list", "quote", "table", "fence", "note", "rule", "title", "h"]))
        if kind in ("words", "note"):
            said = some(1, 6)
            mark = f"[^{count}]: " if kind == "note" else ""
            yield Block(mark + draw(st.sampled_from(["\n", " "])).join(said), tuple(said))
        elif kind in ("lead", "list"):
            if kind == "lead":
                said = [*some(0, 2), sentence(draw(st.sampled_from([":", " never:", ":**"])))]
                yield Block(" ".join(said), tuple(said), leads=True)
            if kind == "lead" and draw(st.booleans()):
                return
            yield listed(draw(st.sampled_from(["-", "*", "1."])))
        elif kind == "quote":
            said = some()
            yield Block("\n".join(f"> {text}" for text in said), tuple(said))
        elif kind == "table":
            said = some()
            yield Block("| a | b |\n|---|---|\n" + "\n".join(f"| x | {text} |" for text in said), tuple(said))
        elif kind == "fence":
            said = some()
            yield Block("```\n# no heading\n" + "\n\n".join(said) + "\n```", tuple(said))
        elif kind == "rule":
            yield Block("***")
        else:
            level = draw(st.integers(2, 4))
            title = sentence("") if kind == "h" else draw(st.sampled_from(TITLES))
            yield Block(f"{'#' * level} {title}", (title,) if kind == "h" else (), level=level)

    return [part for _ in range(draw(st.integers(1, 12))) for part in block()]


def written(blocks: list[Block]) -> str:
    return "# A document\n\n" + "\n\n".join(part.text for part in blocks) + "\n"


def apart(blocks: list[Block]) -> list[Block]:
    """Put a rule between blocks that Markdown might take for one."""
    found: list[Block] = []
    for part in blocks:
        if found and not found[-1].level and not found[-1].leads:
            found.append(Block("---"))
        found.append(part)
    return found


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(documents())
def test_no_sentence_is_lost_or_said_twice_and_the_order_stays(blocks: list[Block]) -> None:
    sentences = [flat(text) for part in blocks for text in part.sentences]
    if not sentences:
        return
    found = principles(written(apart(blocks))).principles
    whole = [flat("\n".join([*item.path, item.text])) for item in found]
    place = 0
    for text in sentences:
        at = [index for index, said in enumerate(whole) if text in said]
        assert at, text
        assert at[0] >= place, text
        place = at[0]
    again = {flat(part) for item in found for part in item.path}
    for part in blocks:
        for text in map(flat, part.sentences):
            count = sum(flat(item.text).count(text) for item in found)
            # A lead-in or a heading is said again where what follows would mean something else without.
            may_repeat = bool(part.level) or (part.leads and text == flat(part.sentences[-1]))
            assert count == 1 or (count == 0 and text in again) or (count > 1 and may_repeat), text


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(documents(), st.data())
def test_a_change_elsewhere_renames_nothing(blocks: list[Block], data: st.DataObject) -> None:
    blocks = [Block("The opening."), *apart(blocks), Block("## The end")]
    before = by_text(written(blocks))
    places = [
        index
        for index in range(1, len(blocks) + 1)
        if not blocks[index - 1].leads and (index == len(blocks) or blocks[index].level == 2)
    ]
    at = data.draw(st.sampled_from(places))
    new = Block("## Of late\n\nSomething new.\n\n- A list.\n\n---")
    more = [*blocks[:at], new, *blocks[at:]]
    appended = written(more) + "\n\n# Appendix\n\nMore.\n"
    assert before.items() <= by_text(appended).items()
    told = written(blocks).replace("# A document", "# Renamed").replace("\n", "\r\n")
    renamed = {key: value for key, value in before.items() if not re.match(r"a-document-[0-9a-f]{8}", value)}
    assert renamed.items() <= by_text(told).items()


def test_thirty_thousand_words_in_two_seconds() -> None:
    text, sentences = generated(30_000)
    assert len(text.split()) > 30_000
    start = time.process_time()
    found = principles(text)
    took = time.process_time() - start
    assert took < 2, took
    assert flat(text).count(sentences[-1]) == 1
    assert len(found.principles) > 500
