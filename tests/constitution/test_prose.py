import re
from pathlib import Path

import pytest

from cai.constitution import Constitution, load_constitution
from cai.constitution.markdown import from_markdown, to_markdown
from cai.constitution.prose import first_words, prose_to_constitution, slug
from cai.constitution.yaml_out import to_yaml
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

FIXTURES = Path(__file__).parent / "fixtures"


def principles(text: str, name: str = "doc.md") -> Constitution:
    return prose_to_constitution(text, name=name)


def by_text(text: str) -> dict[str, str]:
    return {item.text: item.id for item in principles(text).principles}


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
    found = principles(text).principles
    assert [item.text for item in found] == ["The model should never: build weapons", "The model should never: lie"]
    assert {(item.priority, item.framing) for item in found} == {("hard", "avoid")}
    (only,) = principles(text.replace("Bright lines", "Work")).principles
    assert only.text == "The model should never:\n\n- build weapons\n- lie"
    assert only.priority == 1


def test_a_lead_in_makes_a_list_hard_and_is_said_where_it_is_needed() -> None:
    text = "## Work\n\nThese are bright lines. The model will:\n\n- Keep children safe.\n- stop when told to\n"
    found = principles(text).principles
    assert [(item.text, item.priority, item.path[-1]) for item in found] == [
        ("These are bright lines.", 1, "Work"),
        ("Keep children safe.", "hard", "The model will:"),
        ("The model will: stop when told to", "hard", "Work"),
    ]


@pytest.mark.parametrize(
    ("text", "tiers"),
    [
        ("## Priorities\n\n1. A.\n2. B.\n", [1, 2]),
        ("## Priorities\n\n3. A.\n4. B.\n", [3, 4]),
        ("## Priorities\n\n- A.\n- B.\n", [1, 1]),
        ("## Priorities\n\n### How to say sorry\n\n1. A.\n2. B.\n", [1, 1]),
        ("## Values\n\n1. A.\n2. B.\n\nWhen they conflict, the first weighs more.\n", [1, 2, 1]),
        ("## Values\n\n1. A.\n2. B.\n\nThey rarely conflict.\n", [1, 1, 1]),
        ("## Values\n\nIt prioritises:\n\n1. being safe\n2. being kind\n", [1, 2]),
        ("## Values\n\nIt never prioritises:\n\n1. being quick\n2. being loud\n", [1]),
        ("## Values\n\nEarlier ones take precedence.\n\n1. A.\n2. B.\n", [1, 1, 2]),
        ("## Values\n\nDo this in this order:\n\n1. boil\n2. stir\n", [1]),
    ],
)
def test_what_speaks_of_priorities_makes_tiers(text: str, tiers: list[int]) -> None:
    assert [item.priority for item in principles(text).principles] == tiers


@pytest.mark.parametrize(
    ("title", "hard"),
    [
        ("Hard constraints", True),
        ("Things it will never do", True),
        ("Never", True),
        ("What must not happen", True),
        ("Why honesty never goes out of style", False),
        ("Constraints of time", False),
    ],
)
def test_headings_over_hard_constraints(title: str, hard: bool) -> None:
    (only,) = principles(f"# Us\n\n## {title}\n\nNot this.\n").principles
    assert (only.priority == "hard") is hard


def test_items_that_are_sentences_stand_alone_and_others_with_their_lead_in() -> None:
    text = (
        "Honesty has parts:\n\n- **Truth.** No lies.\n- *It is calibrated.*\n\nIt weighs:\n\n- how likely\n- how bad\n"
    )
    found = principles(text).principles
    assert [(item.text, item.path) for item in found] == [
        ("**Truth.** No lies.", ("Honesty has parts:",)),
        ("*It is calibrated.*", ("Honesty has parts:",)),
        ("It weighs:\n\n- how likely\n- how bad", ()),
    ]


@pytest.mark.parametrize("block", ["> Quoted.", "| a |\n|---|\n| b |", "```\ncode\n```", "    code"])
def test_what_a_lead_in_speaks_of_stays_with_it(block: str) -> None:
    (only,) = principles(f"It looks so:\n\n{block}\n").principles
    assert only.text == f"It looks so:\n\n{block}"


FRONT = '---\nname: ours\nversion: "2"\nlicence: MIT\ndescription: About us.\nlayout: page\n---\n# Us\n\nBe kind.\n'


def test_what_stands_before_the_document_names_it() -> None:
    constitution = principles(FRONT)
    assert (constitution.name, constitution.version, constitution.licence) == ("ours", "2", "MIT")
    assert constitution.description == "About us."
    assert [item.text for item in constitution.principles] == ["Be kind."]


def test_rules_at_the_top_are_no_front_matter() -> None:
    assert [item.text for item in principles("---\n\nBe kind.\n\n---\n").principles] == ["Be kind."]
    assert "Note: be kind" in {item.text for item in principles("---\nNote: be kind\n\n---\n").principles}
    text = "---\nNote: be kind\n---\n\nname: x\n"
    assert [(item.text, item.path) for item in principles(text).principles] == [("name: x", ("Note: be kind",))]


@pytest.mark.parametrize(
    ("front", "said"),
    [
        ('version: "2"\n', None),
        ("version: 2.0\n", r"doc\.md:2:10: version: "),
        ("a: 1\nname: Not One\n", r"doc\.md:3:7: name: "),
        ("name: a\nname: b\n", r"doc\.md:3:1: .*in line 2"),
        ("- a\nname: x\n", r"doc\.md:3:1: bad YAML"),
    ],
)
def test_what_stands_before_the_document_is_read_strictly(front: str, said: str | None) -> None:
    text = f"---\n{front}---\n\nBe kind.\n"
    if said is None:
        assert principles(text).version == "2"
        return
    with pytest.raises(InputError, match=said):
        principles(text)


def test_lines_are_counted_from_the_first() -> None:
    with pytest.raises(InputError, match=r"doc\.md:13:1: a sentence of 5000"):
        principles(f"{FRONT}\n\n{'x' * 5000}\n")


def test_a_new_section_renames_nothing() -> None:
    before = by_text(DOCUMENT)
    changed = DOCUMENT.replace("## Work", "A new paragraph.\n\n## New\n\nNew words.\n\n## Work")
    after = by_text(changed)
    assert before.items() < after.items()
    assert by_text(DOCUMENT.replace("\n", "\r\n")) == before


def test_the_same_words_twice_get_ids_of_their_own() -> None:
    found = principles("Same.\n\nSame.\n\nSame.\n").principles
    assert len({item.id for item in found}) == 3


def test_a_realistic_document_becomes_what_is_expected() -> None:
    assert to_yaml(load_constitution(FIXTURES / "prose.md")) == (FIXTURES / "prose.yaml").read_text(encoding="utf-8")


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


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("Be *kind*.", "Be kind"),
        ("[^1]: A note.", "A note"),
        ("See [the list](https://example.org/a) of it.", "See the list of it"),
        ("> # one two three four five six seven eight nine", "one two three four five six seven eight…"),
        ("***", ""),
    ],
)
def test_titles_are_the_first_words_without_markdown(text: str, title: str) -> None:
    assert first_words(text) == title
