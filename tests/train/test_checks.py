"""Each check with rows that it must name and rows that it must leave in peace."""

from pathlib import Path
from typing import Any

import pytest

from cai.engines.render import Renderer
from cai.errors import InputError
from cai.train.checks import (
    Finding,
    Item,
    check_chats,
    check_pairs,
    findings,
    length_shortcut,
    measure_pairs,
    no_room_for_answer,
    prompt_cut,
    rows_of,
)
from cai.types import Message
from tests.engines import tiny
from tests.train.rig import chat, pair, write


def row(
    prompt: str = "What is a fox?", chosen: str = "It is good.", rejected: str = "A lazy dog it is.", **more: Any
) -> dict[str, Any]:
    return {"prompt": [{"role": "user", "content": prompt}], "chosen": chosen, "rejected": rejected, **more}


def found(
    rows: list[dict[str, Any]], *, max_length: int = 200, held: list[dict[str, Any]] | None = None
) -> dict[str, Finding]:
    named = [(f"rows.jsonl:{number}", each) for number, each in enumerate(rows, start=1)]
    others = [(f"held.jsonl:{number}", each) for number, each in enumerate(held or [], start=1)]
    return {each.id: each for each in check_pairs(named, tiny.shared_tokenizer(), max_length, held_out=others)}


def test_good_rows_are_left_in_peace() -> None:
    assert found([pair(number) for number in range(30)], held=[pair(number) for number in range(30, 40)]) == {}


CASES: dict[str, tuple[list[dict[str, Any]], str]] = {
    "equal-answers": ([row(), row("And a dog?", "Same.", " Same.\n")], "warning"),
    "empty-answer": ([row(), row("And a dog?", rejected=" ")], "warning"),
    "already-rendered": ([row(), row("<|im_start|>user\nAnd a dog?")], "warning"),
    "undecided-labels": ([row(), row("And a dog?", chosen_prob=0.51)], "warning"),
    "inverted-labels": ([row(chosen_prob=0.9), row("1?", chosen_prob=0.2), row("2?", chosen_prob=0.3)], "error"),
    "contradiction": ([row(chosen="One.", rejected="Two."), row(chosen="Two.", rejected="One."), row("3?")], "warning"),
    "repeated": ([row(), row(), row("And a dog?")], "warning"),
}


def test_a_pair_of_two_heads_is_no_contradiction_and_no_repetition() -> None:
    one, other = row(chosen="One.", rejected="Two."), row(chosen="Two.", rejected="One.")
    named = [(f"rows.jsonl:{number}", each) for number, each in enumerate((one, other, one), start=1)]
    renderer = Renderer(tiny.shared_tokenizer())

    def ids(heads: list[int]) -> set[str]:
        items, _ = measure_pairs(named, renderer, head=lambda place, _: heads[int(place[-1]) - 1])
        assert [item.head for item in items] == heads
        return {each.id for each in findings(items, 200)}

    assert ids([0, 0, 0]) == {"contradiction", "repeated"}
    assert ids([0, 1, 2]) == set()


@pytest.mark.parametrize("name", CASES)
def test_each_check_names_its_rows_and_no_other_check_does(name: str) -> None:
    rows, severity = CASES[name]
    given = found(rows)
    assert set(given) == {name}
    assert given[name].severity == severity
    assert given[name].total == len(rows)
    assert given[name].fix
    assert all(place.startswith("rows.jsonl:") for place in given[name].places)


def test_a_label_far_from_the_names_of_its_columns_is_fine_now_and_then() -> None:
    assert found([row(chosen_prob=0.9), row("1?", chosen_prob=0.3), row("2?", chosen_prob=0.8)]) == {}


def test_a_file_where_nothing_can_be_learned_is_an_error() -> None:
    assert found([row("1?", "Same.", "Same.")])["equal-answers"].severity == "error"
    assert found([row("1?", "Yes.", "")])["empty-answer"].severity == "error"


def test_a_leak_is_found_through_case_and_spacing() -> None:
    (finding,) = found(
        [row(), row("WHAT is  a fox?", "Not that."), row("Other?")], held=[row("what is a\nfox?")]
    ).values()
    assert (finding.id, finding.severity, finding.count) == ("leak", "error", 2)
    assert str(finding) == (
        "error leak: 2 of 3 rows: the prompt is held out, too (rows.jsonl:1, rows.jsonl:2); hold out other prompts"
    )
    assert found([row()], held=[row("Another?")]) == {}


def item(prompt: int, *answers: int, target: float = 1.0, name: str = "x") -> Item:
    texts = tuple(f"{name} {number}" for number in range(len(answers)))
    return Item(name, (Message("user", name),), texts, prompt, answers, target)


def test_what_is_cut_and_what_is_dropped_is_exact_to_the_token() -> None:
    assert no_room_for_answer([item(5, 9, 3)], 10) is None
    dropped = no_room_for_answer([item(5, 10, 3), item(5, 3, 3)], 10)
    assert dropped is not None
    assert (dropped.count, dropped.severity) == (1, "warning")
    assert "to 11 for all" in dropped.fix
    assert prompt_cut([item(5, 5, 3)], 10) is None
    cut = prompt_cut([item(6, 5, 3), item(1, 10, 3)], 10)
    assert cut is not None
    assert cut.count == 1  # the other is dropped, not cut
    assert "to 11 for all" in cut.fix


def test_the_cut_that_is_told_is_the_cut_that_is_made(tmp_path: Path) -> None:
    from cai.train.data import load_pairs

    renderer = Renderer(tiny.shared_tokenizer())
    path = write(tmp_path / "rows.jsonl", [pair(number) for number in range(20)])
    items, _ = measure_pairs(rows_of([path]), renderer)
    for max_length in (8, 20, 40, 60):
        told = {each.id: each.count for each in findings(items, max_length)}
        if told.get("no-room-for-answer", 0) == len(items):
            continue
        pairs, dropped = load_pairs([path], renderer, max_length=max_length)
        assert dropped["answer longer than max_length"] == told.get("no-room-for-answer", 0)
        whole = {each.place: each.prompt_tokens for each in items}
        assert sum(len(each.chosen.prompt) < whole[each.chosen.name] for each in pairs) == told.get("prompt-cut", 0)


def test_a_shortcut_by_length_needs_enough_pairs() -> None:
    longer = [item(5, 9, 3, name=str(number)) for number in range(19)]
    assert length_shortcut(longer) is None
    assert length_shortcut([*longer, item(5, 9, 3)]) is not None
    balanced = [item(5, 9, 3, target=number % 2, name=str(number)) for number in range(40)]
    assert length_shortcut(balanced) is None
    shorter = length_shortcut([item(5, 9, 3, target=0.1, name=str(number)) for number in range(20)])
    assert shorter is not None
    assert "shorter answer is the better one in 100 %" in shorter.problem


def test_a_tokenizer_without_a_template_is_told_of() -> None:
    rows = [("rows.jsonl:1", chat(1)), ("rows.jsonl:2", chat(2))]
    (finding,) = check_chats(rows, tiny.tokenizer(template=None), 200)
    assert finding.id == "no-template"
    assert check_chats(rows, tiny.shared_tokenizer(), 200) == []


def test_chats_are_checked_too() -> None:
    empty = {"messages": [{"role": "user", "content": "Well?"}, {"role": "assistant", "content": ""}]}
    given = check_chats([("a:1", chat(1)), ("a:2", chat(1)), ("a:3", empty)], tiny.shared_tokenizer(), 200)
    assert [each.id for each in given] == ["empty-answer", "repeated"]
    assert given[0].to_json()["places"] == ("a:3",)


def test_rows_that_are_none_are_named_all_at_once() -> None:
    with pytest.raises(InputError) as caught:
        check_pairs(
            [("a.jsonl:1", row()), ("a.jsonl:2", {"x": 1}), ("a.jsonl:7", row(chosen_prob=2))],
            tiny.shared_tokenizer(),
            99,
        )
    assert [(problem.path, problem.line) for problem in caught.value.problems] == [("a.jsonl", 2), ("a.jsonl", 7)]
    with pytest.raises(InputError, match=r"a\.jsonl:3:1: no 'messages'"):
        check_chats([("a.jsonl:3", {"x": 1})], tiny.shared_tokenizer(), 99)
