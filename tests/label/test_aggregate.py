import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.constitution import Principle
from cai.judges.base import Verdict
from cai.judges.pairwise import sigmoid
from cai.label.aggregate import Label, Vote, flipped, label_of, logit
from cai.label.learned import LearnedWeights


def vote(prob_a: float | None, weight: float = 1.0, *, name: str = "x", hard: bool = False, reason: str = "") -> Vote:
    return Vote(name=name, prob_a=prob_a, weight=weight, hard=hard, reason=reason)


def mean(probabilities: list[float | None], weights: list[float] | None = None) -> float | None:
    given = zip(probabilities, weights or [1.0] * len(probabilities), strict=True)
    return label_of(vote(prob, weight) for prob, weight in given).prob_a


def test_votes_are_averaged_in_logits() -> None:
    # Odds of 4 and 1/9, and 4 * 1/9 = 4/9 has the root 2/3: the mean odds are 2 to 3.
    assert mean([0.8, 0.1]) == pytest.approx(2 / 5)


def test_weights_count() -> None:
    assert mean([0.8, 0.1], [3.0, 0.000001]) == pytest.approx(0.8, abs=1e-5)
    assert mean([0.9, 0.1, 0.1], [2.0, 1.0, 1.0]) is None


def test_abstentions_neither_count_nor_pull_towards_a_half() -> None:
    assert mean([0.9, None, None], [1.0, 5.0, 5.0]) == pytest.approx(0.9)
    assert mean([None, None]) is None


@given(st.lists(st.floats(0.001, 0.999), min_size=1, max_size=8))
def test_votes_that_cancel_are_a_tie_and_not_a_vote_by_rounding(probabilities: list[float]) -> None:
    assert mean([*probabilities, *[1 - probability for probability in probabilities]]) is None


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_the_label_lies_between_the_votes(probabilities: list[float]) -> None:
    label = mean([*probabilities], [1.0 + number for number in range(len(probabilities))])
    if label is not None:
        assert min(probabilities) - 1e-6 <= label <= max(probabilities) + 1e-6


def test_a_certain_vote_does_not_overrule_all_others_for_ever() -> None:
    label = mean([1.0, *[0.01] * 10])
    assert label is not None
    assert 0 < label < 0.5


@pytest.mark.parametrize(
    ("by_order", "said"),
    [((0.9, 0.8), False), ((0.1, 0.2), False), ((0.9, 0.1), True), ((0.1, 0.9), True), ((0.5, 0.9), None), ((), None)],
)
def test_a_judge_that_follows_the_place_is_caught(by_order: tuple[float, ...], said: bool | None) -> None:
    # Each is the probability of A: above a half in one order and below it in the other is the same place twice.
    assert flipped(by_order) is said


def test_a_label_is_the_weighted_mean_of_logits() -> None:
    # Logits ln 4 with weight 3 and -ln 4 with weight 1: the mean is ln 4 / 2 = ln 2, odds of 2 to 1.
    label = label_of([vote(0.8, 3.0, name="kind"), vote(0.2, 1.0, name="brief")])
    assert label.prob_a == pytest.approx(2 / 3)
    assert label.deciding == ("kind", "brief")
    # Deviations ln 2 with weight 3 and 3 ln 2 with weight 1: the mean square is 12 ln² 2 / 4.
    assert label.spread == pytest.approx(math.sqrt(3) * math.log(2))


def test_ties_abstentions_and_failures_are_no_votes() -> None:
    label = label_of([vote(0.8), vote(None, 9.0, reason="tie"), vote(0.5, 9.0), vote(None, reason="engine: down")])
    assert label.prob_a == pytest.approx(0.8)
    assert label.spread is None
    assert label_of([vote(None, reason="tie"), vote(None, reason="engine: down")]) == Label(prob_a=None, reason="tie")
    assert label_of([vote(0.5)]) == Label(prob_a=None, reason="tie")
    assert label_of([]) == Label(prob_a=None, reason="no votes")


def test_votes_that_cancel_are_no_label_but_their_disagreement_is_kept() -> None:
    label = label_of([vote(0.9), vote(0.1)])
    assert (label.prob_a, label.reason, label.deciding) == (None, "tie", ())
    assert label.spread == pytest.approx(math.log(9))


def test_nothing_outweighs_a_hard_constraint_that_is_sure() -> None:
    others = [vote(0.1, 100.0, name="kind"), vote(0.05, 100.0, name="brief")]
    label = label_of([vote(0.9, 0.1, name="safe", hard=True), *others])
    assert label.prob_a == pytest.approx(0.9)
    assert label.deciding == ("safe",)
    assert label.spread is not None
    assert label.spread > 0, "what was outvoted is still disagreement"


@pytest.mark.parametrize("turned", [False, True])
def test_a_hard_constraint_that_is_not_sure_counts_as_any_other(turned: bool) -> None:
    def label(probability: float) -> float | None:
        shown = [probability, 0.2]
        hard, soft = (1 - prob for prob in shown) if turned else shown
        found = label_of([vote(hard, hard=True), vote(soft)]).prob_a
        return found if found is None or not turned else 1 - found

    assert label(0.8) == pytest.approx(0.8), "at the threshold it decides"
    assert label(0.79) == pytest.approx(sigmoid((logit(0.79) + logit(0.2)) / 2))


def test_the_threshold_can_be_set() -> None:
    votes = [vote(0.7, hard=True), vote(0.1)]
    assert label_of(votes, confident=0.7).prob_a == pytest.approx(0.7)
    assert label_of(votes).prob_a == pytest.approx(sigmoid((logit(0.7) + logit(0.1)) / 2))


def test_a_clamped_judge_can_be_sure_of_a_hard_constraint() -> None:
    safe = Principle(id="safe", text="Harm nobody.", priority="hard")
    soft = vote(0.1, 3.0)
    clamped = Verdict(id="x", prob_a=0.6, prob_a_by_order=(0.99, 0.7))
    label = label_of([Vote.of(clamped, safe), soft])
    assert label.prob_a == pytest.approx(0.6)
    assert label.deciding == ("safe",)
    unsure = Verdict(id="x", prob_a=0.6, prob_a_by_order=(0.99, 0.05))
    assert label_of([Vote.of(unsure, safe), soft]).deciding == ("safe", soft.name)


def test_hard_constraints_that_disagree_leave_no_label() -> None:
    votes = [
        vote(0.9, name="safe", hard=True),
        vote(0.15, name="honest", hard=True),
        vote(0.99, 50.0, name="kind"),
    ]
    label = label_of(votes)
    assert label.prob_a is None
    assert label.reason == "hard constraints disagree: safe for A, honest for B"
    assert label.spread is not None
    agreeing = label_of([votes[0], vote(0.8, 3.0, name="honest", hard=True), vote(0.3, name="lawful", hard=True)])
    # Of the two that are sure: (ln 9 + 3 ln 4) / 4; the third is outweighed, not a disagreement.
    assert agreeing.prob_a == pytest.approx(sigmoid((math.log(9) + 3 * math.log(4)) / 4))
    assert agreeing.deciding == ("safe", "honest")


def test_learned_weights_sum_votes_instead_of_averaging_them() -> None:
    learned = LearnedWeights(
        weights={"kind": 0.5, "brief": 0.0},
        common=0.25,
        pairs=40,
        folded=False,
        accuracy=0.7,
        accuracy_common=0.6,
        nll=0.6,
        nll_common=0.65,
    )
    votes = [vote(0.8, 7.0, name="kind"), vote(0.01, 9.0, name="brief"), vote(0.2, name="new")]
    # ln 4 / 2 + 0 - ln 4 / 4 = ln 4 / 4.
    assert label_of(votes, learned=learned).prob_a == pytest.approx(sigmoid(math.log(4) / 4))
    assert label_of(votes[1:2], learned=learned) == Label(prob_a=None, reason="tie")
    hard = vote(0.9, name="safe", hard=True)
    assert label_of([*votes, hard], learned=learned).prob_a == pytest.approx(0.9), "hard constraints come first"


@given(st.lists(st.tuples(st.floats(0.001, 0.999), st.floats(0.1, 9), st.booleans()), min_size=1, max_size=8))
def test_turning_a_pair_over_turns_its_label_over(given_votes: list[tuple[float, float, bool]]) -> None:
    here = label_of(vote(prob, weight, hard=hard) for prob, weight, hard in given_votes)
    there = label_of(vote(1 - prob, weight, hard=hard) for prob, weight, hard in given_votes)
    assert (here.prob_a is None) == (there.prob_a is None)
    if here.prob_a is not None:
        assert there.prob_a == pytest.approx(1 - here.prob_a, abs=1e-9)
    assert (here.spread is None) == (there.spread is None)
    assert here.spread == pytest.approx(there.spread, abs=1e-6) if here.spread is not None else True


def test_a_vote_takes_after_its_principle() -> None:
    principle = Principle(id="safe", text="Harm nobody.", weight=2.5, priority="hard")
    found = Vote.of(Verdict(id="x", prob_a=None, reason="tie"), principle)
    assert found == Vote(name="safe", prob_a=None, reason="tie", weight=2.5, hard=True)
    assert not Vote.of(Verdict(id="x", prob_a=0.5), Principle(id="kind", text="Be kind.", priority=3)).hard
