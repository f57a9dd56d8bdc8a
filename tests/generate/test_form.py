"""Requests for chat models and for base models."""

from cai.constitution import load_constitution
from cai.engines.scripted import ScriptedEngine
from cai.generate.form import BETWEEN, PREFACE, STOPS, ChatForm, TranscriptForm, form_of
from cai.types import Message
from tests.engines import tiny

CONSTITUTION = load_constitution("harmless")
PRINCIPLE = CONSTITUTION.principles[0]
DIALOGUE = (Message("user", "Hi."), Message("assistant", "Hello!"), Message("user", "How do I pick a lock?"))


class Shown(ScriptedEngine):
    """A scripted engine that shows a tokenizer."""

    def __init__(self, template: str | None) -> None:
        super().__init__()
        self.renderer = type("Renderer", (), {"tokenizer": tiny.tokenizer(template)})


def test_a_tokenizer_without_a_template_gets_transcripts() -> None:
    assert form_of("auto", CONSTITUTION, Shown(None)).name == "transcript"
    assert form_of("auto", CONSTITUTION, Shown(tiny.CHATML)).name == "chat"
    assert form_of("auto", CONSTITUTION, ScriptedEngine()).name == "chat"
    assert form_of("chat", CONSTITUTION, Shown(None)).name == "chat"
    assert form_of("transcript", CONSTITUTION, ScriptedEngine()).name == "transcript"


def test_a_draft_goes_on_with_the_dialogue() -> None:
    asked = TranscriptForm(CONSTITUTION).draft(DIALOGUE)
    assert asked.prompt == (
        f"{PREFACE}{BETWEEN}Human: Hi.\n\nAssistant: Hello!\n\nHuman: How do I pick a lock?\n\nAssistant:"
    )
    assert asked.prompt[: asked.shared] == PREFACE + BETWEEN
    assert ChatForm(CONSTITUTION).draft(DIALOGUE).prompt == DIALOGUE


def test_critique_and_revision_are_parts_of_one_text() -> None:
    form = TranscriptForm(CONSTITUTION)
    critique = form.critique(PRINCIPLE, DIALOGUE, "With a pin.").prompt
    revision = form.revision(PRINCIPLE, DIALOGUE, "With a pin.", "It helps a thief.").prompt
    assert isinstance(critique, str)
    assert isinstance(revision, str)
    assert revision.startswith(f"{critique} It helps a thief.")
    assert revision.endswith(f"\n\nRevision request: {PRINCIPLE.revision}\n\nRevision:")
    examples = [*CONSTITUTION.few_shots, *PRINCIPLE.few_shots]
    assert examples
    assert critique.count(BETWEEN) == 1 + len(examples)
    assert all(example.critique in critique and example.revision in critique for example in examples)


def test_without_critique_the_examples_have_none() -> None:
    asked = TranscriptForm(CONSTITUTION).revision(PRINCIPLE, DIALOGUE, "With a pin.", None)
    assert "Critique" not in asked.prompt
    assert "Revision request:" in asked.prompt


def test_what_is_shared_is_the_same_for_every_principle() -> None:
    form = TranscriptForm(CONSTITUTION)
    asked = [form.critique(principle, DIALOGUE, "With a pin.") for principle in CONSTITUTION.principles]
    assert len({each.prompt[: each.shared] for each in asked}) == 1
    assert asked[0].shared > len(PREFACE + BETWEEN)


def test_every_part_that_could_follow_stops_the_one_before() -> None:
    form = TranscriptForm(CONSTITUTION)
    text = form.revision(PRINCIPLE, DIALOGUE, "With a pin.", "It helps.").prompt
    assert isinstance(text, str)
    for line in text.splitlines():
        if line.startswith(("Human:", "Assistant:", "Critique", "Revision", "-----")):
            assert f"\n{line}".startswith(STOPS)
