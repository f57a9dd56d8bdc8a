import json
from pathlib import Path
from typing import Any

import pytest

from cai.constitution.importers import import_constitution
from cai.errors import InputError
from tests.constitution.importers.samples import loads_again, write

SELECT = "Select the response that is more concise"

ANNOTATED = {
    "metadata": {"version": "2.0", "description": "Pairs with annotations"},
    "annotators": {
        "a0": {"name": "people", "description": "Who was asked first", "type": "unknown"},
        "b1": {"description": SELECT, "type": "principle"},
        "b2": {"description": "Be kind", "type": "principle"},
    },
    "comparisons": [{"id": "x", "prompt": "Why?", "response_a": {"text": "So."}, "annotations": {"b1": {"pref": "a"}}}],
}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.json", [SELECT, "Be kind"]),
        ("dict.json", {"0": SELECT, "1": "Be kind"}),
        ("clusters.json", {"0": [SELECT, SELECT], "1": ["Be kind"]}),
        ("votes.json", {SELECT: {"for": 3, "against": 1}, "Be kind": {"for": 1, "against": 0}}),
        ("counts.json", {SELECT: 3, "Be kind": 1}),
        ("named.json", {"constitution": [SELECT, "Be kind"]}),
        ("rows.json", [{"id": 7, "principle": SELECT}, {"text": "Be kind"}]),
        ("numbered.json", json.dumps(f"1. {SELECT}\n2. Be kind")),
        ("pairs.json", ANNOTATED),
        ("plain.csv", f"principle,votes\n{SELECT},3\nBe kind,1\n"),
        ("quoted.csv", f'votes,Constitution\r\n1,"1. {SELECT}\n2. Be kind"\r\n2,"1. {SELECT}\n2. Be kind"\r\n'),
        ("python.csv", f"index,principles\n0,\"['{SELECT}']\"\n1,\"['{SELECT}', 'Be kind']\"\n2,\n"),
        ("text.txt", f"1. {SELECT}\n2. Be kind\n"),
    ],
)
def test_every_shape_is_read(tmp_path: Path, name: str, content: Any) -> None:
    constitution = import_constitution(write(tmp_path, name, content))
    assert [item.text for item in constitution.principles] == [SELECT, "Be kind"]
    assert [item.id for item in constitution.principles] == ["more-concise", "be-kind"]
    assert constitution.principles[0].comparison == SELECT
    assert constitution.principles[1].comparison != "Be kind"
    assert constitution.principles[0].source == name
    loads_again(constitution)


def test_a_list_in_a_cell_that_is_not_one_is_a_text(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "text\n\"['a', b']\"\n")
    assert [item.text for item in import_constitution(path).principles] == ["['a', b']"]


def test_a_text_can_be_said_to_be_one(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", "1. Be kind\n")
    assert import_constitution(path, format="inverse").principles[0].text == "Be kind"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", "[3]", r"a\.json:1:1: not a text: 3"),
        ("a.json", "[]", r"a\.json: no principle here"),
        ("a.json", "[" * 40 + "]" * 40, r"a\.json:1:1: nested too deep"),
        ("a.json", json.dumps({**ANNOTATED, "annotators": {}}), r"a\.json: no principle here"),
        ("a.csv", "who,what\n1,2\n", r"a\.csv:1:1: no column of principles"),
        ("a.csv", "who,text\n1,a\n2\n", r"a\.csv:3:1: 1 cells"),
        ("a.csv", 'who,text\n1,"a\nb"\n2\n', r"a\.csv:4:1: 1 cells"),
        ("a.csv", 'text\n"a\n', r"a\.csv:2:1: bad CSV"),
        ("a.csv", f"text\n\n{'x' * 4001}\n", r"a\.csv:3:1: text: .*4000"),
    ],
)
def test_bad_files_are_named_by_their_place(tmp_path: Path, name: str, content: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        import_constitution(write(tmp_path, name, content))
