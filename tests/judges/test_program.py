from dataclasses import replace

import pytest

from cai.constitution import Principle
from cai.constitution.checkers import Check, checker
from cai.judges.base import Comparison, Judge
from cai.judges.program import ProgramJudge
from tests.judges.samples import comparison, one


@checker("test_judged")
def _judged(argument: str) -> Check:
    """Can't tell of answers with a question mark."""
    return lambda answer: None if "?" in answer else answer.startswith("yes")


def ruled(a: str, b: str, rule: str = "max_words:3") -> Comparison:
    return replace(comparison(a, b), principle=Principle(id="brief", text="Be brief.", checker=rule))


def test_the_answer_that_passes_wins_on_either_side() -> None:
    judge: Judge = ProgramJudge()
    assert one(judge, ruled("one two", "one two three four")).prob_a == 0.99
    assert one(judge, ruled("one two three four", "one two")).prob_a == pytest.approx(0.01)
    assert one(ProgramJudge(certainty=1.0), ruled("one two three four", "one two")).prob_a == 0


@pytest.mark.parametrize(
    ("a", "b", "rule", "reason"),
    [
        ("one", "one two", "max_words:3", "both answers pass the checker 'max_words:3'"),
        ("a b c d", "a b c d e", "max_words:3", "both answers fail the checker 'max_words:3'"),
        ("yes?", "yes", "test_judged", "the checker 'test_judged' can't tell of answer A"),
        ("no", "yes?", "test_judged", "the checker 'test_judged' can't tell of answer B"),
        ("yes?", "no?", "test_judged", "the checker 'test_judged' can't tell of both answers"),
        ("yes", "no", "", "the principle 'brief' has no checker"),
    ],
)
def test_otherwise_it_abstains_and_says_why(a: str, b: str, rule: str, reason: str) -> None:
    verdict = one(ProgramJudge(), ruled(a, b, rule))
    assert (verdict.prob_a, verdict.reason) == (None, reason)


def test_there_is_one_verdict_per_comparison_as_they_come() -> None:
    def endless() -> object:
        number = 0
        while True:
            yield replace(ruled("a", "a b c d"), id=str(number))
            number += 1

    verdicts = ProgramJudge().compare(endless())  # type: ignore[arg-type]
    assert [next(verdicts).id for _ in range(3)] == ["0", "1", "2"]


@pytest.mark.parametrize("certainty", [0.5, 0.0, 1.1])
def test_a_certainty_that_decides_nothing_is_refused(certainty: float) -> None:
    with pytest.raises(ValueError, match=r"above 0\.5"):
        ProgramJudge(certainty=certainty)
