"""Checks of shapes, masks and settings. They look at metadata only: nothing here waits for a device.

A `(B,)` beside a `(B, 1)` would broadcast to `(B, B)` and train on nonsense, so tensors that must agree are named.
"""

import torch
from torch import Tensor


def same_shape(**tensors: Tensor | None) -> None:
    """Require that all the tensors given (None is skipped) have one shape.

    Raises ValueError that names the first that differs.
    """
    present = [(name, tensor) for name, tensor in tensors.items() if tensor is not None]
    first, reference = present[0]
    for name, tensor in present[1:]:
        if tensor.shape != reference.shape:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)} but {first} has {tuple(reference.shape)}; they must agree"
            )


def boolean_mask(mask: Tensor) -> None:
    """Require that a mask is boolean: a float one may hold weights, which a mask would drop without a word.

    Raises TypeError.
    """
    if mask.dtype != torch.bool:
        raise TypeError(f"the mask has dtype {mask.dtype}; pass a bool tensor (mask.bool())")


def positive(**settings: float) -> None:
    """Require that all the settings given are above 0.

    Raises ValueError that names the first that isn't.
    """
    for name, value in settings.items():
        if not value > 0:
            raise ValueError(f"{name} is {value}; it must be above 0")


def weighted(loss_B: Tensor, weight_B: Tensor | None) -> Tensor:
    """Return losses per row times the rows' weights, where there are any.

    Raises ValueError when the shapes disagree.
    """
    same_shape(loss_B=loss_B, weight_B=weight_B)
    return loss_B if weight_B is None else loss_B * weight_B
