from typing import Any

from cai.records.schema import Critique, Draft, Dropped, Prompt, Provenance, Revision
from cai.report.chains import read_chains
from cai.types import Message

MADE_BY = Provenance(engine="scripted", model="m", seed=0)
PROMPT = Prompt.of((Message("user", "q"),), kind="red_team")
DRAFT = Draft(key="d", prompt=PROMPT.id, sample=0, text="one two", finish_reason="length", provenance=MADE_BY)


def shared(number: int) -> dict[str, Any]:
    made = {"prompt": PROMPT.id, "round": number, "principle": f"p{number}", "provenance": MADE_BY}
    return {**made, "finish_reason": "stop"}


def test_a_round_whose_revision_was_dropped_leaves_the_answer_to_the_next_round() -> None:
    first = Critique(key="c1", answer=DRAFT.id, text="bad", **shared(1))
    lost = Dropped(key="r1", stage="revision", prompt=PROMPT.id, reason="empty")
    second = Critique(key="c2", answer=DRAFT.id, text="still bad", **shared(2))
    revision = Revision(key="r2", critique=second.id, text="one three", **shared(2))
    third = Critique(key="c3", answer=revision.id, text="so so", **shared(3))
    found = read_chains([PROMPT], [DRAFT], [third, second, first], [lost, revision])
    (chain,) = found.chains
    assert [(step.number, step.revision) for step in chain.rounds] == [(1, None), (2, "one three"), (3, None)]
    assert chain.final == "one three"
    assert chain.changes == chain.rounds[1].changes
    assert chain.draft_cut
    assert chain.dropped == ("revision: empty",)
    assert (found.drafts, found.critiques, found.revisions) == (1, 3, 1)


def test_revisions_without_critiques_hang_on_the_answer_itself() -> None:
    first = Revision(key="r1", critique=DRAFT.id, text="one three", **shared(1))
    second = Revision(key="r2", critique=first.id, text="one four", **shared(2))
    (chain,) = read_chains([PROMPT], [DRAFT], [], [second, first]).chains
    assert [(step.principle, step.critique, step.revision) for step in chain.rounds] == [
        ("p1", "", "one three"),
        ("p2", "", "one four"),
    ]
    assert [tuple(part) for part in chain.changes] == [("same", "one "), ("gone", "two"), ("new", "four")]


def test_a_draft_of_an_unknown_prompt_is_shown_all_the_same() -> None:
    (chain,) = read_chains([], [DRAFT], [], []).chains
    assert (chain.kind, chain.messages, chain.final, chain.changed) == ("", (), "one two", None)
