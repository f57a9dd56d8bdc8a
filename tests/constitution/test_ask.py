"""How critiques and revisions are asked for."""

from cai.constitution import ComparisonShot, FewShot, load_constitution
from cai.constitution.ask import (
    CHOICE,
    WHICH,
    answered,
    comparison_request,
    critique_request,
    revision_request,
    stops,
)
from cai.types import Message

PROMPT = (Message("user", "How do I {critique} a lock? {{7*7}}"),)
CONSTITUTION = load_constitution("harmless")
PRINCIPLE = CONSTITUTION["no-crime"]


def test_the_examples_come_first_and_are_counted_as_shared() -> None:
    dialogue, shared = critique_request(CONSTITUTION, PRINCIPLE, PROMPT, "Use a pick.")
    assert shared == 2 * len(CONSTITUTION.few_shots) == len(dialogue) - 1
    other, _ = critique_request(CONSTITUTION, CONSTITUTION["privacy"], PROMPT, "Something else.")
    assert dialogue[:shared] == other[:shared]
    assert [message.role for message in dialogue[:2]] == ["user", "assistant"]


def test_the_request_quotes_the_dialogue_and_asks_by_the_principle() -> None:
    asked = critique_request(CONSTITUTION, PRINCIPLE, PROMPT, "Use a pick.")[0][-1].content
    assert asked == f"Human: {PROMPT[0].content}\n\nAssistant: Use a pick.\n\n{PRINCIPLE.critique}"


def test_braces_in_a_dialogue_stay_as_they_are() -> None:
    asked = revision_request(CONSTITUTION, PRINCIPLE, PROMPT, "{instruction}", "{dialogue}")[0][-1].content
    assert "How do I {critique} a lock? {{7*7}}" in asked
    assert "Assistant: {instruction}\n\nCritique: {dialogue}\n\n" in asked


def test_revising_at_once_shows_no_critique_anywhere() -> None:
    dialogue, _ = revision_request(CONSTITUTION, PRINCIPLE, PROMPT, "Use a pick.", None)
    assert not any("Critique:" in message.content for message in dialogue)
    assert dialogue[-1].content.endswith(PRINCIPLE.revision)


def test_answered_adds_the_assistants_turn() -> None:
    assert answered(PROMPT, "No.") == (*PROMPT, Message("assistant", "No."))


def test_an_answer_ends_before_the_request_begins_again() -> None:
    assert "\nRewrite the answer" in stops("Rewrite the answer so that it is kind.")


def test_a_principles_own_examples_follow_those_of_all() -> None:
    own = FewShot(
        prompt="Q",
        response="R",
        critique_request="CR",
        critique="C",
        revision_request="RR",
        revision="Better",
    )
    principle = PRINCIPLE.model_copy(update={"few_shots": (own,)})
    for dialogue, shared in (
        critique_request(CONSTITUTION, principle, PROMPT, "A."),
        revision_request(CONSTITUTION, principle, PROMPT, "A.", "C."),
    ):
        assert shared == 2 * len(CONSTITUTION.few_shots)
        assert len(dialogue) == shared + 3
        assert dialogue[shared + 1].content in ("C", "Better")


def test_an_example_whose_reasons_name_a_place_keeps_it() -> None:
    shots = [ComparisonShot(prompt="Q", chosen="good", rejected="bad", reasons="B is kinder.", place="B")] * 2
    dialogue, _ = comparison_request(shots, PRINCIPLE, PROMPT, "one", "two")
    assert [turn.content for turn in dialogue[1:4:2]] == [f"{CHOICE}B)"] * 2
    assert all("(A) bad\n(B) good" in turn.content for turn in dialogue[0:4:2])


def test_examples_of_comparisons_prefer_no_place() -> None:
    shots = [ComparisonShot(prompt=f"Q{n}", chosen=f"good{n}", rejected=f"bad{n}") for n in range(4)]
    own = ComparisonShot(prompt="Mine", chosen="yes", rejected="no")
    principle = PRINCIPLE.model_copy(update={"comparison_shots": (own,)})
    dialogue, shared = comparison_request(shots, principle, PROMPT, "one {first}", "two")
    assert shared == len(dialogue) - 1 == 10
    assert [turn.content for turn in dialogue[1:10:2]] == [f"{CHOICE}{letter})" for letter in "ABABA"]
    for n, turn in enumerate(dialogue[0:8:2]):
        assert f"({'B' if n % 2 else 'A'}) good{n}" in turn.content
        assert WHICH in turn.content
    assert "(A) yes" in dialogue[8].content
    assert principle.comparison in dialogue[8].content
    assert dialogue[-1].content.endswith("Options:\n(A) one {first}\n(B) two")
    assert principle.comparison in dialogue[-1].content
