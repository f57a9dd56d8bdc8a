import math
from collections.abc import Iterable, Iterator, Sequence

import pytest

from cai.constitution import Principle, load_constitution
from cai.engines.scripted import ScriptedEngine
from cai.judges.base import Comparison, Verdict
from cai.judges.contrastive import ContrastiveJudge
from cai.judges.pointwise import PointwiseJudge
from cai.judges.single import auroc, discrimination
from cai.records.answers import LabelledAnswer
from cai.types import Dialogue, Message

RULES = load_constitution("harmless")


def answers(count: int) -> list[LabelledAnswer]:
    """Return answers of which every second is good, the longer the later."""
    prompt = (Message("user", "Q"),)
    return [LabelledAnswer(str(n), prompt, "zyx " * (n + 1), n % 2 == 0, "f") for n in range(count)]


class ByLength:
    name, model, by_principle = "length", "none", False

    def __init__(self, broken: str = "") -> None:
        self._broken = broken

    def compare(self, comparisons: Iterable[Comparison]) -> Iterator[Verdict]:
        raise AssertionError("nothing is compared")

    def scores(self, given: Sequence[tuple[Dialogue, str, Principle]]) -> list[float]:
        return [math.nan if text == self._broken else float(len(text)) for _, text, _ in given]


def test_the_area_by_hand() -> None:
    assert auroc([1.0, 2.0], [3.0, 4.0])[0] == 1.0
    assert auroc([3.0, 4.0], [1.0, 2.0])[0] == 0.0
    assert auroc([1.0], [1.0])[0] == 0.5
    assert auroc([1.0, 3.0], [2.0])[0] == 0.5
    assert math.isnan(auroc([], [1.0])[0])


def test_the_standard_error_is_that_of_hanley_and_mcneil() -> None:
    # Their 1982 table: an area of 0.8 with 50 of each has an error of about 0.045.
    low = [float(n) for n in range(50)]
    high = [float(n) + 18.4 for n in range(50)]
    area, error = auroc(low, high)
    assert area == pytest.approx(0.8, abs=0.01)
    assert error == pytest.approx(0.045, abs=0.002)


def test_scores_are_held_against_what_people_said() -> None:
    given = answers(10)
    told = discrimination(ByLength(), RULES, given)
    assert told is not None
    # Of the 25 couples the longer one is good where n_good > n_bad: 0 + 1 + 2 + 3 + 4.
    assert told.auroc == pytest.approx(10 / 25)
    assert (told.answers, told.good, told.unscored) == (10, 5, 0)
    assert told.interval[0] < told.auroc < told.interval[1]


def test_an_answer_without_a_score_is_counted_and_in_no_figure() -> None:
    given = answers(10)
    told = discrimination(ByLength(broken=given[9].answer), RULES, given)
    assert told is not None
    assert told.unscored == 1
    assert told.auroc == pytest.approx(10 / 20)


def test_a_judge_that_only_compares_scores_nothing() -> None:
    assert discrimination(ContrastiveJudge(ScriptedEngine()), RULES, answers(4)) is None


def test_the_pointwise_judge_rates_under_a_drawn_principle() -> None:
    def likes_long(request: object, candidate: str) -> float:
        words = str(request).count("zyx")
        return -abs(float(candidate.strip(" )")) - min(10, words))

    engine = ScriptedEngine(score=likes_long)
    told = discrimination(PointwiseJudge(engine, least_mass=0.0), RULES, answers(8), seed=1)
    assert told is not None
    assert told.unscored == 0
    assert told.auroc == pytest.approx((0 + 1 + 2 + 3) / 16)
