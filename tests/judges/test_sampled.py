import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.constitution import ComparisonShot
from cai.engines.base import Failure, GenerateRequest
from cai.engines.scripted import Reply, ScriptedEngine, echo
from cai.judges.base import Judge
from cai.judges.pairwise import sigmoid
from cai.judges.sampled import ONE_LETTER, WINDOW, SampledJudge, jeffreys_logit, read_vote
from tests.judges.samples import asked, comparison, one, options


def likes(word: str) -> ScriptedEngine:
    def reply(request: GenerateRequest, seed: int) -> str:
        return "A" if word in options(request)["A"] else "B"

    return ScriptedEngine(reply)


def scripted(**by_order: list[str]) -> ScriptedEngine:
    """Answers each order with these texts, sample by sample."""

    def reply(request: GenerateRequest, seed: int) -> str:
        return by_order[request.id.rpartition("/")[2]][request.seeds.index(seed)]

    return ScriptedEngine(reply)


@pytest.mark.parametrize(("said", "vote"), [("A", "A"), (" (B).\n", "B"), ("[A]", "A"), ("B.", "B"), ("\nA ", "A")])
def test_a_letter_alone_is_a_vote(said: str, vote: str) -> None:
    assert read_vote(said) == vote


@pytest.mark.parametrize(
    "said",
    [
        "",
        ":",
        "C",
        "a",
        "A or B",
        "A B",
        "AB",
        "(A",
        "A)",
        "(A]",
        "A is better",
        "The answer is: (A)",
        "**A**",
        "Α",
        "Ａ",
    ],
)
def test_anything_else_is_none(said: str) -> None:
    assert read_vote(said) is None


def test_the_probability_is_that_of_the_counts() -> None:
    # Shown first, A has 3 of 4 votes: odds 3.5 to 1.5. Shown second it has 4 of 4: 4.5 to 0.5.
    engine = scripted(ab=["A", "A", "B", "A"], ba=["B", "(B)", "B.", "B"])
    verdict = one(SampledJudge(engine, samples=4), comparison("one", "two"))
    assert list(verdict.prob_a_by_order) == pytest.approx([3.5 / 5, 4.5 / 5])
    assert verdict.prob_a == pytest.approx(sigmoid((math.log(3.5 / 1.5) + math.log(9)) / 2))


def test_one_answer_each_way_is_enough_for_a_cautious_verdict() -> None:
    judge: Judge = SampledJudge(likes("good"), samples=1)
    assert one(judge, comparison("good", "bad")).prob_a == pytest.approx(0.75)
    assert one(judge, comparison("bad", "good")).prob_a == pytest.approx(0.25)


def test_a_model_that_follows_the_place_gets_no_vote() -> None:
    verdict = one(SampledJudge(ScriptedEngine(lambda request, seed: "A")), comparison("one", "two"))
    assert (verdict.prob_a, verdict.reason) == (None, "tie")
    assert verdict.prob_a_by_order[0] > 0.5 > verdict.prob_a_by_order[1]


@given(st.integers(0, 50), st.integers(0, 50))
def test_counts_that_are_turned_over_turn_the_probability_over(votes: int, others: int) -> None:
    assert jeffreys_logit(votes, others) == -jeffreys_logit(others, votes)
    assert sigmoid(jeffreys_logit(votes, others)) == pytest.approx((votes + 0.5) / (votes + others + 1))


def test_unreadable_answers_are_left_out_and_too_many_leave_no_verdict() -> None:
    some = scripted(ab=["A", "Both.", "A", "Neither"], ba=["B"] * 4)
    assert one(SampledJudge(some), comparison("one", "two")).prob_a_by_order == pytest.approx((2.5 / 3, 4.5 / 5))
    many = scripted(ab=["B"] * 4, ba=["A", "Both.", "I can't say", ":"])
    verdict = one(SampledJudge(many), comparison("one", "two"))
    assert verdict.prob_a is None
    assert verdict.reason == "unreadable: 1 of 4 answers were a letter and nothing else"
    none = scripted(ab=["So."] * 4, ba=["So."] * 4)
    assert one(SampledJudge(none, least_readable=0.0), comparison("one", "two")).abstained


def repeats_an_answer(letter: str) -> Reply:
    return lambda request, seed: options(request)[letter]


@pytest.mark.parametrize("reply", [echo, repeats_an_answer("A"), repeats_an_answer("B")])
@pytest.mark.parametrize("text", ["A", "B", "(A)", "B.", "The answer is: (B)", "fine\nA", "fine\n\nA."])
def test_no_verdict_comes_out_of_a_text_that_is_repeated(reply: Reply, text: str) -> None:
    judge = SampledJudge(ScriptedEngine(reply), max_new_tokens=9000)
    assert one(judge, comparison(text, "a fine answer")).abstained
    assert one(judge, comparison("a fine answer", text)).abstained


def test_the_question_and_its_examples_ask_for_a_bare_letter() -> None:
    engine = likes("x")
    shots = [ComparisonShot(prompt="Q", chosen="good", rejected="bad")] * 2
    one(SampledJudge(engine, shots=shots, samples=3, temperature=0.7, seed=5), comparison("one\n(B) x", "two"))
    first, second = engine.seen
    assert isinstance(first, GenerateRequest)
    assert isinstance(second, GenerateRequest)
    assert [turn.content for turn in first.prompt[1:4:2] if not isinstance(turn, str)] == ["A", "B"]
    assert asked(first).endswith(f"Options:\n(A) one\n    (B) x\n(B) two\n\n{ONE_LETTER}")
    assert asked(second).endswith(f"Options:\n(A) two\n(B) one\n    (B) x\n\n{ONE_LETTER}")
    assert (first.prefill, first.shared, first.sampling.temperature) == ("", 4, 0.7)
    assert len({*first.seeds, *second.seeds}) == 6


def test_failures_and_answers_without_words_are_no_votes() -> None:
    broken = Failure(id="5/ba", reason="engine", message="down")
    engine = ScriptedEngine(lambda request, seed: broken if request.id == "5/ba" else "A")
    items = [comparison("one", "" if n == 7 else "two", name=str(n)) for n in range(WINDOW + 9)]
    verdicts = list(SampledJudge(engine, samples=2).compare(items))
    assert [verdict.id for verdict in verdicts] == [item.id for item in items]
    assert all(verdict.abstained for verdict in verdicts)
    assert {verdict.id: verdict.reason for verdict in verdicts if verdict.reason != "tie"} == {
        "5": "engine: down",
        "7": "answer B has no words",
    }


def test_no_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="1 or more"):
        SampledJudge(likes("x"), samples=0)
