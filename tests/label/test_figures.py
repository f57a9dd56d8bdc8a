from typing import Any

from cai.label.figures import Figures
from cai.records.schema import Dropped, Preference
from cai.types import Message


def label(prob_a: float, **more: Any) -> Preference:
    asked = {"prompt": "p", "messages": (Message("user", "q"),), "response_a": "a", "response_b": "b", "judge": "j"}
    return Preference.model_validate({"key": str(prob_a), "prob_a": prob_a, **asked, **more})


def test_means_are_of_what_is_known() -> None:
    figures = Figures("samples", "j")
    figures.add(label(0.9, prob_a_by_order=(0.9, 0.7), spread=0.5))
    figures.add(label(0.3, prob_a_by_order=(0.7, 0.1), spread=1.5))
    figures.add(label(0.2, prob_a_by_order=(0.5, 0.1)))
    for key, stage, reason in (("1", "label", "tie"), ("2", "label", "tie"), ("3", "response", "too_long")):
        figures.add(Dropped(key=key, stage=stage, prompt="p", reason=reason))
    found = figures.result()
    assert found.pop("mean_confidence") == (0.9 + 0.7 + 0.8) / 3
    assert found == {
        "pairs": "samples",
        "judge": "j",
        "labels": 3,
        "dropped": {"label: tie": 2, "response: too_long": 1},
        "share_a": 1 / 3,
        "position_flip_rate": 0.5,
        "mean_spread": 1.0,
    }


def test_nothing_has_no_means() -> None:
    found = Figures("samples", "j").result()
    assert (found["labels"], found["dropped"]) == (0, {})
    assert {found[name] for name in ("mean_confidence", "share_a", "position_flip_rate", "mean_spread")} == {None}
