import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.engines.base import ScoreRequest
from cai.engines.scripted import ScriptedEngine
from cai.judges.contrastive import WINDOW, ContrastiveJudge, told
from cai.judges.pairwise import sigmoid
from cai.storage import seed_from
from cai.types import Message
from tests.judges.samples import FailingEngine, comparison, one

answers = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40)


def system(request: ScoreRequest) -> str:
    assert not isinstance(request.prompt, str)
    assert request.prompt[0].role == "system"
    return request.prompt[0].content


def at_random(request: ScoreRequest, candidate: str) -> float:
    return -(seed_from(system(request), candidate) % 10_000) / 1000


def kinder(request: ScoreRequest, candidate: str) -> float:
    """Thanks is likelier for a model that is told to be kind: by 4 nats over its 6 bytes."""
    return -6.0 + 4.0 * (candidate == "Thanks" and system(request) == "Be kind.")


def test_the_answer_that_the_principle_makes_likelier_wins() -> None:
    judge = ContrastiveJudge(ScriptedEngine(score=kinder), scale=0.5)
    assert one(judge, comparison("Thanks", "Go!")).prob_a == pytest.approx(sigmoid(4 / 6 / 0.5))
    assert one(judge, comparison("Go!", "Thanks")).prob_a == pytest.approx(1 - sigmoid(4 / 6 / 0.5))


def test_what_is_likely_under_both_instructions_counts_for_nothing() -> None:
    # Short and plain answers are likelier whatever a model is told; that must not win.
    engine = ScriptedEngine(score=lambda request, candidate: -(float(len(candidate)) ** 2))
    verdict = one(ContrastiveJudge(engine), comparison("Yes", "A long and winding answer"))
    assert verdict.abstained
    assert verdict.reason == "tie"


@given(answers, answers)
def test_swapping_the_answers_turns_the_probability_over(a: str, b: str) -> None:
    judge = ContrastiveJudge(ScriptedEngine(score=at_random), scale=1.0)
    here, there = one(judge, comparison(a, b)), one(judge, comparison(b, a))
    if here.prob_a is None:
        assert there.abstained
    else:
        assert there.prob_a == pytest.approx(1 - here.prob_a, abs=1e-9)


def test_both_answers_are_scored_whole_under_the_principle_and_under_its_contrast() -> None:
    engine = ScriptedEngine(score=at_random)
    one(ContrastiveJudge(engine), comparison("one", "two"))
    assert [system(request) for request in engine.seen if isinstance(request, ScoreRequest)] == [
        "Be kind.",
        "Be cruel.",
    ]
    for request in engine.seen:
        assert isinstance(request, ScoreRequest)
        assert request.candidates == ("one", "two")
        assert request.end_of_turn
        assert request.prompt[1:] == (Message("user", "Hi"),)


@pytest.mark.parametrize("side", ["for", "against"])
def test_a_request_that_failed_is_an_abstention_that_says_why(side: str) -> None:
    asked = [comparison("one", "two", name=str(n)) for n in range(WINDOW + 5)]
    verdicts = list(ContrastiveJudge(FailingEngine(lambda request: request.id == f"7/{side}")).compare(asked))
    assert [verdict.id for verdict in verdicts] == [item.id for item in asked]
    assert verdicts[7].abstained
    assert verdicts[7].reason == "too_long: 4096 tokens at most"
    assert sum(verdict.reason.startswith("too_long") for verdict in verdicts) == 1


def test_a_score_that_is_no_number_is_no_vote() -> None:
    engine = ScriptedEngine(score=lambda request, candidate: -math.inf if candidate == "one" else -1.0)
    verdict = one(ContrastiveJudge(engine), comparison("one", "two"))
    assert verdict.abstained
    assert "finite" in verdict.reason


def test_an_instruction_goes_before_a_system_turn_that_is_there() -> None:
    user = Message("user", "Hi")
    assert told("Be kind.", (user,)) == (Message("system", "Be kind."), user)
    assert told("Be kind.", (Message("system", "You are Bo."), user)) == (
        Message("system", "Be kind.\n\nYou are Bo."),
        user,
    )
