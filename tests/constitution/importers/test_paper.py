import json
import re
from pathlib import Path
from typing import Any

import pytest

from cai.constitution import ComparisonShot, Constitution, FewShot, Principle
from cai.constitution.importers import import_constitution
from cai.constitution.importers.paper import TWO_KINDS, is_paper
from cai.errors import InputError
from tests.constitution.importers import samples
from tests.constitution.importers.samples import loads_again, write

PUBLISHED = Path(__file__).parents[3].parent / "shared" / "data" / "paper_prompts"

needs_published = pytest.mark.skipif(
    not PUBLISHED.is_dir(), reason=f"no {PUBLISHED}: data that is not part of the project"
)


def flat(value: Any) -> Any:
    """Any run of white space is one space: all that an import may change."""
    if isinstance(value, dict):
        return {key: flat(part) for key, part in value.items()}
    return [flat(part) for part in value] if isinstance(value, list) else " ".join(value.split())


def pair(principle: Principle) -> dict[str, Any]:
    return {
        "prompt": [f"CritiqueRequest: {principle.critique} Critique:"],
        "edit_request": f"RevisionRequest: {principle.revision} Revision:",
    }


def chain(shot: FewShot) -> str:
    return (
        f"Human: {shot.prompt} Assistant: {shot.response} CritiqueRequest: {shot.critique_request} "
        f"Critique: {shot.critique} RevisionRequest: {shot.revision_request} Revision: {shot.revision}"
    )


def choice(shot: ComparisonShot) -> dict[str, Any]:
    return {"prompt": f"Human: {shot.prompt} Assistant:", "corrects": [shot.chosen], "incorrects": [shot.rejected]}


def reasoned(shot: ComparisonShot) -> dict[str, Any]:
    options = (shot.chosen, shot.rejected) if shot.place == "A" else (shot.rejected, shot.chosen)
    dialogue = f"Human: {shot.prompt}".replace("Human: ", "H: ").replace("Assistant: ", "A: ")
    head = "Human: Consider the following conversation:"
    shown = f"{{}} (A) [[[{options[0]}]]] (B) [[[{options[1]}]]]"
    said = f"Assistant: Let's think step by step: {shot.reasons} Human: So the answer is: ({shot.place})"
    return {"prompt": f"{head} {dialogue} {shown} {said}"}


@needs_published
def test_the_published_files_can_be_made_again_of_what_arrived() -> None:
    def published(name: str) -> Any:
        text = (PUBLISHED / f"{name}.json").read_text(encoding="utf-8")
        text = re.sub(r" between a human( \(H\))? and an assistant( \(A\))?:", ":", text)
        text = text.replace(r'\n\nHuman:"', '"')  # where the next example was to begin
        return flat(json.loads(text))

    constitution = import_constitution(PUBLISHED)
    assert len(constitution.principles) == 32
    first, second = constitution.principles[:16], constitution.principles[16:]
    shots = constitution.comparison_shots
    made = {
        "CritiqueRevisionInstructions": {item.id: pair(item) for item in first},
        "RLMadisonInstructions": [f"{item.comparison} Options:" for item in second],
        "CritiqueRevisionFewShotPrompts": [chain(shot) for shot in constitution.few_shots],
        "RLMadisonFewShotPrompts": [choice(shot) for shot in shots if not shot.reasons],
        "RLMadisonPrecogFewShotPrompts": [reasoned(shot) for shot in shots if shot.reasons],
    }
    assert set(made) == {path.stem for path in PUBLISHED.glob("*.json")}
    for name, content in made.items():
        assert flat(content) == published(name), name
    assert {item.tags for item in first} == {("critique",)}
    assert {item.tags for item in second} == {("comparison",)}
    loads_again(constitution)


def imported(tmp_path: Path) -> Constitution:
    for name, content in samples.PAPER.items():
        write(tmp_path, f"{name}.json", content)
    return import_constitution([tmp_path], name="The Paper")


def test_instructions_for_critiques_and_for_comparisons_are_principles_of_two_kinds(tmp_path: Path) -> None:
    constitution = imported(tmp_path)
    assert constitution.name == "the-paper"
    first, second, third, fourth = constitution.principles
    assert (first.id, first.critique, first.tags) == ("harmful0", "Say what is cruel.", ("critique",))
    assert first.revision == first.text == "Take out what is cruel."
    assert second.critique == "Say what is false."
    assert (third.id, third.title, third.tags) == ("kinder", "Kinder", ("comparison",))
    assert third.comparison == third.text == "Please choose the response that is kinder."
    assert fourth.comparison == "Which response is calmer?"
    assert (first.source, fourth.source) == ("a.json", "b.json")
    assert constitution.tagged(("critique",)) == (first, second)
    assert constitution.description == TWO_KINDS
    assert import_constitution(tmp_path / "a.json").description == ""
    loads_again(constitution)


def test_examples_keep_their_turns(tmp_path: Path) -> None:
    (example,) = imported(tmp_path).few_shots
    assert example.prompt == "One?\n\nAssistant: Two.\n\nHuman: Three?"
    assert example.response == "Four.\n\nCriticism apart."
    assert (example.critique_request, example.critique, example.revision_request) == ("What?", "This.", "Mend.")
    assert example.revision == "Five.\n\nSix."


def test_examples_of_comparisons_with_and_without_reasons(tmp_path: Path) -> None:
    bare, thoughtful = imported(tmp_path).comparison_shots
    assert bare == ComparisonShot(prompt="Seven?", chosen="Good.", rejected="Bad.")
    assert thoughtful.prompt == "Eight?\n\nAssistant: Nine.\n\nHuman: Ten?"
    assert (thoughtful.chosen, thoughtful.rejected) == ("Better.", "Worse.")
    assert (thoughtful.reasons, thoughtful.place) == ("(B) is.", "B")


def test_each_better_answer_is_an_example_with_each_worse_one(tmp_path: Path) -> None:
    write(tmp_path, "a.json", samples.PAIRS)
    many = [{"prompt": "\n\nHuman: Why?\n\nAssistant:", "corrects": ["a", "b"], "incorrects": ["c", "d"]}]
    write(tmp_path, "b.json", many)
    shots = import_constitution(tmp_path).comparison_shots
    assert [(shot.chosen, shot.rejected) for shot in shots] == [("a", "c"), ("a", "d"), ("b", "c"), ("b", "d")]


def test_several_prompts_of_one_pair_are_principles_of_their_own(tmp_path: Path) -> None:
    two = {"rude": {"prompt": ["What is rude?", "What is curt?"], "edit_request": "Mend it."}}
    found = import_constitution(write(tmp_path, "a.json", two)).principles
    assert [(item.id, item.critique) for item in found] == [("rude-0", "What is rude?"), ("rude-1", "What is curt?")]


@pytest.mark.parametrize("content", [*samples.PAPER.values()])
def test_the_content_tells_the_format(content: Any) -> None:
    assert is_paper(content)
    assert not is_paper({"constitutions": []})
    assert not is_paper(["Be kind."])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"x": {"edit_request": "a", "prompt": ["b"]},\n "y": {}}', r"a\.json:2:2: 'y' has no 'prompt'"),
        ('{"x": {"edit_request": "a", "prompt": [3]}}', r"a\.json:1:2: a prompt of 'x' is not a text"),
        ('["\\n\\nHuman: a\\n\\nCritiqueRequest: b"]', r"a\.json:1:2: an example without all"),
        ('[{"prompt": "a"}]', r"a\.json:1:13: an example without 'corrects'"),
        ('[{"prompt": "a", "corrects": ["b"], "incorrects": [3]}]', "an example without 'incorrects'"),
        ('[{"prompt": "a", "corrects": [""], "incorrects": ["b"]}]', r"a\.json:1:13: chosen: "),
        ('[{"prompt": "a"}, 3]', r"a\.json:1:13: an example"),
        ('["Which? Options:", 3]', r"a\.json:1:1: neither an instruction nor an example: '3'"),
        (json.dumps(samples.CHOICES), r"a\.json: no principle here, only examples"),
    ],
)
def test_bad_files_are_named_by_their_place(tmp_path: Path, content: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        import_constitution(write(tmp_path, "a.json", content))
