"""Held-out figures of a preference model by parts of the pairs: where they come from, and how sure their labels are."""

from pathlib import Path

import pytest
import torch

from cai.train.data import Example, Pair
from cai.train.reward import confidence_band, evaluate
from tests.train.test_reward import naive_scores, with_head


def test_held_out_figures_by_source_and_by_how_sure_the_label_is(tiny_model_dir: Path) -> None:
    model = with_head(tiny_model_dir, 0).eval()
    rows = [Example((5, 6), (7, end), "row") for end in (8, 9)]
    low, high = sorted(rows, key=lambda row: float(naive_scores(model, [row])[0]))
    labels = [(0.95, "people"), (0.6, "people"), (0.35, "ai"), (1.0, "ai"), (0.0, "ai")]
    made = [Pair(high, low, target, source, str(number)) for number, (target, source) in enumerate(labels)]
    found = evaluate(model, made)
    assert {name: part["pairs"] for name, part in found["sources"].items()} == {"ai": 3, "people": 2}
    assert {name: part["pairs"] for name, part in found["confidence"].items()} == {"0.6": 2, "0.9": 3}
    assert found["sources"]["people"]["accuracy"] == 1.0
    assert found["sources"]["ai"]["accuracy"] == pytest.approx(1 / 3)
    assert found["confidence"]["0.9"]["accuracy"] == pytest.approx(2 / 3)
    assert "heads" not in found


@pytest.mark.parametrize(("target", "band"), [(0.5, 5), (0.4, 6), (0.6, 6), (0.69, 6), (0.1, 9), (0.9, 9), (1.0, 9)])
def test_a_label_counts_by_its_likelier_side(target: float, band: int) -> None:
    assert confidence_band(torch.tensor([target])).tolist() == [band]
