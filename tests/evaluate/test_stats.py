import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.evaluate.stats import FEWEST, PairedChange, WinRate, paired_change, win_rate


def test_wins_ties_and_abstentions_are_counted_apart() -> None:
    found = win_rate([0.9, 0.51, 0.5, 0.1, None, None])
    assert (found.n, found.abstained, found.win_rate) == (4, 2, 2.5 / 4)


def test_an_abstention_is_no_vote() -> None:
    assert win_rate([0.9] * 10 + [None] * 90).win_rate == 1.0
    assert win_rate([0.9] * 10 + [None] * 90).low == win_rate([0.9] * 10).low


def test_nothing_to_go_by_shows_nothing() -> None:
    for given_ in ([], [None, None]):
        found = win_rate(given_)
        assert (found.n, found.win_rate, found.low, found.high) == (0, 0.5, 0.0, 1.0)
        assert found.verdict == "no difference shown"


def test_ties_alone_show_nothing_however_many() -> None:
    found = win_rate([0.5] * 5000)
    assert found.win_rate == 0.5
    assert found.low < 0.5 < found.high
    assert found.verdict == "no difference shown"


def test_what_is_no_probability_is_refused() -> None:
    for wrong in (math.nan, -0.1, 1.1, math.inf):
        with pytest.raises(ValueError, match="a vote is a probability"):
            win_rate([0.9, wrong])


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.51, 0.9, "better"),
        (0.1, 0.49, "worse"),
        (0.4, 0.6, "no difference shown"),
        (0.5, 0.9, "no difference shown"),
        (0.1, 0.5, "no difference shown"),
    ],
)
def test_a_verdict_needs_the_whole_interval_on_one_side(low: float, high: float, verdict: str) -> None:
    assert WinRate(n=50, abstained=0, win_rate=0.5, low=low, high=high).verdict == verdict


def test_few_prompts_are_no_verdict_and_many_are() -> None:
    assert win_rate([0.9] * 3).verdict == "no difference shown"
    assert win_rate([0.9] * 30).verdict == "better"
    assert win_rate([0.1] * 30).verdict == "worse"


@given(st.lists(st.one_of(st.none(), st.floats(0, 1))))
def test_candidate_and_parent_changing_places_turns_the_verdict_over(votes: list[float | None]) -> None:
    ours, theirs = win_rate(votes), win_rate([None if vote is None else 1 - vote for vote in votes])
    turned = {"better": "worse", "worse": "better"}
    if all(vote is None or (vote > 0.5) == (1 - vote < 0.5) for vote in votes):
        assert theirs.win_rate == pytest.approx(1 - ours.win_rate)
        assert theirs.verdict == turned.get(ours.verdict, ours.verdict)


def pairs(n: int, shift: float, seed: int) -> list[tuple[float, float]]:
    generator = np.random.default_rng(seed)
    parent = generator.normal(size=n)
    return list(zip((parent + generator.normal(shift, 1, n)).tolist(), parent.tolist(), strict=True))


def test_the_change_is_that_of_the_means_over_the_same_prompts() -> None:
    found = paired_change([(3.0, 1.0), (5.0, 1.0), (1.0, 1.0), (3.0, 1.0), (4.0, 2.0), (2.0, 0.0)])
    assert (found.n, found.candidate, found.parent) == (6, 3.0, 1.0)
    assert found.low <= 2.0 <= found.high
    assert found.verdict == "better"


def test_the_same_answers_give_the_same_interval() -> None:
    assert paired_change(pairs(40, 0.2, 1)) == paired_change(pairs(40, 0.2, 1))
    assert paired_change(pairs(40, 0.2, 1)) != paired_change(pairs(40, 0.2, 2))


def test_candidate_and_parent_changing_places_turns_the_change_over() -> None:
    ours = paired_change(pairs(50, 0.8, 0))
    theirs = paired_change([(parent, candidate) for candidate, parent in pairs(50, 0.8, 0)])
    assert (theirs.low, theirs.high) == pytest.approx((-ours.high, -ours.low), abs=1e-9)
    assert (ours.verdict, theirs.verdict) == ("better", "worse")


def test_the_bootstrap_is_as_wide_as_the_normal_interval() -> None:
    given_ = pairs(200, 0.0, 3)
    found = paired_change(given_)
    differences = [candidate - parent for candidate, parent in given_]
    width = 2 * 1.96 * statistics.pstdev(differences) / math.sqrt(200)
    assert found.high - found.low == pytest.approx(width, rel=0.08)


def test_the_bootstrap_covers_the_true_change_about_as_often_as_it_says() -> None:
    found = [paired_change(pairs(30, 0.5, seed)) for seed in range(120)]
    hits = sum(change.low <= 0.5 <= change.high for change in found)
    assert 0.85 <= hits / len(found) <= 0.995


def test_no_change_and_no_pairs_show_nothing() -> None:
    assert paired_change([(1.0, 1.0)] * 50).verdict == "no difference shown"
    assert paired_change([]) == PairedChange(n=0, candidate=0.0, parent=0.0, low=0.0, high=0.0)
    assert paired_change([]).verdict == "no difference shown"


@pytest.mark.parametrize("n", range(1, FEWEST + 1))
def test_a_handful_of_prompts_is_no_finding_although_the_bootstrap_is_sure(n: int) -> None:
    found = paired_change([(2.0, 1.0)] * n)
    assert (found.low, found.high) == (1.0, 1.0)
    assert found.verdict == ("better" if n == FEWEST else "no difference shown")
