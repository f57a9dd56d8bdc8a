import json
from pathlib import Path

import pytest

from cai.records.export import chat_rows, preference_rows, turns, write_rows
from cai.records.schema import Draft, Dropped, Prompt, PromptKind, Revision
from cai.types import Message
from tests.records.samples import PROVENANCE, asked, preference


def prompt(name: str, kind: PromptKind) -> Prompt:
    return Prompt.of(asked(name), kind=kind, category="c")


RED, HELPFUL, BENIGN = prompt("red", "red_team"), prompt("helpful", "helpful"), prompt("benign", "benign")


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


DRAFTS = [
    draft(RED, "harm"),
    draft(HELPFUL, "h1"),
    draft(HELPFUL, "h2", 1),
    draft(BENIGN, "b"),
    draft(prompt("x", "helpful"), "x"),
]
REVISIONS = [
    revision(RED, "second", 2),
    revision(RED, "first", 1),
    Dropped(key="k", stage="revision", prompt=RED.id, reason="empty"),
]


def answers(rows: list[dict[str, object]]) -> list[str]:
    return [row["messages"][-1]["content"] for row in rows]  # type: ignore[index]


def test_a_dialogue_becomes_messages_in_trls_form() -> None:
    assert turns((Message("system", "Be brief"), Message("user", "Hi"))) == [
        {"role": "system", "content": "Be brief"},
        {"role": "user", "content": "Hi"},
    ]


def test_red_team_prompts_give_the_revisions_of_all_rounds_and_helpful_ones_their_drafts() -> None:
    rows = chat_rows([HELPFUL, BENIGN, RED], DRAFTS, REVISIONS, keep="all")
    assert sorted(answers(rows)[:2]) == ["h1", "h2"]
    assert answers(rows)[2:] == ["first", "second"]
    assert [row["kind"] for row in rows] == ["helpful", "helpful", "red_team", "red_team"]
    assert rows[2] == {
        "messages": [{"role": "user", "content": "red"}, {"role": "assistant", "content": "first"}],
        "kind": "red_team",
        "category": "c",
        "constitution": PROVENANCE.constitution or "",
        "record": REVISIONS[1].id,
    }


def test_the_last_round_alone_can_be_kept() -> None:
    rows = chat_rows([RED, HELPFUL], DRAFTS, REVISIONS, keep="last")
    assert answers(rows)[0] == "second"
    assert sorted(answers(rows)[1:]) == ["h1", "h2"], "all samples of a helpful prompt are of its last round"


@pytest.mark.parametrize("keep", ["all", "last"])
def test_a_red_team_draft_is_never_trained_on(keep: str) -> None:
    assert keep in ("all", "last")
    assert chat_rows([RED], DRAFTS, [], keep="all" if keep == "all" else "last") == []


def test_rows_do_not_depend_on_the_order_in_which_records_came() -> None:
    rows = chat_rows([RED, HELPFUL], DRAFTS, REVISIONS, keep="all")
    assert chat_rows([RED, HELPFUL], DRAFTS[::-1], REVISIONS[::-1], keep="all") == rows


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
