"""Calibration by hand, and beside that of judges."""

import numpy as np
import pytest
import torch

from cai.judges import audit
from cai.train.calibration import brier, calibration_error


def logits(*probs: float) -> torch.Tensor:
    return torch.tensor(probs).logit()


def test_hard_labels_give_what_judges_are_measured_by() -> None:
    torch.manual_seed(0)
    margins = 3 * torch.randn(200)
    probs = np.asarray(margins.double().sigmoid())
    assert brier(margins, torch.ones(200)) == pytest.approx(audit.brier(probs), abs=1e-6)
    assert calibration_error(margins, torch.ones(200)) == pytest.approx(audit.ece(probs), abs=1e-6)


def test_soft_labels_that_are_met_are_no_error() -> None:
    targets = torch.tensor([0.6, 0.85, 0.3, 0.05])
    assert brier(targets.logit(), targets) == pytest.approx(0, abs=1e-12)
    assert calibration_error(targets.logit(), targets) == pytest.approx(0, abs=1e-6)


def test_by_hand() -> None:
    margins, targets = logits(0.9, 0.9, 0.35, 0.95), torch.tensor([1.0, 0.0, 0.0, 0.9])
    # Brier: 0.01, 0.81, 0.1225, 0.0025.
    assert brier(margins, targets) == pytest.approx(0.945 / 4, abs=1e-6)
    # Bins: 0.6-0.7 says 0.65 where 1 is right; 0.9-1 says 0.9, 0.9 and 0.95, and 1, 0 and 0.9 are right.
    assert calibration_error(margins, targets) == pytest.approx((0.35 + (2.75 - 1.9)) / 4, abs=1e-6)


def test_sides_are_alike() -> None:
    margins, targets = logits(0.9, 0.3, 0.7), torch.tensor([0.8, 0.1, 0.4])
    assert calibration_error(-margins, 1 - targets) == pytest.approx(calibration_error(margins, targets), abs=1e-6)
    assert brier(-margins, 1 - targets) == pytest.approx(brier(margins, targets), abs=1e-6)
