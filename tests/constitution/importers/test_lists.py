import pytest

from cai.constitution.importers.base import File, Found
from cai.constitution.importers.lists import list_items, read_list


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Be kind.\nBe calm.\n", ["Be kind.", "Be calm."]),
        ("Be kind\nBe calm\n", ["Be kind", "Be calm"]),
        ("1. Be kind.\n2) Be calm.\n(3) Be brief.\n4: Be fair.\n", ["Be kind.", "Be calm.", "Be brief.", "Be fair."]),
        ("- Be kind.\n* Be calm.\n• Be brief.\n+ Be fair.\n", ["Be kind.", "Be calm.", "Be brief.", "Be fair."]),
        ("(a) Be kind.\n(b) Be calm.\n", ["Be kind.", "Be calm."]),
        ("1. Be kind to\n   everyone.\n2. Be calm\nat any time.\n", ["Be kind to everyone.", "Be calm at any time."]),
        ("- Be kind.\n\n- Be calm.\n", ["Be kind.", "Be calm."]),
        ("- Be kind.\n\n  Even to yourself.\n- Be calm.\n", ["Be kind.\n\nEven to yourself.", "Be calm."]),
        (
            "  - Be brief:\n      - in words\n        and deeds\n  - Be calm.",
            ["Be brief:\n- in words and deeds", "Be calm."],
        ),
        ("Our rules:\n\n- Be kind.\n", ["Our rules:", "Be kind."]),
        ("Our rules\nare these:\n- Be kind.\n", ["Our rules are these:", "Be kind."]),
        ("- Be kind.\n\nThat is all.\n", ["Be kind.", "That is all."]),
        ("Be kind to everyone who\nasks.\nBe calm.\n", ["Be kind to everyone who asks.", "Be calm."]),
        ("Be kind.\nand more\n", ["Be kind.", "and more"]),
        ("Be kind\n  to all\nBe calm\n", ["Be kind to all", "Be calm"]),
        ("# ours\n1. Be kind.\n# theirs\n2. Be calm.\n", ["Be kind.", "Be calm."]),
        ("-\tBe kind.\n-\tBe calm.", ["Be kind.", "Be calm."]),
        ("-5 is a number\n3.5 too\n", ["-5 is a number", "3.5 too"]),
        ("#1 is kindness.\nA) Be calm.", ["#1 is kindness.", "Be calm."]),
        ("", []),
        ("\n# nothing\n\n", []),
    ],
)
def test_items_of_lists(text: str, said: list[str]) -> None:
    assert [item.text for item in list_items(text)] == said


def test_items_know_where_they_begin_and_whether_they_have_a_mark() -> None:
    items = list(list_items("# ours\nRules:\n\n  - Be kind\n    to all.\n  - Be calm.\n"))
    assert [(item.line, item.col, item.marked) for item in items] == [(2, 1, False), (4, 3, True), (6, 3, True)]


def test_a_list_with_marks_may_have_an_introduction() -> None:
    found = Found()
    read_list(File("a.txt", "Our rules:\n1. Be kind:\n   - always\n2.\n"), found)
    assert found.notes == ["Our rules:"]
    assert [item["text"] for item in found.principles] == ["Be kind:\n- always"]
    found = Found()
    read_list(File("a.txt", "Be kind:\nBe calm.\n"), found)
    assert [item["text"] for item in found.principles] == ["Be kind:", "Be calm."]
