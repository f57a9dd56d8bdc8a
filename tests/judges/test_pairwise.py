import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.constitution import ComparisonShot
from cai.constitution.ask import CHOICE
from cai.engines.base import Failure, GenerateRequest, ScoreRequest
from cai.engines.scripted import ScriptedEngine
from cai.judges.pairwise import THINK, WINDOW, PairwiseJudge, choice_request, sigmoid, verdict_of
from cai.label.aggregate import flipped
from cai.storage import seed_from
from cai.types import Message
from tests.judges.samples import KIND, FailingEngine, asked, comparison, one, options

answers = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40)


def at_random(request: ScoreRequest, candidate: str) -> float:
    """Something that depends on the whole question and the candidate, and follows no rule."""
    return -(seed_from(asked(request), candidate) % 10_000) / 1000


def likes(word: str, strength: float = 2.0) -> ScriptedEngine:
    """An engine that chooses the option with a word in it, wherever it stands."""

    def score(request: ScoreRequest, candidate: str) -> float:
        return strength if word in options(request)[candidate] else 0.0

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
    shown = [asked(request) for request in engine.seen if isinstance(request, ScoreRequest)]
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
    items = [comparison("one", "two", name=str(n)) for n in range(WINDOW + 9)]
    judge = PairwiseJudge(FailingEngine(lambda request: request.id.startswith("5/")))
    verdicts = list(judge.compare(items))
    assert [verdict.id for verdict in verdicts] == [item.id for item in items]
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
    assert verdict_of("x", 1e-17).reason == "tie", "a probability of one half is no vote, however it came about"


@pytest.mark.parametrize("blank", ["", ":", " \n"])
def test_an_answer_without_words_is_not_even_asked_about(blank: str) -> None:
    engine = likes("")
    judge = PairwiseJudge(engine)
    first, second = judge.compare([comparison(blank, "fine", name="1"), comparison("fine", "good", name="2")])
    assert (first.prob_a, first.reason) == (None, "answer A has no words")
    assert second.reason == "tie"
    assert [request.id for request in engine.seen] == ["2/ab", "2/ba"]


# --- reasons first


def reasons(request: GenerateRequest, seed: int) -> str:
    return f"In {request.id} one is kinder. The answer is: (B) says the model."


def after(word: str) -> ScriptedEngine:
    """Gives reasons, and prefers A by two nats where the prefill has a word; else B by one."""

    def score(request: ScoreRequest, candidate: str) -> float:
        return (2.0 if word in request.prefill else -1.0) * (candidate == "A")

    return ScriptedEngine(reasons, score)


def test_reasons_are_written_in_both_orders_and_the_letters_read_after_them() -> None:
    engine = after("x/ab")
    verdict = one(PairwiseJudge(engine, thoughts=50), comparison("good", "bad"))
    thoughts = [request for request in engine.seen if isinstance(request, GenerateRequest)]
    choices = [request for request in engine.seen if isinstance(request, ScoreRequest)]
    assert [request.id for request in thoughts] == [request.id for request in choices] == ["x/ab", "x/ba"]
    assert [request.prompt for request in thoughts] == [request.prompt for request in choices]
    assert all(request.prefill == THINK.strip() and request.sampling.max_new_tokens == 50 for request in thoughts)
    assert [request.prefill for request in choices] == [
        f"{THINK}In {key} one is kinder.\n{CHOICE}" for key in ("x/ab", "x/ba")
    ]
    # 2 for A shown first, and -1 for the one then shown first, which is B: (2 + 1) / 2, far above the clamp.
    assert verdict.prob_a == 0.6
    assert list(verdict.prob_a_by_order) == pytest.approx([sigmoid(2), sigmoid(1)])


def test_labels_after_reasons_are_clamped_as_told() -> None:
    def prob(**settings: object) -> float | None:
        return one(PairwiseJudge(after("x/ab"), **settings), comparison("good", "bad")).prob_a  # type: ignore[arg-type]

    assert prob(thoughts=50, clamp=(0.1, 0.7)) == 0.7
    assert prob(thoughts=50, clamp=(0.0, 1.0)) == pytest.approx(sigmoid(1.5))
    assert prob(thoughts=50, temperature=10.0) == pytest.approx(sigmoid(0.15))
    assert one(PairwiseJudge(likes("bad")), comparison("good", "bad")).prob_a == pytest.approx(sigmoid(-2.0))
    assert one(PairwiseJudge(likes("bad"), thoughts=9000), comparison("good", "bad")).prob_a == 0.4


@pytest.mark.parametrize("clamp", [(0.5, 0.6), (0.6, 0.4), (0.4, 0.5), (-0.1, 0.6), (0.4, 1.1)])
def test_a_clamp_that_would_make_votes_of_its_own_is_refused(clamp: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="one half"):
        PairwiseJudge(likes("x"), clamp=clamp)


def test_reasons_that_were_cut_off_end_with_a_sentence() -> None:
    engine = ScriptedEngine(lambda request, seed: "It is kind. It is al", likes_a)
    one(PairwiseJudge(engine, thoughts=18), comparison("good", "bad"))
    assert {request.prefill for request in engine.seen if isinstance(request, ScoreRequest)} == {
        f"{THINK}It is kind.\n{CHOICE}"
    }


def test_without_reasons_there_is_no_vote() -> None:
    silent = ScriptedEngine(lambda request, seed: "The answer is: (A)", lambda request, candidate: 0.0)
    verdict = one(PairwiseJudge(silent, thoughts=50), comparison("good", "bad"))
    assert (verdict.prob_a, verdict.reason) == (None, "empty: the model gave no reasons")
    broken = Failure(id="x/ba", reason="engine", message="down")
    half = ScriptedEngine(lambda request, seed: broken if request.id == "x/ba" else "So.", likes_a)
    assert one(PairwiseJudge(half, thoughts=50), comparison("good", "bad")).reason == "engine: down"


def test_examples_show_their_reasons_where_reasons_are_asked_for() -> None:
    with_reasons = ComparisonShot(prompt="Q", chosen="good", rejected="bad", reasons="Good is kind.")
    without = ComparisonShot(prompt="Q", chosen="yes", rejected="no")
    own = ComparisonShot(prompt="Mine", chosen="calm", rejected="loud", reasons="B shouts.", place="A")
    principle = KIND.model_copy(update={"comparison_shots": (without, own)})
    item = replace(comparison("one", "two"), principle=principle)
    plain, shared = choice_request([with_reasons, without], item, swapped=False)
    assert (len(plain), shared) == (9, 8)
    assert plain[1].content == f"{CHOICE}A)"
    thinking, shared = choice_request([with_reasons, without], item, swapped=False, thinking=True)
    assert (len(thinking), shared) == (5, 4)
    assert [turn.content for turn in thinking[1:4:2]] == [
        f"{THINK}Good is kind.\n{CHOICE}A)",
        f"{THINK}B shouts.\n{CHOICE}A)",
    ]
