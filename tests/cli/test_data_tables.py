import io

from rich.console import Console

from cai.cli.data_tables import show_rows
from cai.train.checks import Item
from cai.train.inspection import describe
from tests.train.test_inspection import item


def shown(*items: Item, max_length: int = 100) -> str:
    console = Console(width=100, record=True, file=io.StringIO())
    show_rows(describe(items, max_length), console)
    return console.export_text()


def test_pairs_are_shown_with_their_labels_and_cuts() -> None:
    text = shown(item(1, 10, 5, 3, target=0.75), item(2, 4, 2, 9, target=0.75), item(3, 1, 20, 1), max_length=14)
    lines = text.splitlines()
    assert lines[0] == "3 pairs of 3 prompts"
    assert [line.split() for line in lines if "together" in line] == [
        ["together", "13", "13", "15", "21", "21", "21", "21"]
    ]
    assert f"  0.7-0.8 {'█' * 40} 2" in lines
    assert f"  0.9-1.0 {'█' * 20} 1" in lines
    assert "At max_length=14: 1 rows dropped, 1 prompts cut (1 tokens)." in lines
    assert "warning prompt-cut: 1 rows" in text
    assert "f:1" in text


def test_good_chats_have_nothing_wrong_and_no_labels() -> None:
    text = shown(item(1, 10, 5))
    assert "Nothing wrong was found." in text
    assert "chosen_prob" not in text
