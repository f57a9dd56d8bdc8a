"""How critiques and revisions are asked for."""

from cai.constitution import load_constitution
from cai.constitution.ask import answered, critique_request, revision_request, stops
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
