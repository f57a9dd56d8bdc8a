"""What each source asks, and what it compares."""

from pathlib import Path
from typing import Any

import pytest

from cai.constitution import load_constitution
from cai.engines.build import EngineConfig
from cai.errors import InputError
from cai.label.config import LabelConfig
from cai.label.sources import Contrast, Models, Revisions, Samples, build_source
from cai.records.journal import Journal
from cai.records.loaders import PromptSet
from cai.records.schema import Critique, Draft, Dropped, Prompt, Provenance, Record, Revision
from cai.types import Message

RULES = load_constitution("harmless")
BY = Provenance(engine="scripted", model="m", seed=0)
PROMPTS = [Prompt.of((Message("user", f"Question {n}?"),), kind="red_team") for n in range(3)]


def draft(text: str, prompt: Prompt = PROMPTS[0], sample: int = 0) -> Draft:
    return Draft(
        key=f"d{text}{sample}", prompt=prompt.id, sample=sample, text=text, finish_reason="stop", provenance=BY
    )


def config(**pairs: Any) -> LabelConfig:
    return LabelConfig.model_validate({"prompts": ["p"], "out": "o", "pairs": pairs})


def test_samples_ask_the_same_again() -> None:
    source = build_source(config(), RULES, PromptSet(PROMPTS))
    assert type(source) is Samples
    asks = source.asks(PROMPTS[0])
    assert [(ask.sample, ask.engine, ask.dialogue) for ask in asks] == [
        (number, 0, PROMPTS[0].messages) for number in range(2)
    ]
    a, b = draft("a"), draft("b", sample=1)
    (found,) = source.answers(PROMPTS[0], [a, b])
    assert (found.answers, found.principle) == ((a, b), None)
    assert source.answers(PROMPTS[0], [a]) == []


def test_best_of_asks_n_times() -> None:
    source = build_source(config(kind="best_of", n=5), RULES, PromptSet(PROMPTS))
    assert [ask.sample for ask in source.asks(PROMPTS[0])] == list(range(5))
    three = [draft(text, sample=number) for number, text in enumerate("abc")]
    (found,) = source.answers(PROMPTS[0], three)
    assert found.answers == tuple(three)


def test_two_models_answer_once_each() -> None:
    source = build_source(config(kind="models", other={"model": "second"}), RULES, PromptSet(PROMPTS))
    assert isinstance(source, Models)
    assert [engine.model for engine in source.engines] == ["embedded", "second"]
    assert [(ask.sample, ask.engine) for ask in source.asks(PROMPTS[0])] == [(0, 0), (1, 1)]


def test_the_sides_of_a_contrast_are_told_a_principle_and_its_opposite() -> None:
    source = Contrast(EngineConfig(), RULES, seed=3, tags=("privacy",))
    for prompt in PROMPTS:
        first, second = source.asks(prompt)
        (found,) = source.answers(prompt, [draft("a"), draft("b", sample=1)])
        assert found.principle is not None
        assert "privacy" in found.principle.tags
        assert first.dialogue == (Message("system", found.principle.text), *prompt.messages)
        assert second.dialogue == (Message("system", found.principle.contrast), *prompt.messages)
        assert source.answers(prompt, [draft("a")]) == []


def write(folder: Path, name: str, *records: Record) -> None:
    with Journal(folder / f"{name}.jsonl") as journal:
        for record in records:
            journal.append(record)


def chain(start: Draft, rounds: int, *, critique: bool = True) -> tuple[list[Critique], list[Revision]]:
    """Return the critiques and revisions of a chain; a round without a critique revises the answer at once."""
    critiques: list[Critique] = []
    revisions: list[Revision] = []
    answer: Draft | Revision = start
    for number in range(1, rounds + 1):
        about: dict[str, Any] = {"prompt": start.prompt, "round": number, "principle": RULES.principles[0].id}
        about |= {"finish_reason": "stop", "provenance": BY}
        parent = answer.id
        if critique:
            critiques.append(Critique(key=f"c{answer.id}", answer=answer.id, text="Hm.", **about))
            parent = critiques[-1].id
        answer = Revision(key=f"r{answer.id}", critique=parent, text=f"{start.text} {number}", **about)
        revisions.append(answer)
    return critiques, revisions


@pytest.mark.parametrize("critique", [True, False])
def test_a_draft_is_set_against_its_chains_last_revision(tmp_path: Path, critique: bool) -> None:
    long, short, alone = draft("long"), draft("short", sample=1), draft("alone", PROMPTS[1])
    critiques, revisions = chain(long, 3, critique=critique)
    more_critiques, more_revisions = chain(short, 1, critique=critique)
    lost = Dropped(key="x", stage="critique", prompt=PROMPTS[1].id, reason="empty")
    write(tmp_path, "drafts", long, short, alone)
    write(tmp_path, "critiques", *critiques, *more_critiques, lost)
    write(tmp_path, "revisions", *revisions, *more_revisions)
    source = Revisions.read(tmp_path, PromptSet(PROMPTS))
    assert (source.engines, source.asks(PROMPTS[0])) == ((), [])
    found = source.answers(PROMPTS[0], [])
    assert [tuple(answer.text for answer in each.answers) for each in found] == [
        ("long", "long 3"),
        ("short", "short 1"),
    ]
    assert source.answers(PROMPTS[1], []) == source.answers(PROMPTS[2], []) == []


def test_a_folder_without_these_prompts_revisions_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path / "none", tmp_path):
        with pytest.raises(InputError, match="no revision of an answer to these prompts"):
            build_source(config(kind="revisions", run=folder), RULES, PromptSet(PROMPTS))
        write(tmp_path, "drafts", draft("alone"))
