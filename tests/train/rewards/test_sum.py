import math
from collections.abc import Sequence

import pytest

from cai.errors import TrainingError
from cai.train.rewards.sum import Part, RewardFunction, Rewards
from cai.types import Dialogue, Message

PROMPTS = [(Message("user", f"prompt {n}"),) for n in range(3)]
ANSWERS = ["a", "bb", "ccc"]


def gives(*scores: float | None) -> RewardFunction:
    def reward(prompts: Sequence[Dialogue], answers: Sequence[str]) -> Sequence[float | None]:
        return scores

    return reward


def test_the_docstrings_example() -> None:
    parts = [Part("a", 1.0, gives(2.0)), Part("b", 0.5, gives(1.0)), Part("c", 0.0, gives(7.0))]
    (score,) = Rewards(parts).score(PROMPTS[:1], ANSWERS[:1])
    assert score == (2.5, {"a": 2.0, "b": 1.0, "c": 7.0}, "")


def test_a_failed_part_fails_the_sum_unless_it_is_only_read() -> None:
    parts = [Part("a", 1.0, gives(1.0, None, 3.0)), Part("read", 0.0, gives(None, 5.0, math.nan))]
    found = Rewards(parts).score(PROMPTS, ANSWERS)
    assert [score.total for score in found] == [1.0, None, 3.0]
    assert [score.parts for score in found] == [{"a": 1.0}, {"read": 5.0}, {"a": 3.0}]
    assert found[1].failure == "a: no reward"


def test_an_exception_costs_the_answer_that_raised_it() -> None:
    def fails_on_bb(prompts: Sequence[Dialogue], answers: Sequence[str]) -> Sequence[float | None]:
        if "bb" in answers:
            raise KeyError("bb")
        return [float(len(answer)) for answer in answers]

    found = Rewards.of(fails_on_bb).score(PROMPTS, ANSWERS)
    assert [score.total for score in found] == [1.0, None, 3.0]
    assert found[1].failure == "function: KeyError: 'bb'"


def test_a_number_that_is_none_stays_in_the_total() -> None:
    totals = [score.total for score in Rewards.of(gives(math.nan, math.inf, 1.0)).score(PROMPTS, ANSWERS)]
    assert math.isnan(totals[0] or 0.0)
    assert totals[1:] == [math.inf, 1.0]


def test_scores_must_be_as_many_as_answers() -> None:
    with pytest.raises(TrainingError, match="'function' gave 1 scores for 3 answers"):
        Rewards.of(gives(0.5)).score(PROMPTS, ANSWERS)
    assert Rewards.of(gives()).score([], []) == []
