import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from cai.stats import wilson


@given(st.integers(1, 400), st.data())
def test_the_interval_is_scipys_for_whole_numbers(n: int, data: st.DataObject) -> None:
    wins = data.draw(st.integers(0, n))
    expected = binomtest(wins, n).proportion_ci(confidence_level=0.95, method="wilson")
    assert wilson(wins, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


@given(st.integers(1, 300), st.data())
def test_the_interval_holds_its_share_and_turns_over_with_it(n: int, data: st.DataObject) -> None:
    wins = data.draw(st.integers(0, 2 * n)) / 2  # halves are ties
    low, high = wilson(wins, n)
    assert 0 <= low <= wins / n + 1e-12
    assert wins / n - 1e-12 <= high <= 1
    assert wilson(n - wins, n) == pytest.approx((1 - high, 1 - low), abs=1e-12)


def test_the_interval_covers_the_true_rate_about_as_often_as_it_says() -> None:
    chance = random.Random(0)
    for n, rate in ((20, 0.5), (60, 0.7), (200, 0.9)):
        hits = 0
        for _ in range(1000):
            low, high = wilson(sum(chance.random() < rate for _ in range(n)), n)
            hits += low <= rate <= high
        assert 0.93 <= hits / 1000 <= 0.985, (n, rate)
