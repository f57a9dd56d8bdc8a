import pytest

from cai.engines.scripted import ScriptedEngine
from cai.judges.base import Judge, Verdict
from cai.judges.contrastive import ContrastiveJudge
from cai.judges.pairwise import PairwiseJudge
from tests.judges.samples import comparison


@pytest.mark.parametrize("prob_a", [0.0, 0.5, 1.0])
def test_a_probability_is_a_vote_whatever_it_is(prob_a: float) -> None:
    assert not Verdict(id="x", prob_a=prob_a).abstained


def test_no_probability_is_an_abstention_with_a_reason() -> None:
    verdict = Verdict(id="x", prob_a=None, reason="tie")
    assert verdict.abstained
    assert verdict.prob_a_by_order == ()


def test_judges_tell_their_name_their_model_and_whether_principles_count() -> None:
    engine = ScriptedEngine(model="weights-1")
    judges: list[Judge] = [PairwiseJudge(engine), ContrastiveJudge(engine)]
    assert [(judge.name, judge.model, judge.by_principle) for judge in judges] == [
        ("pairwise", "weights-1", True),
        ("contrastive", "weights-1", True),
    ]


@pytest.mark.parametrize("judge", [PairwiseJudge(ScriptedEngine()), ContrastiveJudge(ScriptedEngine())])
def test_there_is_one_verdict_per_comparison_over_many_windows(judge: Judge) -> None:
    asked = [comparison("a" * (1 + n % 7), "b" * (1 + n % 5), name=f"pair {n}") for n in range(150)]
    assert [verdict.id for verdict in judge.compare(iter(asked))] == [item.id for item in asked]
    assert list(judge.compare([])) == []
