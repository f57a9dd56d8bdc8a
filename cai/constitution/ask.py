"""How a model is asked to criticise and to revise: few-shot examples as earlier turns, then the dialogue, quoted.

The examples come first and are the same for every request of a kind, so an engine computes them once (`shared`). The
dialogue is quoted in one turn of a person rather than continued: a small model asked to criticise "your last answer"
continues that answer instead.
"""

from pathlib import Path

from cai.constitution.model import Constitution, Principle
from cai.constitution.render import fill, transcript
from cai.types import Dialogue, Message

_TEMPLATES = Path(__file__).parent / "templates"
CRITIQUE = (_TEMPLATES / "critique.txt").read_text(encoding="utf-8").strip()
REVISION = (_TEMPLATES / "revision.txt").read_text(encoding="utf-8").strip()
REVISE_AT_ONCE = (_TEMPLATES / "revise_at_once.txt").read_text(encoding="utf-8").strip()


def answered(prompt: Dialogue, answer: str) -> Dialogue:
    """Return the dialogue with the assistant's answer as its last turn."""
    return (*prompt, Message("assistant", answer))


def critique_request(
    constitution: Constitution, principle: Principle, prompt: Dialogue, answer: str
) -> tuple[Dialogue, int]:
    """Return the dialogue that asks for a critique of an answer, and how many of its messages all such begin with."""
    turns: list[Message] = []
    for example in constitution.few_shots:
        shown = answered((Message("user", example.prompt),), example.response)
        turns.append(Message("user", fill(CRITIQUE, dialogue=transcript(shown), instruction=example.critique_request)))
        turns.append(Message("assistant", example.critique))
    quoted = fill(CRITIQUE, dialogue=transcript(answered(prompt, answer)), instruction=principle.critique)
    return (*turns, Message("user", quoted)), len(turns)


def revision_request(
    constitution: Constitution, principle: Principle, prompt: Dialogue, answer: str, critique: str | None
) -> tuple[Dialogue, int]:
    """Return the dialogue that asks for a revision; without a critique, the variant that revises at once."""
    turns: list[Message] = []
    for example in constitution.few_shots:
        shown = answered((Message("user", example.prompt),), example.response)
        noted = None if critique is None else example.critique
        turns.append(Message("user", _revision_turn(shown, example.revision_request, noted)))
        turns.append(Message("assistant", example.revision))
    asked = _revision_turn(answered(prompt, answer), principle.revision, critique)
    return (*turns, Message("user", asked)), len(turns)


def _revision_turn(dialogue: Dialogue, instruction: str, critique: str | None) -> str:
    if critique is None:
        return fill(REVISE_AT_ONCE, dialogue=transcript(dialogue), instruction=instruction)
    return fill(REVISION, dialogue=transcript(dialogue), critique=critique, instruction=instruction)


def stops(instruction: str) -> tuple[str, ...]:
    """Return the strings that an answer ends before: the next speaker, and the beginning of the request itself."""
    return ("\nHuman:", "\nAssistant:", "\nCritique:", "\n" + " ".join(instruction.split()[:3]))
