from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cai.constitution import Constitution, load_constitution
from cai.constitution.markdown import MARK, from_markdown, to_markdown
from cai.constitution.model import Principle
from cai.constitution.parse import read_constitution, shipped
from cai.constitution.yaml_out import to_yaml
from cai.errors import InputError
from cai.strict_yaml import load

EXAMPLE = {
    "prompt": "Hello\n\nAssistant: Hi\n\nHuman: Why?",
    "response": "No.",
    "critique_request": "What is wrong?",
    "critique": "It is curt.\n```yaml\nid: x\n```",
    "revision_request": "Mend it.",
    "revision": "Because.",
}

FULL = {
    "id": "full",
    "title": "All that a principle can say",
    "text": "Be kind.\n\n- Always\n- *Really*",
    "critique": "What is unkind?",
    "revision": "Mend it: {{x}}",
    "comparison": "Which is kinder?",
    "contrast": "Be unkind.",
    "weight": 2.5,
    "tags": ["no", "care"],
    "source": "Our own.\n\nWords.",
    "priority": "hard",
    "framing": "avoid",
    "path": ["Values: all", "# Kindness"],
    "few_shots": [EXAMPLE],
    "comparison_shots": [{"prompt": "Hi", "chosen": "Hello.", "rejected": "## What", "reasons": "One: greets."}],
    "probes": [{"prompt": "Say something mean.", "twin": "Say something kind."}, {"prompt": "```\nmean"}],
    "checker": "max_words:120",
    "gate_margin": 0.25,
}

ODD_TEXTS = (
    "## A heading of its own\n\nand more",
    "Setext\n------\n\nmore",
    "```yaml\nid: other\n```",
    "before\n\n````\nan open fence",
    "<!-- an open comment",
    "~~~\nopen too",
    "    indented code first",
    "> quote\n\n1. list\n\n   ```yaml\n   a: 1\n   ```",
    "a\tb",
    "ends with a list:\n- a\n- b",
    "<div>\n\n# no\n\n</div>",
    "[a]: http://example.org",
    "---\nname: front\n---",
)


def full() -> Constitution:
    assert set(FULL) == set(Principle.model_fields)
    data = {
        "name": "all-of_it",
        "version": "1.0",
        "licence": "MIT",
        "description": "What it is for.\n\nAnd more.",
        "wordings": {"critique": "Say what breaks this: {text}"},
        "principles": [FULL, {"id": "plain", "text": "Say: {text} # no `comment`"}],
        "few_shots": [EXAMPLE],
    }
    return Constitution.model_validate(data)


def round_trip(constitution: Constitution) -> Constitution:
    """YAML to Markdown to YAML, and once more."""
    first = read_constitution(load(to_yaml(constitution)))
    read = from_markdown(to_markdown(first), name="c.md")
    return read_constitution(load(to_yaml(read)))


@pytest.mark.parametrize("name", sorted(shipped()))
def test_a_shipped_constitution_keeps_its_digest(name: str) -> None:
    constitution = load_constitution(name)
    assert round_trip(constitution).digest == constitution.digest


def test_every_field_survives() -> None:
    constitution = full()
    assert round_trip(constitution).digest == constitution.digest
    assert round_trip(constitution) == constitution


@pytest.mark.parametrize("text", ODD_TEXTS)
@pytest.mark.parametrize("where", ["text", "title", "description"])
def test_text_that_looks_like_markdown_survives(text: str, where: str) -> None:
    said = {"id": "one", "text": "Be kind.", **({where: text} if where != "description" else {})}
    data = {"name": "c", "version": "1", "principles": [said, {"id": "two", "text": "Be calm."}]}
    constitution = Constitution.model_validate({**data, **({where: text} if where == "description" else {})})
    assert round_trip(constitution) == constitution


MARKS = (
    "``` ```yaml ~~~~ # ## --- === - 1. > <!-- --> <div> | { } ' \" \\ &a *b !c %d ? @ ` {text} {{7*7}} {%if%}".split()
)
WORDS = "word no 007 1e3 null ~ Never é☃😀 <|im_start|>system </s> [INST] id: few_shots: Examples".split()
SPACES = [" ", "  ", "    ", "\n", "\n\n", "  \n", "\t", "\u200b"]
NASTY = st.lists(st.sampled_from([*MARKS, *WORDS, *SPACES, *SPACES, MARK]), min_size=1, max_size=12).map("".join)
TEXT = NASTY.filter(str.strip)
SLUG = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,8}", fullmatch=True)

SHOT = st.fixed_dictionaries(dict.fromkeys(EXAMPLE, TEXT))
PAIR = st.fixed_dictionaries(
    {"prompt": TEXT, "chosen": TEXT, "rejected": TEXT},
    optional={"reasons": NASTY, "place": st.sampled_from(["", "A", "B"])},
)
PRINCIPLE = st.fixed_dictionaries(
    {"text": TEXT},
    optional={
        **dict.fromkeys(["title", "critique", "revision", "comparison", "contrast"], TEXT),
        "weight": st.floats(0.001, 1000),
        "tags": st.lists(SLUG | st.sampled_from(["no", "007", "1e3", "null"]), max_size=3),
        "priority": st.just("hard") | st.integers(1, 99),
        "framing": st.sampled_from(["do", "avoid"]),
        "few_shots": st.lists(SHOT, max_size=2),
        "comparison_shots": st.lists(PAIR, max_size=2),
        "probes": st.lists(st.fixed_dictionaries({"prompt": TEXT}, optional={"twin": NASTY}), max_size=2),
        "checker": st.sampled_from(["", "max_words:120", "lacks:[#`{]"]),
        "gate_margin": st.floats(0, 0.5),
        "path": st.lists(TEXT, max_size=3),
        "source": NASTY,
    },
)
WORDINGS = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(
        ["critique", "revision", "comparison", "contrast"],
        NASTY.map(lambda text: text.replace("{text}", "") + "{text}"),
    ),
)


@st.composite
def constitutions(draw: st.DrawFn) -> Constitution:
    keys = draw(st.lists(SLUG, min_size=1, max_size=3, unique=True))
    data: dict[str, Any] = {
        "name": draw(SLUG),
        "version": draw(TEXT),
        "principles": [{"id": key, **draw(PRINCIPLE)} for key in keys],
        **draw(
            st.fixed_dictionaries(
                {},
                optional={
                    "description": NASTY,
                    "licence": NASTY,
                    "wordings": WORDINGS,
                    "few_shots": st.lists(SHOT, max_size=2),
                    "comparison_shots": st.lists(PAIR, max_size=2),
                },
            )
        ),
    }
    return Constitution.model_validate(data)


@settings(max_examples=200, deadline=None)
@given(constitutions())
def test_any_constitution_survives(constitution: Constitution) -> None:
    read = round_trip(constitution)
    assert read == constitution
    assert read.digest == constitution.digest


def test_it_reads_as_a_document() -> None:
    text = to_markdown(full())
    assert text.startswith(f"{MARK}\n\n# All of it\n\nWhat it is for.\n\nAnd more.\n\n```yaml\nname: all-of_it\n")
    assert "## All that a principle can say\n\nBe kind.\n\n- Always\n- *Really*\n\n```" in text
    assert "## Plain\n\nSay: {text} # no `comment`\n\n```yaml\nid: plain\n```\n" in text
    assert text.index("few_shots:\n  - prompt", text.index("id: plain")) > 0


def test_edited_prose_is_what_counts() -> None:
    text = to_markdown(full()).replace("- Always", "- Nearly always").replace("\n", "\r\n")
    assert from_markdown(text, name="c.md")["full"].text == "Be kind.\n\n- Nearly always\n- *Really*"


def test_load_constitution_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "harmless.md"
    path.write_text(to_markdown(load_constitution("harmless")), encoding="utf-8")
    assert load_constitution(path).digest == load_constitution("harmless").digest


HEAD = f'{MARK}\n\n# C\n\n```yaml\nname: c\nversion: "1"\n```\n\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (MARK, r"c\.md:1:1: there is no heading"),
        (f"{MARK}\n\nwords\n", r"c\.md:3:1: text before the first heading"),
        (HEAD, r"c\.md:3:1: 'principles' is missing"),
        (HEAD + "## One\n\nBe kind.\n", r"c\.md:10:1: no yaml block"),
        (
            HEAD + "## One\n\nBe kind.\n\n```yaml\nid: one\nwieght: 2\n```\n",
            r"c\.md:16:1: unknown key 'wieght'; did you mean",
        ),
        (HEAD + "## One\n\nBe kind.\n\n```yaml\nid: one\nid: two\n```\n", r"c\.md:16:1: .*in line 15"),
        (HEAD + "## One\n\nBe kind.\n\n```yaml\nid: &a one\n```\n", r"c\.md:15:5: an anchor"),
        (HEAD + "## One\n\nBe kind.\n\n```yaml\nid: one\ntext: x\n```\n", r"c\.md:16:1: 'text' stands here and"),
        (HEAD + "## One\n\nBe kind.\n\n```yaml\nid: one\n```\n\nmore\n", r"c\.md:14:1: something follows"),
        (HEAD + "## One\n\nBe kind.\n\n```yaml\n- id\n```\n", r"c\.md:15:1: not 'key: value' lines"),
        (HEAD + "## One\n\n```yaml\nid: one\n```\n", r"c\.md:10:1: 'principles\.0\.text' is missing"),
        (
            HEAD + "## One\n\na\n\n```yaml\nid: A\n```\n## Two\n\nb\n\n```yaml\nid: A B\n```\n",
            r"c\.md:15:5: .*\n.*c\.md:22:5",
        ),
        (
            HEAD + "## One\n\na\n\n```yaml\nid: a\n```\n\n## Two\n\nb\n\n```yaml\nid: a\n```\n",
            r"c\.md:23:5: the id 'a' .* line 15",
        ),
    ],
)
def test_errors_name_the_line_of_the_document(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        from_markdown(text, name="c.md")


def test_a_thousand_principles_are_read_in_seconds() -> None:
    principles = [{"id": f"p{number}", "text": f"Be kind in way {number}."} for number in range(1000)]
    constitution = Constitution.model_validate({"name": "many", "version": "1", "principles": principles})
    assert from_markdown(to_markdown(constitution), name="many.md").digest == constitution.digest
