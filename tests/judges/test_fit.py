from collections.abc import Iterator, Sequence

import pytest

from cai.engines.scripted import ScriptedEngine
from cai.judges.base import Comparison, Judge, Verdict
from cai.judges.contrastive import ContrastiveJudge
from cai.judges.fit import unfit, verdicts
from cai.judges.pairwise import PairwiseJudge
from cai.judges.pointwise import PointwiseJudge
from cai.judges.program import ProgramJudge
from cai.judges.sampled import SampledJudge
from tests.judges.samples import comparison


@pytest.mark.parametrize("blank", ["", " ", ":", "\n\n", "…", "\u200b", "\u3164", "---", "👍"])
def test_an_answer_without_words_is_none(blank: str) -> None:
    assert unfit(comparison(blank, "fine")) == "answer A has no words"
    assert unfit(comparison("fine", blank)) == "answer B has no words"


@pytest.mark.parametrize("answer", ["A", "7", "はい", "да", ": no"])
def test_a_short_answer_is_one(answer: str) -> None:
    assert unfit(comparison(answer, "fine")) == ""


def shorter(fit: Sequence[Comparison]) -> Iterator[Verdict]:
    for item in fit:
        yield Verdict(id=item.id, prob_a=0.9 if len(item.response_a) < len(item.response_b) else 0.1)


@pytest.mark.parametrize("window", [1, 2, 3, 100])
def test_what_is_unfit_is_not_asked_about_and_the_order_is_kept(window: int) -> None:
    texts = [("a", "bbb"), ("", "b"), ("aaa", "b"), (":", "…"), ("a", " "), ("a", "bb")]
    asked: list[list[str]] = []

    def judge(fit: Sequence[Comparison]) -> Iterator[Verdict]:
        asked.append([item.id for item in fit])
        yield from shorter(fit)

    items = [comparison(a, b, name=str(n)) for n, (a, b) in enumerate(texts)]
    found = list(verdicts(items, judge, window=window))
    assert [verdict.id for verdict in found] == [item.id for item in items]
    assert [verdict.prob_a for verdict in found] == [0.9, None, 0.1, None, None, 0.9]
    assert [verdict.reason for verdict in found[1:5]] == [
        "answer A has no words",
        "",
        "answer A has no words",
        "answer B has no words",
    ]
    assert [key for some in asked for key in some] == ["0", "2", "5"]
    assert all(asked), "a window without a fit comparison asks nothing"


def test_a_stream_without_end_is_judged_as_it_comes() -> None:
    def endless() -> Iterator[Comparison]:
        while True:
            yield comparison("a", "bb")

    found = verdicts(endless(), shorter, window=4)
    assert [next(found).prob_a for _ in range(9)] == [0.9] * 9


ENGINE = ScriptedEngine()


@pytest.mark.parametrize(
    "judge",
    [ContrastiveJudge(ENGINE), PairwiseJudge(ENGINE), PointwiseJudge(ENGINE), SampledJudge(ENGINE), ProgramJudge()],
    ids=lambda judge: judge.name,
)
def test_no_judge_is_won_by_saying_nothing(judge: Judge) -> None:
    items = [comparison("", "An answer."), comparison("An answer.", ":", name="y")]
    assert [verdict.reason for verdict in judge.compare(items)] == ["answer A has no words", "answer B has no words"]
    assert ENGINE.seen == []
