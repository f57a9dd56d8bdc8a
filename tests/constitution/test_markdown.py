from pathlib import Path

import pytest

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
