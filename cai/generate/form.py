"""How each step is asked: as dialogues for chat models, as one transcript for base models.

A base model follows no request; it goes on with a text. So it gets the transcript that a chat model's requests are made
of (the form of Bai et al. 2022, appendix A): the dialogue, what a critic was asked, what the critic said, and so on,
with the constitution's examples before it, up to where its own part begins. What would begin the next part stops it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from cai.constitution import Constitution, FewShot, Principle
from cai.constitution.ask import answered, critique_request, revision_request, stops
from cai.constitution.render import transcript
from cai.engines.base import Engine
from cai.types import Dialogue, Message

FormName = Literal["auto", "chat", "transcript"]

PREFACE = "A person talks with an assistant. The answers of the assistant are criticised and then revised."
"""What a transcript begins with: it says what kind of text this is."""

BETWEEN = "\n\n-----\n\n"
"""What stands between two transcripts."""

STOPS = (
    *("\nHuman:", "\nAssistant:", "\nSystem:", "\n-----"),
    *("\nCritique request:", "\nCritique:", "\nRevision request:", "\nRevision:"),
)
"""What a part of a transcript ends before."""


@dataclass(frozen=True)
class Asked:
    """What an engine is given."""

    prompt: Dialogue | str
    shared: int = 0
    """How much of it other requests begin with too: messages, or characters."""
    stop: tuple[str, ...] = ()
    """What the answer ends before."""


class Form(Protocol):
    """Makes the requests of the three steps."""

    @property
    def name(self) -> Literal["chat", "transcript"]:
        """Which form this is."""
        ...

    def draft(self, dialogue: Dialogue) -> Asked:
        """Ask for an answer."""
        ...

    def critique(self, principle: Principle, dialogue: Dialogue, answer: str) -> Asked:
        """Ask what is wrong with an answer."""
        ...

    def revision(self, principle: Principle, dialogue: Dialogue, answer: str, critique: str | None) -> Asked:
        """Ask for a better answer; without a critique, at once."""
        ...


def form_of(name: FormName, constitution: Constitution, engine: Engine) -> Form:
    """Return the form of this name; ``auto`` is a transcript where the engine's tokenizer has no chat template."""
    base = name == "transcript" or (name == "auto" and is_base(engine))
    return TranscriptForm(constitution) if base else ChatForm(constitution)


def is_base(engine: Engine) -> bool:
    """Tell whether an engine's tokenizer has no chat template; one that shows no tokenizer is taken to have one."""
    tokenizer = getattr(getattr(engine, "renderer", None), "tokenizer", None)
    return tokenizer is not None and not tokenizer.chat_template


class ChatForm:
    """Dialogues that quote the dialogue in question: `cai.constitution.ask`."""

    name: Literal["chat", "transcript"] = "chat"

    def __init__(self, constitution: Constitution) -> None:
        """Ask with this constitution's examples."""
        self._constitution = constitution

    def draft(self, dialogue: Dialogue) -> Asked:
        """Ask the dialogue itself."""
        return Asked(dialogue)

    def critique(self, principle: Principle, dialogue: Dialogue, answer: str) -> Asked:
        """Quote dialogue and answer, and ask for a critique."""
        prompt, shared = critique_request(self._constitution, principle, dialogue, answer)
        return Asked(prompt, shared, stops(principle.critique))

    def revision(self, principle: Principle, dialogue: Dialogue, answer: str, critique: str | None) -> Asked:
        """Quote dialogue, answer and critique, and ask for a revision."""
        prompt, shared = revision_request(self._constitution, principle, dialogue, answer, critique)
        return Asked(prompt, shared, stops(principle.revision))


class TranscriptForm:
    """Texts to go on with."""

    name: Literal["chat", "transcript"] = "transcript"

    def __init__(self, constitution: Constitution) -> None:
        """Show this constitution's examples."""
        self._constitution = constitution

    def draft(self, dialogue: Dialogue) -> Asked:
        """Go on with the dialogue: no examples, for those of a constitution show bad answers first."""
        head = f"{PREFACE}{BETWEEN}"
        return Asked(f"{head}{transcript(dialogue)}\n\nAssistant:", len(head), STOPS)

    def critique(self, principle: Principle, dialogue: Dialogue, answer: str) -> Asked:
        """Go on where the critic speaks."""
        shared, shown = self._examples(principle, critique=True)
        said = transcript(answered(dialogue, answer))
        text = f"{shown}{said}\n\nCritique request: {principle.critique}\n\nCritique:"
        return Asked(text, shared, STOPS)

    def revision(self, principle: Principle, dialogue: Dialogue, answer: str, critique: str | None) -> Asked:
        """Go on where the revision begins."""
        shared, shown = self._examples(principle, critique=critique is not None)
        said = transcript(answered(dialogue, answer))
        noted = "" if critique is None else f"\n\nCritique request: {principle.critique}\n\nCritique: {critique}"
        text = f"{shown}{said}{noted}\n\nRevision request: {principle.revision}\n\nRevision:"
        return Asked(text, shared, STOPS)

    def _examples(self, principle: Principle, *, critique: bool) -> tuple[int, str]:
        """Return how many characters all requests begin with, and the whole that comes before the dialogue."""
        common = _shown(self._constitution.few_shots, critique=critique)
        head = f"{PREFACE}{BETWEEN}{common}"
        return len(head), head + _shown(principle.few_shots, critique=critique)


def _shown(examples: Sequence[FewShot], *, critique: bool) -> str:
    parts = []
    for example in examples:
        said = transcript(answered((Message("user", example.prompt),), example.response))
        noted = f"\n\nCritique request: {example.critique_request}\n\nCritique: {example.critique}" if critique else ""
        parts.append(
            f"{said}{noted}\n\nRevision request: {example.revision_request}\n\nRevision: {example.revision}{BETWEEN}"
        )
    return "".join(parts)
