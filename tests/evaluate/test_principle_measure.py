from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from cai.constitution import Constitution, Principle, load_constitution
from cai.engines.base import Failure, Scored, ScoreRequest
from cai.engines.scripted import ScriptedEngine
from cai.errors import EngineError
from cai.evaluate.principle_measure import (
    OPENING,
    UNRELATED_PRINCIPLES,
    Case,
    Measured,
    fault_question,
    measure,
    turned_over,
    unrelated_to,
)
from cai.evaluate.principle_stats import BEFORE, CHANGED, CONTRAST, FAULT, LENGTH, PASSES, PRINCIPLE, UNRELATED
from cai.judges.base import Comparison, Judge, Verdict
from cai.judges.contrastive import ContrastiveJudge
from cai.judges.pairwise import PairwiseJudge, sigmoid
from cai.records.schema import Draft, Prompt, Provenance, Revision
from cai.types import Message
from tests.evaluate.principle_samples import KIND, constitution_file, engine, said, score

DIGITS, SPELLING = UNRELATED_PRINCIPLES[:2]
HOW = Provenance(engine="scripted", model="script", seed=0)


@pytest.fixture
def constitution(tmp_path: Path) -> Constitution:
    return load_constitution(constitution_file(tmp_path))


def revised(text: str, prompt: Prompt) -> Revision:
    return Revision(
        key=text,
        prompt=prompt.id,
        critique="c",
        round=1,
        principle="x",
        text=text,
        finish_reason="stop",
        provenance=HOW,
    )


def case(
    principle: Principle,
    *,
    question: str = "Rude question one?",
    draft: str = "Go away, you.",
    own: str = "Well then, my dear.",
    other: str = "Waves, no more.",
) -> Case:
    prompt = Prompt.of((Message("user", question),), kind="red_team")
    return Case(
        key=f"{principle.id}/{question}",
        principle=principle,
        others=(DIGITS, SPELLING),
        prompt=prompt,
        draft=Draft(key="d", prompt=prompt.id, sample=0, text=draft, finish_reason="stop", provenance=HOW),
        revision=revised(own, prompt),
        other_revision=revised(other, prompt),
    )


def one(constitution: Constitution, given: Case, *, model: ScriptedEngine | None = None) -> Measured:
    model = model or engine()
    ((_, found),) = measure([given], constitution, model, ContrastiveJudge(model))
    return found


def test_what_a_principle_brings_about_stands_out_from_unrelated_ones(constitution: Constitution) -> None:
    found = one(constitution, case(constitution["kind"]))
    own, opposite, unrelated = (found.wins[name] for name in (PRINCIPLE, CONTRAST, UNRELATED))
    assert own is not None
    assert own > 0.9
    assert opposite == pytest.approx(1 - own)
    assert unrelated == pytest.approx(0.5, abs=0.15)
    # Yes is 4 nats more for the draft's fault than for what has no part in it.
    assert found.wins[FAULT] == pytest.approx(sigmoid(4.0))
    assert found.scores[CHANGED] == (1.0, 1.0)
    assert found.scores[LENGTH] == pytest.approx((4 / 3, 1.0))
    assert (found.scores[BEFORE], found.scores[PASSES]) == ((0.0, 0.0), (1.0, 0.0))


def test_a_principle_that_moves_nothing_looks_like_an_unrelated_one(constitution: Constitution) -> None:
    # The revision is kind, and drafts and unrelated revisions are not; but that is not what this principle asks.
    found = one(constitution, case(constitution["sea"]))
    assert found.wins[PRINCIPLE] == pytest.approx(0.5, abs=0.15)
    assert found.wins[FAULT] == 0.5
    assert PASSES not in found.scores


def test_what_any_revision_has_is_no_merit_of_the_principles(constitution: Constitution) -> None:
    found = one(constitution, case(constitution["kind"], own="Now then, my dear.", other="Well then, my dear."))
    assert found.wins[PRINCIPLE] == pytest.approx(0.5, abs=0.15)


def test_what_a_model_says_of_every_principle_is_no_fault(constitution: Constitution) -> None:
    yes = ScriptedEngine(score=lambda request, candidate: 9.0 if candidate == " Yes" else 0.0)
    assert one(constitution, case(constitution["kind"]), model=yes).wins[FAULT] == 0.5


def test_two_revisions_that_are_the_same_are_a_tie_and_are_not_asked_about(constitution: Constitution) -> None:
    model = engine()
    found = one(constitution, case(constitution["kind"], own="Come  in.", other="Come in."), model=model)
    assert [found.wins[name] for name in (PRINCIPLE, CONTRAST, UNRELATED)] == [0.5, 0.5, 0.5]
    assert all(said(request).endswith("Say Yes or No.") for request in model.seen)


class Broken(ScriptedEngine):
    """Fails what a word is in."""

    def __init__(self, word: str) -> None:
        super().__init__(score=score)
        self._word = word

    def score(self, requests: Iterable[ScoreRequest]) -> Iterator[Scored | Failure]:
        asked = list(requests)
        for request, result in zip(asked, super().score(asked), strict=True):
            words = "".join(message.content for message in request.prompt if not isinstance(message, str))
            yield Failure(id=request.id, reason="engine", message="gone") if self._word in words else result


def test_what_failed_is_left_out_and_is_no_verdict(constitution: Constitution) -> None:
    given = case(constitution["kind"])
    found = one(constitution, given, model=Broken(KIND))
    assert (found.wins[PRINCIPLE], found.wins[CONTRAST], found.wins[FAULT]) == (None, None, None)
    assert found.wins[UNRELATED] is not None
    found = one(constitution, given, model=Broken(SPELLING.text))
    assert found.wins[PRINCIPLE] is not None
    assert found.wins[UNRELATED] is None
    assert found.wins[FAULT] == pytest.approx(sigmoid(4.0))


def test_an_engine_that_judges_nothing_is_an_error_and_no_finding(constitution: Constitution) -> None:
    given = case(constitution["kind"])
    with pytest.raises(EngineError, match="no verdict on any of 1 pairs: engine: gone"):
        one(constitution, given, model=Broken(""))


class Recorder:
    """Agrees with everything, and keeps what it was asked by."""

    name = "pairwise"
    model = "heart"
    by_principle = True

    def __init__(self) -> None:
        self.asked: list[Principle] = []

    def compare(self, comparisons: Iterable[Comparison]) -> Iterator[Verdict]:
        for item in comparisons:
            self.asked.append(item.principle)
            yield Verdict(id=item.id, prob_a=0.7)


def test_a_judge_that_asks_in_words_is_asked_by_the_contrast_too(constitution: Constitution) -> None:
    judge: Judge = (recorder := Recorder())
    given = case(constitution["kind"])
    ((_, found),) = measure([given], constitution, engine(), judge)
    assert found.wins[CONTRAST] == 0.7
    assert {item.text for item in recorder.asked} == {KIND, SPELLING.text, "Be cruel to the person."}


def test_a_principle_is_turned_over_with_its_wordings(constitution: Constitution) -> None:
    over = turned_over(constitution, constitution["kind"])
    assert (over.text, over.contrast) == ("Be cruel to the person.", KIND)
    assert over.comparison == "Which of these answers follows this better: Be cruel to the person."
    assert PairwiseJudge(engine()).name == "pairwise"


def test_unrelated_principles_go_by_turns_and_the_nearest_is_left_out() -> None:
    def names(text: str) -> set[tuple[str, str]]:
        principle = Principle(id="x", text=text)
        pairs = [unrelated_to(principle, str(number)) for number in range(60)]
        assert pairs == [unrelated_to(principle, str(number)) for number in range(60)]
        return {(made.id, judged.id) for made, judged in pairs}

    assert names("Be kind.") == {("digits", "spelling"), ("spelling", "units"), ("units", "digits")}
    assert names("Write all numbers as digits, always.") == {
        ("spelling", "units"),
        ("units", "dates"),
        ("dates", "spelling"),
    }
    assert not any("spelling" in pair for pair in names("Use British spelling, as all English people do."))


def test_braces_in_an_answer_are_text_in_the_question() -> None:
    (turn,) = fault_question(Principle(id="x", text="No {text}."), (Message("user", "{dialogue}?"),), "{text}")
    assert turn.content.startswith("Human: {dialogue}?\n\nAssistant: {text}\n\nDoes the assistant's last answer")
    assert "go against this: No {text}.\n" in turn.content
    assert OPENING == "Answer:"
