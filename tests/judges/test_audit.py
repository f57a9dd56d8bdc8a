"""What an audit says of judges whose behaviour is known."""

import math
import random
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest

from cai.constitution import Constitution, Principle
from cai.judges.audit import (
    Audit,
    audit,
    better_first,
    brier,
    cross_scaled,
    ece,
    fit_temperature,
    judge_pairs,
    krippendorff_alpha,
    nll,
    reliability,
)
from cai.judges.base import Comparison, Verdict
from cai.records.pairs import LabelledPair
from cai.types import Message

RULES = Constitution(
    name="two",
    version="1",
    principles=(Principle(id="calm", text="Stay calm."), Principle(id="kind", text="Be kind.")),
)


class Fixed:
    """A judge that does as it is told."""

    name = model = "fixed"

    def __init__(self, kind: str, *, by_principle: bool = True) -> None:
        self.kind, self.by_principle = kind, by_principle
        self.asked = 0

    def compare(self, comparisons: Iterable[Comparison]) -> Iterator[Verdict]:
        for item in comparisons:
            self.asked += 1
            good_a = item.response_a.startswith("good")
            right = 0.9 if good_a else 0.1
            if self.kind == "right":
                yield Verdict(id=item.id, prob_a=right, prob_a_by_order=(right, right))
            elif self.kind == "first":
                yield Verdict(id=item.id, prob_a=0.8, prob_a_by_order=(0.9, 0.2))
            elif self.kind == "longer":
                yield Verdict(id=item.id, prob_a=0.9 if len(item.response_a) > len(item.response_b) else 0.1)
            elif self.kind == "calm only":
                prob = right if item.principle.id == "calm" else 1 - right
                yield Verdict(id=item.id, prob_a=prob)
            else:
                yield Verdict(id=item.id, prob_a=None, reason="unreadable")


def pairs(count: int) -> list[LabelledPair]:
    draw = random.Random(0)
    return [
        LabelledPair(
            f"p{n}",
            (Message("user", f"Q{n}"),),
            "good" + "x" * draw.randint(1, 50),
            "bad" + "x" * draw.randint(1, 50),
            "one" if n % 2 else "two",
        )
        for n in range(count)
    ]


def audited(kind: str, count: int = 200, **given: Any) -> Audit:
    judge = Fixed(kind)
    labelled = pairs(count)
    found = judge_pairs(judge, RULES, labelled, **given)
    return audit(found, labelled, judge="fixed", model="m", constitution="two")


def test_a_good_judge() -> None:
    found = audited("right")
    assert (found.pairs, found.abstained, found.accuracy, found.flip_rate) == (200, 0, 1.0, 0.0)
    assert found.interval[0] > 0.97
    assert found.brier == pytest.approx(0.01)
    assert found.temperature == pytest.approx(0.05, rel=0.05), "always right: as sure as can be"
    assert found.nll_scaled < found.nll
    assert {name: share for name, (_, share) in found.by_source.items()} == {"one": 1.0, "two": 1.0}


def test_a_judge_that_likes_a_place_gains_nothing() -> None:
    found = audited("first")
    assert found.flip_rate == 1.0
    assert 0.38 < found.accuracy < 0.62
    assert found.temperature > 3


def test_a_judge_that_likes_length() -> None:
    found = audited("longer")
    assert found.longer_share == 1.0
    assert found.longer_better is not None
    assert 0.35 < found.longer_better < 0.65
    assert audited("right").longer_share == pytest.approx(found.longer_better)


def test_abstentions_are_neither_right_nor_wrong() -> None:
    found = audited("silent", 10)
    assert (found.abstained, found.accuracy, found.interval) == (10, 0.5, (0.0, 1.0))
    assert found.reasons == {"unreadable": 10}
    assert found.flip_rate is None
    assert found.longer_share is None


def test_agreement_is_told_by_principle() -> None:
    found = audited("calm only", 60, principles_per_pair=2)
    assert found.by_principle == {"calm": (60, 1.0), "kind": (60, 0.0)}
    assert found.abstained == 60, "the two cancel out: a tie is no vote"


def test_a_judge_of_the_whole_constitution_is_asked_once() -> None:
    judge = Fixed("right", by_principle=False)
    found = list(judge_pairs(judge, RULES, pairs(9), principles_per_pair=2))
    assert len(found) == judge.asked == 9
    assert all(item.principles == () for item in found), "no principle is credited with its votes"


def test_the_better_answer_is_first_as_often_as_second() -> None:
    share = sum(better_first(pair) for pair in pairs(1000)) / 1000
    assert 0.45 < share < 0.55


def test_calibration_by_hand() -> None:
    probs = np.array([0.95, 0.95, 0.05, 0.65])
    assert brier(probs) == pytest.approx((0.0025 * 2 + 0.9025 + 0.1225) / 4)
    assert nll(probs) == pytest.approx(-(2 * math.log(0.95) + math.log(0.05) + math.log(0.65)) / 4)
    bins = {round(part.low, 1): part for part in reliability(probs)}
    assert bins[0.9].n == 3
    assert bins[0.9].accuracy == pytest.approx(2 / 3)
    assert (bins[0.6].n, bins[0.6].accuracy) == (1, 1.0)
    assert ece(probs) == pytest.approx(0.75 * abs(0.95 - 2 / 3) + 0.25 * 0.35)
    assert sum(part.n for part in reliability(np.array([1.0, 0.0, 0.5]))) == 3


def test_a_temperature_is_found_and_not_on_the_same_data() -> None:
    draw = np.random.default_rng(0)
    logits = draw.normal(1.0, 1.5, 4000)  # what the truth is drawn from
    truth = draw.random(4000) < 1 / (1 + np.exp(-logits))
    overconfident = 1 / (1 + np.exp(-3 * np.where(truth, logits, -logits)))
    assert fit_temperature(overconfident) == pytest.approx(3.0, rel=0.1)
    assert ece(cross_scaled(overconfident)) < 0.03 < ece(overconfident)
    few = np.array([0.9, 0.2])
    assert cross_scaled(few) is few


def test_alpha() -> None:
    yes, no, none = True, False, None
    assert krippendorff_alpha([[yes, no, yes], [yes, no, yes]]) == 1.0
    assert krippendorff_alpha([[yes, no], [none, none]]) is None
    # Krippendorff 2011, the two-observer binary example: alpha = 0.095.
    first = [no, yes, no, no, no, no, no, no, yes, no]
    second = [yes, yes, yes, no, no, yes, no, no, no, no]
    assert krippendorff_alpha([first, second]) == pytest.approx(0.095, abs=5e-4)
    opposite = krippendorff_alpha([[yes, no] * 5, [no, yes] * 5])
    assert opposite is not None
    assert opposite < -0.5
