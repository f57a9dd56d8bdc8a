from pathlib import Path

import pytest

from cai.constitution.importers.base import File, Found, load_file
from cai.errors import InputError
from tests.constitution.importers.samples import write


def test_a_string_of_the_json_is_found_however_it_is_escaped() -> None:
    file = File("a.json", '{"a": "x",\n "caf\\u00e9": 1, "é": 2}')
    assert file.place("x") == (1, 7)
    assert file.place("café") == (2, 2)
    assert file.place("é") == (2, 18)
    assert file.place("not there") == (1, 1)


def test_ids_are_made_of_the_words_that_tell_principles_apart() -> None:
    found = Found()
    file = File("rules.txt", "")
    for text in ("Please rewrite the response so that it is kind.", "Be kind.", "Kind.", "kind-2", "Kind!", "憲法"):
        found.add(file, (1, 1), {"text": text})
    assert [item["id"] for item in found.principles] == ["kind", "be-kind", "kind-2", "kind-2-2", "kind-3", "principle"]
    assert [item["title"] for item in found.principles][:2] == ["Kind", "Be kind"]
    assert found.principles[0]["source"] == "rules.txt"


def test_many_principles_of_one_wording_are_taken_quickly() -> None:
    found = Found()
    for _ in range(3000):
        found.add(File("rules.txt", ""), (1, 1), {"text": "Be kind."})
    assert found.principles[-1]["id"] == "be-kind-3000"


def test_a_principle_that_says_which_response_to_choose_is_a_comparison_as_it_stands() -> None:
    found = Found()
    for text in ("Select the response that is kind.", "Choose your words."):
        found.add(File("rules.txt", ""), (1, 1), {"text": text})
    assert [item.get("comparison") for item in found.principles] == ["Select the response that is kind.", None]


@pytest.mark.parametrize(
    ("as_json", "content", "data"),
    [(None, "[1]", [1]), (False, "[1]", None), (None, "Be kind", None), (True, '"x"', "x")],
)
def test_json_is_read_where_it_is_meant(tmp_path: Path, as_json: bool | None, content: str, data: object) -> None:
    assert load_file(write(tmp_path, "a", content), as_json=as_json).data == data


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", r"a:1:1: the file is empty"),
        ('["x",\n  oops]', r"a:2:3: bad JSON"),
        ('{"a": "b", "a": "c"}', r"a:1:1: .*'a' is there twice"),
        ("[NaN]", r"a:1:1: bad JSON: NaN"),
        ("[" * 200_000, r"a:1:1: bad JSON: nested too deep"),
        ('["\x00"]', r"a:1:3: the character U\+0000"),
    ],
)
def test_what_can_not_be_read_is_named_by_its_place(tmp_path: Path, content: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        load_file(write(tmp_path, "a", content), as_json=True)
