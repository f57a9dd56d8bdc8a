"""Weights that are in pieces, one on each process (FSDP2), and whole.

The trained network and its optimizer may be in pieces; what samples and the reference are whole on each process. Here
is the way between the two. Each function is the identity for what is whole, and else asks every process to take part.
"""

import os
from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from cai.errors import InputError, Problem


def refuse_deepspeed() -> None:
    """Raise InputError where accelerate was asked for DeepSpeed.

    Its engine takes its step within the last backward pass, where an update can't be looked at first: one that is not
    finite or too far away could not be refused.
    """
    if _asked("DEEPSPEED"):
        fix = "start with recipes/configs/accelerate/fsdp2.yaml, which cuts the same things into pieces"
        raise InputError(Problem("--use_deepspeed", 0, 0, "PPO does not train under DeepSpeed", fix))


def cuts(accelerator: Accelerator) -> bool:
    """Tell whether what is prepared will be in pieces; raises InputError where that was asked for and can't be."""
    found: bool = accelerator.distributed_type == DistributedType.FSDP
    if _asked("FSDP") and not found:
        problem = "accelerate cuts no model into pieces on a CPU; each process would hold all of it"
        raise InputError(Problem("--use_fsdp", 0, 0, problem, "leave FSDP out here, or start on GPUs"))
    return found


def _asked(what: str) -> bool:
    return os.environ.get(f"ACCELERATE_USE_{what}", "").lower() == "true"


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor put together from its pieces."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


class Gathered:
    """A network's weights and, if it is given, its optimizer's state, as checkpoints read them: whole."""

    @torch.no_grad()
    def __init__(self, network: nn.Module, optimizer: Any = None, *, keep: bool = True) -> None:
        """Put them together in this machine's memory; weights that are whole are those of the network itself.

        A process that does not `keep` what it helps to put together is left with the shapes.
        """
        self._keep = keep
        self._weights = {
            name: nn.Parameter(self._kept(weight), requires_grad=weight.requires_grad)
            if isinstance(weight, DTensor)
            else weight
            for name, weight in network.named_parameters()
        }
        state = {} if optimizer is None else optimizer.state_dict()["state"]
        self._state = {
            index: {name: self._kept(tensor) for name, tensor in moments.items()} for index, moments in state.items()
        }

    def _kept(self, tensor: Tensor) -> Tensor:
        return whole(tensor).to("cpu" if self._keep else "meta") if isinstance(tensor, DTensor) else tensor

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Return the weights."""
        return iter(self._weights.items())

    def state_dict(self) -> dict[str, Any]:
        """Return the optimizer's state."""
        return {"state": self._state}


def cut_moments(optimizer: torch.optim.Optimizer) -> None:
    """Cut an optimizer's moments as its weights are cut, where they have been loaded whole."""
    for weight, moments in optimizer.state.items():
        if isinstance(weight, DTensor):
            for name, tensor in moments.items():
                if tensor.shape == weight.shape and not isinstance(tensor, DTensor):
                    moments[name] = distribute_tensor(tensor, weight.device_mesh, weight.placements)
