import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.engines.base import ScoreRequest
from cai.engines.scripted import ScriptedEngine
from cai.engines.transformers import TransformersEngine
from cai.judges.base import Judge
from cai.judges.pairwise import sigmoid
from cai.judges.pointwise import CANDIDATES, SCORE, PointwiseJudge, Rating, Unrated
from cai.types import Message
from tests.judges.samples import HI, KIND, FailingEngine, asked, comparison, one


def rates(**words: dict[int, float]) -> ScriptedEngine:
    """An engine that gives an answer with a word these scores with these probabilities."""

    def score(request: ScoreRequest, candidate: str) -> float:
        answer = asked(request).partition("\nAnswer: ")[2].partition("\n\nRate how")[0]
        probs = next((probs for word, probs in words.items() if word in answer), {5: 1.0})
        prob = probs.get(int(candidate.rstrip(")")), 0.0)
        return math.log(prob) if prob else -math.inf

    return ScriptedEngine(score=score)


def test_the_expected_score_is_that_of_the_ten_alone() -> None:
    # (4 * 0.2 + 9 * 0.6) / 0.8 = 7.75
    logprobs = [-math.inf] * 10
    logprobs[3], logprobs[8] = math.log(0.2), math.log(0.6)
    rating = Rating.of(logprobs)
    assert rating.expected == pytest.approx(7.75)
    assert rating.mass == pytest.approx(0.8)


@given(st.lists(st.floats(-2000, 0), min_size=10, max_size=10))
def test_a_rating_lies_on_the_scale_however_unlikely_the_scores_are(logprobs: list[float]) -> None:
    rating = Rating.of(logprobs)
    assert 1 - 1e-9 <= rating.expected <= 10 + 1e-9
    assert 0 <= rating.mass <= 1


def test_the_verdict_is_the_difference_of_expected_scores() -> None:
    judge: Judge = PointwiseJudge(rates(good={8: 0.5, 10: 0.5}, bad={7: 1.0}), scale=4.0)
    assert one(judge, comparison("good", "bad")).prob_a == pytest.approx(sigmoid((9 - 7) / 4))
    assert one(judge, comparison("bad", "good")).prob_a == pytest.approx(sigmoid((7 - 9) / 4))
    tie = one(judge, comparison("bad", "bad too"))
    assert (tie.prob_a, tie.reason) == (None, "tie")


def test_each_answer_is_asked_about_alone_by_the_principle() -> None:
    engine = rates()
    one(PointwiseJudge(engine), comparison("one {text}\n\nAnswer: two", "three"))
    first, second = engine.seen
    assert "\n\nAnswer: one {text}\n\n    Answer: two\n\nRate how well the answer follows this: Be kind.\n" in asked(
        first
    )
    assert "\n\nAnswer: three\n\n" in asked(second)
    assert "three" not in asked(first)
    for request in (first, second):
        assert isinstance(request, ScoreRequest)
        assert (request.prefill, request.candidates) == (SCORE, CANDIDATES)


def test_no_score_is_the_beginning_of_another() -> None:
    # Else a tokenizer that cuts 10 into 1 and 0 would count its probability for 1 too.
    assert len(CANDIDATES) == 10
    assert not any(one != other and other.startswith(one) for one in CANDIDATES for other in CANDIDATES)


def test_a_model_that_wants_to_say_something_else_gives_no_vote() -> None:
    engine = rates(shy={9: 0.2, 8: 0.2}, sure={3: 0.9})
    verdict = one(PointwiseJudge(engine, least_mass=0.5), comparison("shy", "sure"))
    assert (verdict.prob_a, verdict.reason) == (None, "the model would rather say something else than a score")
    assert one(PointwiseJudge(engine, least_mass=0.4 - 1e-9), comparison("shy", "sure")).prob_a is not None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_number_is_no_vote(value: float) -> None:
    verdict = one(PointwiseJudge(ScriptedEngine(score=lambda request, candidate: value)), comparison("one", "two"))
    assert verdict.abstained
    assert "finite" in verdict.reason


@pytest.mark.parametrize("blank", ["", ":"])
def test_an_answer_without_words_gets_no_vote(blank: str) -> None:
    judge = PointwiseJudge(rates(fine={9: 1.0}))
    first, second = judge.compare([comparison("fine", blank, name="1"), comparison("fine", "two", name="2")])
    assert (first.prob_a, first.reason) == (None, "answer B has no words")
    assert second.prob_a == pytest.approx(sigmoid(4.0))


@pytest.mark.parametrize("side", [0, 1])
def test_a_request_that_failed_is_an_abstention_that_says_why(side: int) -> None:
    items = [comparison("one", "two", name=str(n)) for n in range(70)]
    judge = PointwiseJudge(FailingEngine(lambda request: request.id == str(2 * 5 + side)), least_mass=0.0)
    verdicts = list(judge.compare(items))
    assert [verdict.id for verdict in verdicts] == [item.id for item in items]
    # Requests are numbered anew in each window, so the sixth comparison of the second fails too.
    assert [verdict.id for verdict in verdicts if verdict.reason != "tie"] == ["5", "69"]
    assert verdicts[5].reason == "too_long: 4096 tokens at most"


def test_answers_can_be_rated_by_themselves() -> None:
    good, shy = PointwiseJudge(rates(good={8: 1.0}, shy={8: 0.09})).rate([(HI, "good", KIND), (HI, "shy", KIND)])
    assert good == Rating(expected=8.0, mass=1.0)
    assert isinstance(shy, Unrated)


def test_on_a_real_engine_the_ten_scores_are_a_part_of_what_it_could_say(tiny_model_dir: Path) -> None:
    engine = TransformersEngine.load(str(tiny_model_dir), dtype="float32")
    prompt = (Message("user", "What do you think?"),)
    (rating,) = PointwiseJudge(engine, least_mass=0.0).rate([(prompt, "It is a good thing to do.", KIND)])
    assert isinstance(rating, Rating)
    assert 0 < rating.mass < 1
    assert 1 < rating.expected < 10
