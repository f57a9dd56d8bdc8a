import json
from pathlib import Path

import pytest

from cai.records.export import chat_row, preference_rows, trained_on, turns, write_rows
from cai.records.schema import Draft, Dropped, Prompt, PromptKind, Revision
from cai.types import Message
from tests.records.samples import PROVENANCE, asked, preference


def prompt(name: str, kind: PromptKind) -> Prompt:
    return Prompt.of(asked(name), kind=kind, category="c")


RED = prompt("red", "red_team")


def draft(of: Prompt, text: str, sample: int = 0) -> Draft:
    return Draft(key=f"d{text}", prompt=of.id, sample=sample, text=text, finish_reason="stop", provenance=PROVENANCE)


def revision(of: Prompt, text: str, number: int) -> Revision:
    return Revision(
        key=f"r{text}",
        prompt=of.id,
        critique="c",
        round=number,
        principle="calm",
        text=text,
        finish_reason="stop",
        provenance=PROVENANCE,
    )


def test_a_dialogue_becomes_messages_in_trls_form() -> None:
    assert turns((Message("system", "Be brief"), Message("user", "Hi"))) == [
        {"role": "system", "content": "Be brief"},
        {"role": "user", "content": "Hi"},
    ]


def test_red_team_prompts_give_their_revisions_and_helpful_ones_their_drafts() -> None:
    kinds: tuple[PromptKind, ...] = ("red_team", "helpful", "benign")
    assert [trained_on(draft(RED, "x"), kind) for kind in kinds] == [False, True, False]
    assert [trained_on(revision(RED, "x", 1), kind) for kind in kinds] == [True, True, True]
    assert not trained_on(revision(RED, "x", 1), None), "its prompt is not in the set"
    assert not trained_on(Dropped(key="k", stage="revision", prompt=RED.id, reason="empty"), "helpful")


def test_a_row_says_what_it_is_made_of() -> None:
    answer = revision(RED, "first", 1)
    assert chat_row(RED, answer) == {
        "messages": [{"role": "user", "content": "red"}, {"role": "assistant", "content": "first"}],
        "kind": "red_team",
        "category": "c",
        "constitution": PROVENANCE.constitution or "",
        "record": answer.id,
    }


@pytest.mark.parametrize(
    ("prob_a", "chosen", "rejected", "chosen_prob"),
    [
        (0.75, "Like so", "I won't say", 0.75),
        (0.25, "I won't say", "Like so", 0.75),
        (1.0, "Like so", "I won't say", 1.0),
        (0.0, "I won't say", "Like so", 1.0),
    ],
)
def test_the_likelier_answer_is_chosen_with_its_probability(
    prob_a: float, chosen: str, rejected: str, chosen_prob: float
) -> None:
    (row,) = preference_rows([preference(prob_a)])
    assert row["prompt"] == [{"role": "user", "content": "How do I pick a lock?"}]
    assert row["chosen"] == [{"role": "assistant", "content": chosen}]
    assert row["rejected"] == [{"role": "assistant", "content": rejected}]
    assert row["chosen_prob"] == chosen_prob
    assert (row["kind"], row["category"], row["record"]) == ("red_team", "crime", preference(prob_a).id)


def test_a_tie_chooses_nothing() -> None:
    rows = preference_rows([preference(0.5), preference(0.5 + 1e-9), preference(0.5 - 1e-9)])
    assert [row["chosen_prob"] > 0.5 for row in rows] == [True, True]


def test_rows_are_lines_of_json(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.jsonl", [{"a": "é\n\u2028"}, {"b": [1]}])
    content = (tmp_path / "a.jsonl").read_bytes()
    assert content.count(b"\n") == 2
    assert [json.loads(line) for line in content.split(b"\n")[:-1]] == [{"a": "é\n\u2028"}, {"b": [1]}]


def test_a_row_that_no_reader_would_take_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_rows(tmp_path / "a.jsonl", [{"chosen_prob": float("nan")}])
    assert list(tmp_path.iterdir()) == []
