"""Pairs with a known better answer, in the forms that people publish them."""

import json
from pathlib import Path
from typing import Any

import pytest

from cai.errors import InputError
from cai.records.pairs import load_labelled, pair_of
from cai.types import Message

HELLO = "\n\nHuman: Hi\n\nAssistant: "
ASKED = (Message("user", "Hi"),)


def write(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "row",
    [
        {"chosen": f"{HELLO}Hello!", "rejected": f"{HELLO}What?"},
        {"prompt": "Hi", "chosen": "Hello!", "rejected": "What?", "subset": "chat"},
        {
            "prompt": [{"role": "user", "content": "Hi"}],
            "chosen": [{"role": "assistant", "content": "Hello!"}],
            "rejected": [{"role": "assistant", "content": "What?"}],
        },
        {"prompt": "Hi", "chosen": "What?", "rejected": "Hello!", "chosen_prob": 0.25},
        {
            "prompt": "Choose. (A) [[[What?]]] (B) [[[Hello!]]]",
            "corrects": [" (B)"],
            "incorrects": [" (A)"],
            "text_correct": f"{HELLO}Hello!",
            "text_incorrect": f"{HELLO}What?",
        },
    ],
    ids=["hh", "rewardbench", "messages", "soft", "paper"],
)
def test_every_form_gives_the_same_pair(row: dict[str, Any], tmp_path: Path) -> None:
    [pair], dropped = load_labelled([write(tmp_path, row)])
    assert (pair.prompt, pair.chosen, pair.rejected) == (ASKED, "Hello!", "What?")
    assert pair.source == row.get("subset", "pairs.jsonl")
    assert not dropped


def test_what_can_not_be_used_is_counted_by_reason(tmp_path: Path) -> None:
    good = {"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"}
    path = write(
        tmp_path,
        good,
        good,
        {**good, "chosen": "What? "},
        {**good, "chosen": " "},
        {**good, "chosen_prob": 0.5},
        {"chosen": HELLO, "rejected": f"{HELLO}What?"},
        {"chosen": f"{HELLO}Hello you!", "rejected": HELLO},
    )
    pairs, dropped = load_labelled([path])
    assert len(pairs) == 1
    assert dropped == {"repeated": 1, "both answers are equal": 1, "an empty answer": 3, "a tie": 1}


def test_rows_that_are_no_pairs_are_named(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        {"prompt": "Hi"},
        {"chosen": f"{HELLO}a", "rejected": "\n\nHuman: Bye\n\nAssistant: b"},
        {"prompt": "Hi", "chosen": "a", "rejected": "b", "chosen_prob": 2},
        {"prompt": "Hi", "chosen": 3, "rejected": "b"},
    )
    with pytest.raises(InputError) as caught:
        load_labelled([path])
    assert [problem.line for problem in caught.value.problems] == [1, 2, 3, 4]
    assert "do not share all but" in caught.value.problems[1].problem


def test_no_pairs_at_all(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no pairs"):
        load_labelled([write(tmp_path, {"prompt": "Hi", "chosen": "a", "rejected": "a"})])


def test_a_pair_is_itself_whatever_its_file(tmp_path: Path) -> None:
    row = {"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"}
    one = load_labelled([write(tmp_path, row)])[0][0]
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps({**row, "more": 1}) + "\n")
    assert load_labelled([other])[0][0].id == one.id


def test_pair_of_gives_the_probability() -> None:
    assert pair_of({"prompt": "Hi", "chosen": "a", "rejected": "b", "chosen_prob": 0.7})[3] == 0.7


HH = Path(__file__).parents[3] / "shared" / "data" / "paper_evals" / "438HHHEvaluations.jsonl"


@pytest.mark.skipif(not HH.is_file(), reason="the public evaluation data is not beside the checkout")
def test_the_papers_comparisons_load() -> None:
    pairs, dropped = load_labelled([HH])
    assert len(pairs) == 143
    assert not dropped
