"""Weights that are in pieces, one on each process (FSDP2, DeepSpeed's ZeRO-3), and whole.

The trained network and its optimizer may be in pieces; what samples and the reference are whole on each process. Here
is the way between the two. Each function is the identity for what is whole, and else asks every process to take part.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from cai.errors import InputError, Problem


def zero_stage(accelerator: Accelerator) -> int:
    """Return DeepSpeed's stage, 0 without DeepSpeed."""
    plugin = accelerator.state.deepspeed_plugin
    return 0 if plugin is None else int(plugin.zero_stage)


def cuts(accelerator: Accelerator) -> bool:
    """Tell whether what is prepared will be in pieces; raises InputError where that was asked for and can't be."""
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        return zero_stage(accelerator) == 3
    found: bool = accelerator.distributed_type == DistributedType.FSDP
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true" and not found:
        problem = "accelerate cuts no model into pieces on a CPU; each process would hold all of it"
        raise InputError(Problem("--use_fsdp", 0, 0, problem, "leave FSDP out here, or start on GPUs"))
    return found


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor put together from its pieces."""
    if isinstance(tensor, DTensor):
        return tensor.full_tensor()
    if not hasattr(tensor, "ds_id"):
        return tensor
    with together([tensor]):
        return tensor.detach().clone()


def together(tensors: Iterable[Tensor]) -> contextlib.AbstractContextManager[None]:
    """Keep DeepSpeed's pieces of some weights together for a while."""
    cut = [tensor for tensor in tensors if hasattr(tensor, "ds_id")]
    if not cut:
        return contextlib.nullcontext()
    from deepspeed import zero

    found: contextlib.AbstractContextManager[None] = zero.GatheredParameters(cut)
    return found


def is_cut(tensor: Tensor) -> bool:
    """Tell whether a tensor is in pieces."""
    return isinstance(tensor, DTensor) or hasattr(tensor, "ds_id")


def let_go(network: nn.Module) -> None:
    """Give a network frozen weights of its own: DeepSpeed empties those that it cuts, and copies share them."""
    fresh: dict[nn.Parameter, nn.Parameter] = {}
    for module in network.modules():
        for name, weight in module._parameters.items():
            if weight is not None and not weight.requires_grad:
                module._parameters[name] = fresh.setdefault(
                    weight, nn.Parameter(weight.detach().clone(), requires_grad=False)
                )


class Gathered:
    """A network's weights and, if it is given, its optimizer's state, as checkpoints read them: whole."""

    @torch.no_grad()
    def __init__(self, network: nn.Module, optimizer: Any = None, *, keep: bool = True) -> None:
        """Put them together in this machine's memory; weights that are whole are those of the network itself.

        A process that does not `keep` what it helps to put together is left with the shapes.
        """
        self._keep = keep
        self._weights = {
            name: nn.Parameter(self._kept(weight), requires_grad=weight.requires_grad) if is_cut(weight) else weight
            for name, weight in network.named_parameters()
        }
        state = {} if optimizer is None else optimizer.state_dict()["state"]
        self._state = {
            index: {name: self._kept(tensor) for name, tensor in moments.items()} for index, moments in state.items()
        }

    def _kept(self, tensor: Tensor) -> Tensor:
        return whole(tensor).to("cpu" if self._keep else "meta") if is_cut(tensor) else tensor

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
