import pytest
import torch

from cai.losses.checks import boolean_mask, positive, same_shape


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
