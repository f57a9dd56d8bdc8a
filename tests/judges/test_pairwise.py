import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.engines.base import ScoreRequest
from cai.engines.scripted import ScriptedEngine
from cai.judges.pairwise import WINDOW, PairwiseJudge, sigmoid, verdict_of
from cai.label.aggregate import flipped
from cai.storage import seed_from
from cai.types import Message
from tests.judges.samples import FailingEngine, comparison, one

answers = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40)


def question(request: ScoreRequest) -> str:
    assert not isinstance(request.prompt, str)
    return request.prompt[-1].content


def at_random(request: ScoreRequest, candidate: str) -> float:
    """Something that depends on the whole question and the candidate, and follows no rule."""
    return -(seed_from(question(request), candidate) % 10_000) / 1000


def likes(word: str, strength: float = 2.0) -> ScriptedEngine:
    """An engine that chooses the option with a word in it, wherever it stands."""

    def score(request: ScoreRequest, candidate: str) -> float:
        first, second = question(request).partition("(A) ")[2].split("\n(B) ")
        return strength if word in {"A": first, "B": second}[candidate] else 0.0

    return ScriptedEngine(score=score)


def likes_a(request: ScoreRequest, candidate: str) -> float:
    return 3.0 if candidate == "A" else 0.0


def test_the_answer_that_the_model_chooses_in_both_orders_wins() -> None:
    judge = PairwiseJudge(likes("good"))
    verdict = one(judge, comparison("a good answer", "a bad one"))
    assert verdict.prob_a == pytest.approx(sigmoid(2.0))
    assert list(verdict.prob_a_by_order) == pytest.approx([sigmoid(2.0)] * 2)
    assert one(judge, comparison("a bad one", "a good answer")).prob_a == pytest.approx(1 - sigmoid(2.0))


def test_a_model_that_follows_the_place_gets_no_vote() -> None:
    verdict = one(PairwiseJudge(ScriptedEngine(score=likes_a)), comparison("one", "two"))
    assert verdict.abstained
    assert verdict.reason == "tie"
    assert flipped(verdict.prob_a_by_order), "and it can be told why"


def test_two_equal_answers_get_no_vote() -> None:
    assert one(PairwiseJudge(ScriptedEngine(score=at_random)), comparison("same", "same")).abstained


@given(answers, answers)
def test_swapping_the_answers_turns_the_probability_over(a: str, b: str) -> None:
    judge = PairwiseJudge(ScriptedEngine(score=at_random))
    here, there = one(judge, comparison(a, b)), one(judge, comparison(b, a))
    if a == b or here.prob_a is None:
        assert here.abstained
        assert there.abstained
    else:
        assert there.prob_a == pytest.approx(1 - here.prob_a, abs=1e-12)
    assert there.prob_a_by_order == pytest.approx([1 - p for p in reversed(here.prob_a_by_order)], abs=1e-12)


def test_each_pair_is_asked_in_both_orders_with_the_principles_question() -> None:
    engine = likes("x")
    prompt = (Message("user", "How are you?"), Message("assistant", "Fine"), Message("user", "Why?"))
    one(PairwiseJudge(engine), comparison("first {second}", "{question} other", prompt=prompt))
    shown = [question(request) for request in engine.seen if isinstance(request, ScoreRequest)]
    assert len(shown) == 2
    assert [text[text.index("(A)") :] for text in shown] == [
        "(A) first {second}\n(B) {question} other",
        "(A) {question} other\n(B) first {second}",
    ]
    for text, request in zip(shown, engine.seen, strict=True):
        assert "Which answer is kinder?" in text
        assert "Human: How are you?\n\nAssistant: Fine\n\nHuman: Why?" in text
        assert isinstance(request, ScoreRequest)
        assert request.candidates == ("A", "B")
        assert request.prefill.endswith("(")


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_a_request_that_failed_is_an_abstention_that_says_why(order: str) -> None:
    judge = PairwiseJudge(FailingEngine(lambda request: request.id == f"x/{order}"))
    verdict = one(judge, comparison("one", "two"))
    assert verdict.abstained
    assert verdict.reason == "too_long: 4096 tokens at most"


def test_one_failure_costs_one_verdict_and_the_order_of_results_does_not_count() -> None:
    asked = [comparison("one", "two", name=str(n)) for n in range(WINDOW + 9)]
    judge = PairwiseJudge(FailingEngine(lambda request: request.id.startswith("5/")))
    verdicts = list(judge.compare(asked))
    assert [verdict.id for verdict in verdicts] == [item.id for item in asked]
    assert [verdict.id for verdict in verdicts if verdict.reason != "tie"] == ["5"]


def test_temperature_softens_labels() -> None:
    sharp, soft = (one(PairwiseJudge(likes("good"), temperature=t), comparison("good", "bad")) for t in (1.0, 4.0))
    assert sharp.prob_a == pytest.approx(sigmoid(2.0))
    assert soft.prob_a == pytest.approx(sigmoid(0.5))


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_number_is_no_vote(score: float) -> None:
    # A model that overflows gives NaN, and NaN > 0.5 is false: it would be a vote for B.
    verdict = one(PairwiseJudge(ScriptedEngine(score=lambda request, candidate: score)), comparison("one", "two"))
    assert verdict.abstained
    assert "finite" in verdict.reason


@given(st.floats(-1e308, 1e308))
def test_the_sigmoid_has_no_overflow_and_turns_over(logit: float) -> None:
    assert 0 <= sigmoid(logit) <= 1
    assert sigmoid(-logit) == pytest.approx(1 - sigmoid(logit), abs=1e-15)
    assert (sigmoid(logit) > 0.5) == (logit > 1e-16) or abs(logit) < 1e-15


def test_a_verdict_of_a_logit() -> None:
    assert verdict_of("x", 0.0).reason == "tie"
    assert verdict_of("x", 1.0).prob_a == sigmoid(1.0)
