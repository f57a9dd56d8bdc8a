import json
from pathlib import Path
from typing import Any

import pytest

from cai.constitution import Constitution
from cai.constitution.importers import import_constitution
from cai.constitution.parse import read_constitution
from cai.constitution.yaml_out import to_yaml
from cai.errors import InputError
from cai.strict_yaml import load

PAPER = Path(__file__).parents[2].parent / "shared" / "data" / "paper_prompts"

needs_paper = pytest.mark.skipif(not PAPER.is_dir(), reason=f"no {PAPER}: data that is not part of the project")

PAIRS = {
    "harmful0": {
        "prompt": ["\n\nCritiqueRequest: Say what is cruel.\n\nCritique:"],
        "edit_request": "\n\nRevisionRequest: Take out what is cruel.\n\nRevision:",
    },
    "harmful1": {"prompt": ["\n\nCritiqueRequest: Say what is false."], "edit_request": "Make it true."},
}
QUESTIONS = ["\nPlease choose the response that is kinder. Options:", "\nWhich response is calmer? Options:"]
CHAINS = [
    "\n\nHuman: One?\n\nAssistant: Two.\n\nHuman: Three?\n\nAssistant: Four.\n\nCriticism apart."
    "\n\nCritiqueRequest: What?\n\nCritique: This.\n\nRevisionRequest: Mend.\n\nRevision: Five.\n\nSix.\n\nHuman:"
]
CHOICES = [{"prompt": "\n\nHuman: Seven?\n\nAssistant:", "corrects": ["Good."], "incorrects": ["Bad."]}]
REASONED = [
    {
        "prompt": "\n\nHuman: Consider the following:\n\nH: Eight?\n\nA:  Nine.\n\nH: Ten?"
        "\n\n{}\n (A) [[[Worse.]]]\n (B) [[[Better.]]]\n\nAssistant: Let's think: B is."
        "\n\nHuman:\nSo the answer is: (B)"
    }
]
SWARM = {
    "constitutions": [{"critic": "Say what is rude.", "revision": "Make it polite."}],
    "system_chat": [
        [{"role": "user" if index % 2 == 0 else "assistant", "content": f"turn {index}"} for index in range(8)],
    ],
}


def write(folder: Path, name: str, content: Any) -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content, indent=1), encoding="utf-8")
    return path


def loads_again(constitution: Constitution) -> None:
    assert read_constitution(load(to_yaml(constitution))).digest == constitution.digest


@needs_paper
def test_all_of_the_paper_arrives() -> None:
    constitution = import_constitution(PAPER)
    assert len(constitution.principles) == 32
    assert len(constitution.tagged(("critique",))) == len(constitution.tagged(("comparison",))) == 16
    assert (len(constitution.few_shots), len(constitution.comparison_shots)) == (5, 5 + 6)
    assert sum(bool(shot.reasons) for shot in constitution.comparison_shots) in (5, 6)
    held = " ".join(to_one_line(constitution))
    for path in sorted(PAPER.glob("*.json")):
        for sentence in sentences(json.loads(path.read_text(encoding="utf-8"))):
            assert sentence in held, (path.name, sentence)
    loads_again(constitution)


def to_one_line(value: Any) -> list[str]:
    if isinstance(value, Constitution):
        value = value.model_dump(mode="json")
    if isinstance(value, dict):
        return [text for part in value.values() for text in to_one_line(part)]
    if isinstance(value, list):
        return [text for part in value for text in to_one_line(part)]
    return [" ".join(str(value).split())]


def sentences(data: Any) -> list[str]:
    """Return what the files say, without their frame: names of speakers, brackets, 'Options:'."""
    frame = ("Human:", "Assistant:", "CritiqueRequest:", "Critique:", "RevisionRequest:", "Revision:", "Options:", "H:")
    found: list[str] = []
    for text in to_one_line(data):
        for mark in (*frame, "A: ", "{}", "[[[", "]]]", "So the answer is", "(A)", "(B)", "Consider the following"):
            text = text.replace(mark, "\n")
        found.extend(line.strip() for line in text.splitlines() if len(line.split()) > 3)
    return [line for line in found if not line.startswith("conversation between")]


def test_the_papers_formats(tmp_path: Path) -> None:
    for name, content in {"a": PAIRS, "b": QUESTIONS, "c": CHAINS, "d": CHOICES, "e": REASONED}.items():
        write(tmp_path, f"{name}.json", content)
    constitution = import_constitution([tmp_path], name="The Paper")
    assert constitution.name == "the-paper"
    first = constitution["harmful0"]
    assert first.critique == "Say what is cruel."
    assert first.revision == first.text == "Take out what is cruel."
    assert constitution["harmful1"].critique == "Say what is false."
    assert constitution["kinder"].comparison == "Please choose the response that is kinder."
    chain = constitution.few_shots[0]
    assert chain.prompt == "One?\n\nAssistant: Two.\n\nHuman: Three?"
    assert chain.response == "Four.\n\nCriticism apart."
    assert chain.revision == "Five.\n\nSix."
    choice, reasoned = constitution.comparison_shots
    assert (choice.prompt, choice.chosen, choice.rejected, choice.reasons) == ("Seven?", "Good.", "Bad.", "")
    assert reasoned.prompt == "Eight?\n\nAssistant: Nine.\n\nHuman: Ten?"
    assert (reasoned.chosen, reasoned.rejected) == ("Better.", "Worse.")
    assert (reasoned.reasons, reasoned.place, choice.place) == ("Let's think: B is.", "B", "")
    loads_again(constitution)


def test_the_handbooks_format(tmp_path: Path) -> None:
    constitution = import_constitution(write(tmp_path, "grok.json", SWARM))
    assert constitution.name == "grok"
    (principle,) = constitution.principles
    assert (principle.id, principle.critique) == ("make-it-polite", "Say what is rude.")
    assert principle.text == principle.revision == "Make it polite."
    (example,) = constitution.few_shots
    assert example.prompt == "turn 0\n\nAssistant: turn 1\n\nHuman: turn 2"
    assert (example.response, example.critique_request, example.critique) == ("turn 3", "turn 4", "turn 5")
    assert example.revision == "turn 7"


def test_plain_text(tmp_path: Path) -> None:
    text = "# ours\n\n- Be kind.\n* Be calm.\n3. Be brief.\n(4) Be kind.\n  Be *bold*: {text}\n"
    constitution = import_constitution(write(tmp_path, "List of ours.txt", text))
    assert constitution.name == "list-of-ours"
    found = {item.id: item.text for item in constitution.principles}
    assert found == {
        "be-kind": "Be kind.",
        "be-calm": "Be calm.",
        "be-brief": "Be brief.",
        "be-kind-2": "Be kind.",
        "be-bold-text": "Be *bold*: {text}",
    }


SELECT = "Select the response that is more concise"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.json", [SELECT, "Be kind"]),
        ("dict.json", {"0": SELECT, "1": "Be kind"}),
        ("named.json", {"constitution": [SELECT, "Be kind"]}),
        ("rows.json", [{"id": 7, "principle": SELECT}, {"text": "Be kind"}]),
        ("numbered.json", f"1. {SELECT}\n2. Be kind"),
        ("plain.csv", f"principle,votes\n{SELECT},3\nBe kind,1\n"),
        ("quoted.csv", f'votes,Constitution\r\n1,"1. {SELECT}\n2. Be kind"\r\n'),
    ],
)
def test_inverse_constitutions(tmp_path: Path, name: str, content: Any) -> None:
    if name == "numbered.json":
        content = json.dumps(content)
    constitution = import_constitution(write(tmp_path, name, content))
    assert [item.text for item in constitution.principles] == [SELECT, "Be kind"]
    assert constitution.principles[0].id == "more-concise"
    assert constitution.principles[0].comparison == SELECT
    loads_again(constitution)


def test_a_format_can_be_said(tmp_path: Path) -> None:
    path = write(tmp_path, "x.txt", json.dumps(SWARM))
    assert len(import_constitution(path, format="handbook").principles) == 1


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", "", r"a\.json:1:1: the file is empty"),
        ("a.json", '["x",\n  oops]', r"a\.json:2:3: bad JSON"),
        ("a.json", '{"a": "b", "a": "c"}', r"a\.json:1:\d+: .*'a' is there twice"),
        ("a.json", "[NaN]", r"a\.json:1:1: bad JSON: NaN"),
        ("a.json", "[" * 5000 + "]" * 5000, r"a\.json:1:1: bad JSON: nested too deep|not a text|nested too deep"),
        ("a.json", "[3]", r"a\.json:1:1: not a text: 3"),
        ("a.json", "[]", r"a\.json: no principle here"),
        ("a.json", '{"constitutions": 3}', r"a\.json:1:1: no list 'constitutions'"),
        ("a.json", '{"constitutions": [\n{"critic": "Why?"}]}', r"a\.json:2:12: constitution 1 needs"),
        ("a.json", '{"constitutions": [],\n "system_chat": [[]]}', r"a\.json:2:2: chat 1 is not"),
        ("a.json", '{"x": {"edit_request": "a", "prompt": ["b"]},\n "y": {}}', r"a\.json:2:2: 'y' has no 'prompt'"),
        ("a.json", '["\\n\\nHuman: a\\n\\nCritiqueRequest: b"]', r"a\.json:1:2: an example without all"),
        ("a.json", '[{"prompt": "a"}]', r"a\.json:1:13: an example without 'corrects'"),
        ("a.json", json.dumps(CHOICES), r"a\.json: no principle here, only examples"),
        ("a.csv", "who,what\n1,2\n", r"a\.csv:1:1: no column of principles"),
        ("a.csv", "who,text\n1,a\n2\n", r"a\.csv:3:1: 1 cells"),
        ("a.csv", 'text\n"a\n', r"a\.csv:2:1: bad CSV"),
        ("a.txt", "Be kind.\n" + "x" * 4001, r"a\.txt:2:1: text: .*4000"),
        ("a.txt", "Be \x00kind.", r"a\.txt:1:4: the character U\+0000"),
        ("a.txt", "# nothing\n", r"a\.txt: no principle here"),
    ],
)
def test_bad_files_are_named_by_their_place(tmp_path: Path, name: str, content: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        import_constitution(write(tmp_path, name, content))


def test_bad_paths_and_formats(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="can't be read"):
        import_constitution(tmp_path / "none.json")
    with pytest.raises(InputError, match="nothing to import"):
        import_constitution(tmp_path)
    with pytest.raises(InputError, match="did you mean 'paper'"):
        import_constitution(tmp_path, format="papers")
    path = tmp_path / "latin.txt"
    path.write_bytes(b"caf\xe9")
    with pytest.raises(InputError, match="not UTF-8"):
        import_constitution(path)
