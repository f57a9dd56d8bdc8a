"""How a model is asked to criticise, to revise and to compare: examples as earlier turns, then the dialogue, quoted.

The examples come first and are the same for every request of a kind, so an engine computes them once (`shared`). The
dialogue is quoted in one turn of a person rather than continued: a small model asked to criticise "your last answer"
continues that answer instead.
"""

from collections.abc import Sequence
from pathlib import Path

from cai.constitution.model import ComparisonShot, Constitution, Principle
from cai.constitution.render import fill, transcript
from cai.types import Dialogue, Message

_TEMPLATES = Path(__file__).parent / "templates"
CRITIQUE = (_TEMPLATES / "critique.txt").read_text(encoding="utf-8").strip()
REVISION = (_TEMPLATES / "revision.txt").read_text(encoding="utf-8").strip()
REVISE_AT_ONCE = (_TEMPLATES / "revise_at_once.txt").read_text(encoding="utf-8").strip()
COMPARISON = (_TEMPLATES / "comparison.txt").read_text(encoding="utf-8").strip()
WHICH = "Which of these answers is better?"
"""What is asked of examples that belong to no principle."""
CHOICE = "The answer is: ("
"""What the answer to a comparison begins with; ``A`` or ``B`` follows."""


def answered(prompt: Dialogue, answer: str) -> Dialogue:
    """Return the dialogue with the assistant's answer as its last turn."""
    return (*prompt, Message("assistant", answer))


def critique_request(
    constitution: Constitution, principle: Principle, prompt: Dialogue, answer: str
) -> tuple[Dialogue, int]:
    """Return the dialogue that asks for a critique of an answer, and how many of its messages all such begin with.

    The principle's own examples come after those of the constitution, which all principles share.
    """
    turns: list[Message] = []
    for example in (*constitution.few_shots, *principle.few_shots):
        shown = answered((Message("user", example.prompt),), example.response)
        turns.append(Message("user", fill(CRITIQUE, dialogue=transcript(shown), instruction=example.critique_request)))
        turns.append(Message("assistant", example.critique))
    quoted = fill(CRITIQUE, dialogue=transcript(answered(prompt, answer)), instruction=principle.critique)
    return (*turns, Message("user", quoted)), 2 * len(constitution.few_shots)


def revision_request(
    constitution: Constitution, principle: Principle, prompt: Dialogue, answer: str, critique: str | None
) -> tuple[Dialogue, int]:
    """Return the dialogue that asks for a revision; without a critique, the variant that revises at once."""
    turns: list[Message] = []
    for example in (*constitution.few_shots, *principle.few_shots):
        shown = answered((Message("user", example.prompt),), example.response)
        noted = None if critique is None else example.critique
        turns.append(Message("user", _revision_turn(shown, example.revision_request, noted)))
        turns.append(Message("assistant", example.revision))
    asked = _revision_turn(answered(prompt, answer), principle.revision, critique)
    return (*turns, Message("user", asked)), 2 * len(constitution.few_shots)


def comparison_request(
    shots: Sequence[ComparisonShot], principle: Principle, prompt: Dialogue, first: str, second: str
) -> tuple[Dialogue, int]:
    """Return the dialogue that asks which of two answers is better, and how many of its messages are examples.

    They are the constitution's and then the principle's own: what all questions under this principle begin with. It
    ends where the answer begins: `CHOICE`, and then the letter. The better answer of an example stands first and second
    by turns, so that the examples teach no place, unless the example says where.
    """
    asked = [(shot, WHICH) for shot in shots] + [(shot, principle.comparison) for shot in principle.comparison_shots]
    turns: list[Message] = []
    for index, (shot, question) in enumerate(asked):
        letter = shot.place or "AB"[index % 2]
        options = (shot.chosen, shot.rejected) if letter == "A" else (shot.rejected, shot.chosen)
        turns.append(Message("user", _comparison_turn((Message("user", shot.prompt),), question, *options)))
        turns.append(Message("assistant", f"{CHOICE}{letter})"))
    question = _comparison_turn(prompt, principle.comparison, first, second)
    return (*turns, Message("user", question)), len(turns)


def _comparison_turn(dialogue: Dialogue, question: str, first: str, second: str) -> str:
    return fill(COMPARISON, dialogue=transcript(dialogue), question=question, first=first, second=second)


def _revision_turn(dialogue: Dialogue, instruction: str, critique: str | None) -> str:
    if critique is None:
        return fill(REVISE_AT_ONCE, dialogue=transcript(dialogue), instruction=instruction)
    return fill(REVISION, dialogue=transcript(dialogue), critique=critique, instruction=instruction)


def stops(instruction: str) -> tuple[str, ...]:
    """Return the strings that an answer ends before: the next speaker, and the beginning of the request itself."""
    return ("\nHuman:", "\nAssistant:", "\nCritique:", "\n" + " ".join(instruction.split()[:3]))
