from cai.records.schema import Preference
from cai.report.labels import read_labels
from cai.types import Message


def label(key: str, *orders: float) -> Preference:
    return Preference(
        key=key, prompt="p", messages=(Message("user", "q"),), response_a="a", response_b="b", prob_a=0.5, judge="j",
        prob_a_by_order=orders,
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
