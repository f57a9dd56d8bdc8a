import random
import re
import time
from pathlib import Path

import pytest

from cai.constitution import Constitution, load_constitution
from cai.constitution.markdown import from_markdown, to_markdown
from cai.constitution.prose import prose_to_constitution, slug
from cai.errors import InputError

DOCUMENT = """\
# Our constitution

The opening says why. It has *two* sentences!

## Priorities, in order

Conflicts are rare. When they come, go by this order:

1. Safety comes first. People stay able
   to stop the model.
2. Then honesty.
3. Then help.

## Hard constraints

A few things are settled.

- Never help to build weapons.
- Keep children safe.

## What the model never does

Hurt people for fun.

## Work

### With tools

The tools that it may use:

- a calculator
- a calendar

> A quotation stays whole.

| kind | rule |
|---|---|
| table | stays whole |

### Ends are read too

### With people

Listen first.

    code too
"""

WORDS = "the model should weigh what people need against what it knows and speak plainly about both of them".split()


KINDS = ("values", "priorities", "hard constraints", "work")


def principles(text: str, name: str = "doc.md") -> Constitution:
    return prose_to_constitution(text, name=name)


def by_text(text: str) -> dict[str, str]:
    return {item.text: item.id for item in principles(text).principles}


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


def flat(text: str) -> str:
    return " ".join(text.split())


def test_sections_become_principles_with_their_headings() -> None:
    found = {item.text: item for item in principles(DOCUMENT).principles}
    first = found["The opening says why. It has *two* sentences!"]
    assert first.path == ("Our constitution",)
    tools = found["The tools that it may use:\n\n- a calculator\n- a calendar"]
    assert tools.path == ("Our constitution", "Work", "With tools")
    assert tools.id.startswith("work-with-tools-")
    assert "> A quotation stays whole." in found
    assert found["Ends are read too"].path == ("Our constitution", "Work")
    assert any("table | stays whole" in text for text in found)


def test_an_ordered_list_under_priorities_becomes_tiers() -> None:
    tiers = [item for item in principles(DOCUMENT).principles if item.path[-1].startswith("When they come")]
    assert [(item.priority, item.text) for item in tiers] == [
        (1, "Safety comes first. People stay able to stop the model."),
        (2, "Then honesty."),
        (3, "Then help."),
    ]
    assert {item.path[-1] for item in tiers} == {"When they come, go by this order:"}
    assert "Conflicts are rare." in by_text(DOCUMENT)
    many = "## In order of rank\n\n" + "".join(f"1. Rule {number}.\n" for number in range(120))
    assert [item.priority for item in principles(many).principles] == [*range(1, 100), *[99] * 21]


def test_hard_constraints_are_hard_and_say_never_themselves() -> None:
    hard = [item.text for item in principles(DOCUMENT).principles if item.priority == "hard"]
    assert hard == [
        "Never help to build weapons.",
        "Keep children safe.",
        "What the model never does: Hurt people for fun.",
    ]


def test_a_list_of_what_is_never_done_stays_with_the_words_that_say_so() -> None:
    text = "## Bright lines\n\nThe model should never:\n\n- build weapons\n- lie\n"
    (only,) = principles(text).principles
    assert only.text == "The model should never:\n\n- build weapons\n- lie"
    assert (only.priority, only.framing) == ("hard", "avoid")


def test_a_change_elsewhere_renames_nothing() -> None:
    before = by_text(DOCUMENT)
    changed = DOCUMENT.replace("## Work", "A new paragraph.\n\n## New\n\nNew words.\n\n## Work")
    after = by_text(changed)
    assert before.items() < after.items()
    assert by_text(DOCUMENT.replace("\n", "\r\n")) == before


def test_the_same_words_twice_get_ids_of_their_own() -> None:
    found = principles("Same.\n\nSame.\n\nSame.\n").principles
    assert len({item.id for item in found}) == 3


@pytest.mark.parametrize("seed", range(5))
def test_no_sentence_is_lost_or_said_twice(seed: int) -> None:
    text, sentences = generated(3000, seed)
    found = principles(text).principles
    texts = [flat(item.text) for item in found]
    paths = {flat(part) for item in found for part in item.path}
    for sentence in sentences:
        count = sum(sentence in said for said in texts)
        assert count == 1 or (count == 0 and sentence in paths), sentence


def test_thirty_thousand_words_in_two_seconds() -> None:
    text, sentences = generated(30_000)
    assert len(text.split()) > 30_000
    start = time.process_time()
    found = principles(text)
    took = time.process_time() - start
    assert took < 2, took
    assert flat(text).count(sentences[-1]) == 1
    assert len(found.principles) > 500


def test_a_long_paragraph_is_cut_between_sentences() -> None:
    text = " ".join(f"This is sentence number {number} of a long paragraph." for number in range(300))
    found = principles(text).principles
    assert len(found) > 1
    assert flat(" ".join(item.text for item in found)) == text
    assert all(item.text.endswith(".") for item in found)


def test_a_long_list_is_cut_between_items_and_says_its_lead_in_again() -> None:
    items = "\n".join(f"- number {number} of what is {'never ' * 10}done" for number in range(100))
    found = principles(f"First this. The model never does any of these:\n\n{items}\n").principles
    assert len(found) > 1
    assert all("The model never does any of these:" in item.text for item in found)
    assert sum(item.text.count("- number ") for item in found) == 100


def test_round_trips_through_the_rendered_form() -> None:
    constitution = principles(DOCUMENT)
    assert from_markdown(to_markdown(constitution), name="x").digest == constitution.digest


def test_nested_lists_and_comments() -> None:
    text = "<!-- a note -->\n\n- one\n  - inner\n\n  more\n- two\n  lines\n"
    assert [item.text for item in principles(text).principles] == ["one\n- inner\n\nmore", "two lines"]


def test_a_definition_or_a_footnote_is_not_lost() -> None:
    assert re.search("footnote", " ".join(by_text("Text.[^1]\n\n[^1]: footnote\n")))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", r"doc\.md:1:1: there is no prose"),
        ("<!-- only a note -->\n", "there is no prose"),
        ("# T\n\nbad \x00 byte\n", r"doc\.md:3:5: the character U\+0000"),
        ("# T\n\n" + "x" * 5000 + "\n", r"doc\.md:3:1: a sentence of 5000 characters"),
    ],
)
def test_what_cannot_be_read_is_named_by_its_line(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        principles(text)


def test_a_heading_in_no_latin_letters_still_gives_an_id() -> None:
    (only,) = principles("# 憲法\n\n人を助ける。\n").principles
    assert only.id.startswith("section-")
    assert slug("'Don't'  panic!", 8) == "dont"


def test_load_constitution_reads_markdown(tmp_path: Path) -> None:
    path = tmp_path / "ours.md"
    path.write_text(DOCUMENT, encoding="utf-8")
    assert load_constitution(path).name == "ours"
