from typing import Any

import pytest

from cai.records.schema import Dropped, Preference
from cai.report.labels import read_labels
from cai.types import Message


def label(key: str, *orders: float, prob_a: float = 0.5, **more: Any) -> Preference:
    return Preference(
        key=key, prompt="p", messages=(Message("user", "q"),), response_a="a", response_b="b", prob_a=prob_a, judge="j",
        prob_a_by_order=orders, **more,
    )  # fmt: skip


def test_the_order_decides_only_where_a_choice_was_made_in_both() -> None:
    labels = [label("1", 0.9, 0.2), label("2", 0.5, 0.2), label("3", 0.7, 0.6), label("4"), label("5", 0.9)]
    view = read_labels([], labels, {})
    assert (view.flips, view.asked_twice) == (1, 2)
    assert len(view.position_bias) == 3


def test_nothing_labelled_has_no_rates() -> None:
    view = read_labels([], [], {}, {"unseen": 19, "right": 15})
    assert (view.flip_rate, view.mean_bias, view.undecided) == (None, None, None)
    assert (view.unseen, view.unseen_right) == (19, 15)
    assert (view.share_a, view.mean_spread, view.left_out) == (None, None, 0)


def test_how_sure_the_judge_is_and_how_far_its_votes_disagree() -> None:
    probs, spreads = (0.55, 0.3, 0.9, 1.0, 0.4), (None, 0.5, 1.5, None, None)
    found = zip(probs, spreads, strict=True)
    labels = [label(str(n), prob_a=prob, spread=spread) for n, (prob, spread) in enumerate(found)]
    view = read_labels([], labels, {})
    assert view.sureness == [1, 1, 1, 0, 2]
    assert (view.share_a, view.mean_spread) == (0.6, 1.0)


def test_labels_by_principle() -> None:
    labels = [label("1", prob_a=0.9, principles=("a", "b")), label("2", prob_a=0.45, principles=("b",))]
    by = read_labels([], labels, {}).by_principle
    assert list(by) == ["b", "a"]
    assert (by["b"].labels, by["b"].undecided) == (2, 0.5)
    assert by["b"].confidence == pytest.approx(0.725)
    assert (by["a"].labels, by["a"].undecided) == (1, 0)


def test_what_has_no_label_is_counted_by_stage_and_reason() -> None:
    def lost(key: str, stage: str, reason: str) -> Dropped:
        return Dropped(key=key, stage=stage, prompt="p", reason=reason)

    pairs = [lost("1", "label", "equal answers"), lost("2", "label", "tie"), lost("3", "label", "tie")]
    view = read_labels([lost("4", "response", "too_long")], pairs, {})
    assert next(iter(view.drops.items())) == (("label", "tie"), 2)
    assert view.drops["response", "too_long"] == 1
    assert view.left_out == 3


def test_which_answer_is_a_follows_from_the_kind_of_pairs() -> None:
    assert read_labels([], [], {"pairs": "revisions"}).answer_a == "the draft"
    assert read_labels([], [], {}).answer_a == ""
