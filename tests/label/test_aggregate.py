import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.judges.base import Verdict
from cai.label.aggregate import clamp, flipped, mean_logit


def verdicts(*probabilities: float | None) -> list[Verdict]:
    return [Verdict(id="x", prob_a=probability) for probability in probabilities]


def test_votes_are_averaged_in_logits() -> None:
    # Odds of 4 and 1/9, and 4 * 1/9 = 4/9 has the root 2/3: the mean odds are 2 to 3.
    assert mean_logit(verdicts(0.8, 0.1), [1.0, 1.0]) == pytest.approx(2 / 5)


def test_weights_count() -> None:
    assert mean_logit(verdicts(0.8, 0.1), [3.0, 0.000001]) == pytest.approx(0.8, abs=1e-5)
    assert mean_logit(verdicts(0.9, 0.1, 0.1), [2.0, 1.0, 1.0]) == 0.5


def test_abstentions_neither_count_nor_pull_towards_a_half() -> None:
    assert mean_logit(verdicts(0.9, None, None), [1.0, 5.0, 5.0]) == pytest.approx(0.9)


def test_no_vote_at_all_is_no_label() -> None:
    assert mean_logit(verdicts(None, None), [1.0, 1.0]) is None
    assert mean_logit([], []) is None


@given(st.lists(st.floats(0.001, 0.999), min_size=1, max_size=8))
def test_votes_that_cancel_are_a_tie_and_not_a_vote_by_rounding(probabilities: list[float]) -> None:
    both = [*probabilities, *[1 - probability for probability in probabilities]]
    assert mean_logit(verdicts(*both), [1.0] * len(both)) == 0.5


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_the_label_lies_between_the_votes_and_turns_over_with_them(probabilities: list[float]) -> None:
    weights = [1.0 + number for number in range(len(probabilities))]
    label = mean_logit(verdicts(*probabilities), weights)
    other = mean_logit(verdicts(*[1 - probability for probability in probabilities]), weights)
    assert label is not None
    assert other is not None
    assert min(probabilities) - 1e-6 <= label <= max(probabilities) + 1e-6
    assert other == pytest.approx(1 - label, abs=1e-6)


def test_a_certain_vote_does_not_overrule_all_others_for_ever() -> None:
    label = mean_logit(verdicts(1.0, *[0.01] * 10), [1.0] * 11)
    assert label is not None
    assert 0 < label < 0.5


def test_weights_and_verdicts_belong_together() -> None:
    with pytest.raises(ValueError, match="shorter"):
        mean_logit(verdicts(0.5, 0.5), [1.0])


@pytest.mark.parametrize(
    ("by_order", "said"),
    [((0.9, 0.8), False), ((0.1, 0.2), False), ((0.9, 0.1), True), ((0.1, 0.9), True), ((0.5, 0.9), None), ((), None)],
)
def test_a_judge_that_follows_the_place_is_caught(by_order: tuple[float, ...], said: bool | None) -> None:
    # Each is the probability of A: above a half in one order and below it in the other is the same place twice.
    assert flipped(by_order) is said


def test_labels_are_kept_from_saturating() -> None:
    assert [clamp(probability, 0.4, 0.6) for probability in (0.0, 0.45, 1.0)] == [0.4, 0.45, 0.6]
