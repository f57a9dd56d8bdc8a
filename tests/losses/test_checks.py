from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from cai.losses.checks import boolean_mask, positive, same_shape, weighted
from cai.losses.dpo import dpo
from cai.losses.hinge import hinge
from cai.losses.ipo import ipo
from cai.losses.noise import forward_corrected
from cai.losses.orpo import orpo
from cai.losses.preference import bradley_terry
from cai.losses.robust_dpo import robust_dpo
from cai.losses.simpo import simpo

PAIRS = {
    "policy_chosen_B": torch.tensor([-2.0, -3.0]),
    "policy_rejected_B": torch.tensor([-4.0, -1.0]),
}
REFERENCES = {"reference_chosen_B": torch.tensor([-3.0, -3.0]), "reference_rejected_B": torch.tensor([-2.0, -5.0])}
LENGTHS = {"chosen_length_B": torch.tensor([2, 3]), "rejected_length_B": torch.tensor([4, 1])}
LOSSES: dict[str, Callable[..., Tensor]] = {
    "bradley_terry": lambda **more: bradley_terry(*PAIRS.values(), **more),
    "forward_corrected": lambda **more: forward_corrected(PAIRS["policy_chosen_B"], flip_rate=0.1, **more),
    "dpo": lambda **more: dpo(**PAIRS, **REFERENCES, beta=0.1, **more),
    "hinge": lambda **more: hinge(**PAIRS, **REFERENCES, beta=0.1, **more),
    "robust_dpo": lambda **more: robust_dpo(**PAIRS, **REFERENCES, beta=0.1, flip_rate=0.1, **more),
    "ipo": lambda **more: ipo(**PAIRS, **REFERENCES, **LENGTHS, beta=0.1, **more),
    "simpo": lambda **more: simpo(**PAIRS, **LENGTHS, beta=0.1, gamma=0.5, **more),
    "orpo": lambda **more: orpo(**PAIRS, **LENGTHS, beta=0.1, **more),
}


def test_same_shape_names_the_tensor_that_differs_and_skips_none() -> None:
    a, b = torch.zeros(3), torch.zeros(3, 1)
    same_shape(a=a, weight=None, c=torch.ones(3))
    with pytest.raises(ValueError, match=r"b has shape \(3, 1\) but a has \(3,\)"):
        same_shape(a=a, weight=None, b=b)


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.uint8])
def test_a_mask_that_is_not_boolean_is_refused(dtype: torch.dtype) -> None:
    boolean_mask(torch.ones(2, dtype=torch.bool))
    with pytest.raises(TypeError, match="pass a bool tensor"):
        boolean_mask(torch.ones(2, dtype=dtype))


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_positive_names_the_setting(value: float) -> None:
    positive(beta=0.1)
    with pytest.raises(ValueError, match="gamma is"):
        positive(beta=0.1, gamma=value)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("target", [None, torch.tensor([0.9, 0.2])])
def test_a_weight_multiplies_its_row_and_no_other(name: str, target: Tensor | None) -> None:
    given: dict[str, Any] = {} if target is None or name == "robust_dpo" else {"target_B": target}
    plain = LOSSES[name](**given)
    torch.testing.assert_close(LOSSES[name](**given, weight_B=torch.tensor([3.0, 0.0])), plain * torch.tensor([3, 0]))
    with pytest.raises(ValueError, match="they must agree"):
        LOSSES[name](**given, weight_B=torch.ones(2, 1))


def test_no_weight_is_a_weight_of_one() -> None:
    loss = torch.tensor([1.0, 2.0])
    assert weighted(loss, None) is loss
