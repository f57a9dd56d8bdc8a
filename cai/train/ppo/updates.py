"""From a loss to moved weights, in steps that can be looked at: add a gradient, clip it, apply it or drop it.

accelerate does that itself but for DeepSpeed, whose engine it lets move the weights within the last backward pass. Here
the engine is asked for each part by itself, so that what is not finite or too far away is refused there, too.
"""

import contextlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from accelerate import Accelerator
from accelerate.utils import reduce
from torch import Tensor, nn

from cai.errors import InputError, Problem
from cai.storage import storing
from cai.train.ppo.checkpoint import load_moments
from cai.train.ppo.pieces import cut_moments, let_go, whole, zero_stage

FOLDER = "deepspeed"
"""The place in a checkpoint for what DeepSpeed writes."""

EPSILON = 1e-6
"""As `torch.nn.utils.clip_grad_norm_` adds to a norm."""


class Updates(Protocol):
    """What `Learner` does with a gradient."""

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add a loss's gradient; `last` says that the update's gradient is then complete."""
        ...

    def clip(self, weights: Sequence[nn.Parameter], max_norm: float) -> float:
        """Scale the gradient of some weights to at most a norm; return the norm before, over all processes."""
        ...

    def apply(self) -> None:
        """Move the weights; the gradient is gone then."""
        ...

    def drop(self) -> None:
        """Let the gradient go."""
        ...

    @property
    def optimizer(self) -> Any:
        """What holds the moments for a checkpoint; None where `save` writes them."""
        ...

    def save(self, folder: Path) -> None:
        """Write this process's part of a checkpoint."""
        ...

    def load(self, folder: Path) -> None:
        """Go on with a checkpoint's moments; raises InputError where they were written by another set-up."""
        ...


def prepared(accelerator: Accelerator, policy: nn.Module, optimizer: torch.optim.Optimizer, *, rows: int) -> Any:
    """Return the policy and its optimizer as accelerate wraps them; `rows` are those of a forward pass."""
    if stage := zero_stage(accelerator):
        # Its own bookkeeping wants to know; the gradient is clipped here.
        plan = accelerator.state.deepspeed_plugin.deepspeed_config
        plan |= {"train_micro_batch_size_per_gpu": rows, "train_batch_size": rows * accelerator.num_processes}
        plan |= {"gradient_accumulation_steps": 1, "gradient_clipping": 0.0}
        if stage == 3:
            let_go(policy)
    return accelerator.prepare(policy, optimizer)


def updates_of(accelerator: Accelerator, model: Any, optimizer: Any) -> Updates:
    """Return how a prepared model is updated."""
    if zero_stage(accelerator):
        return _Zero(accelerator, model)
    return _Plain(accelerator, model, optimizer)


class _Plain:
    """One process, DDP and FSDP2."""

    def __init__(self, accelerator: Accelerator, model: Any, optimizer: Any) -> None:
        self._accelerator, self._model, self.optimizer = accelerator, model, optimizer
        # Of the whole process: a training that was interrupted between two micro-batches has left it off.
        accelerator.sync_gradients = True

    def backward(self, loss: Tensor, *, last: bool) -> None:
        with contextlib.nullcontext() if last else self._accelerator.no_sync(self._model):
            self._accelerator.backward(loss)

    def clip(self, weights: Sequence[nn.Parameter], max_norm: float) -> float:
        norm = self._accelerator.clip_grad_norm_(weights, max_norm)
        return 0.0 if norm is None else float(whole(norm))

    def apply(self) -> None:
        self.optimizer.step()
        self.drop()

    def drop(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    def save(self, folder: Path) -> None:
        pass

    def load(self, folder: Path) -> None:
        if (folder / FOLDER).exists():
            raise _other(folder, "under DeepSpeed", "start it so again")
        load_moments(folder, self.optimizer)
        cut_moments(self.optimizer)


class _Zero:
    """DeepSpeed's engine, ZeRO-1 to 3."""

    optimizer = None

    def __init__(self, accelerator: Accelerator, engine: Any) -> None:
        self._engine, self._cut, self._world = engine, zero_stage(accelerator) == 3, accelerator.num_processes

    def backward(self, loss: Tensor, *, last: bool) -> None:
        self._engine.set_gradient_accumulation_boundary(is_boundary=last)
        self._engine.backward(loss, scale_wrt_gas=False)

    def clip(self, weights: Sequence[nn.Parameter], max_norm: float) -> float:
        read, write = self._access()
        square = cast(Tensor, sum(read(weight).double().square().sum() for weight in weights)).float()
        norm = math.sqrt(float(reduce(square, reduction="sum") if self._cut else square))
        if norm > max_norm and math.isfinite(norm):
            for weight in weights:
                write(weight, read(weight) * (max_norm / (norm + EPSILON)))
        return norm

    def apply(self) -> None:
        self._engine.step()

    def drop(self) -> None:
        """Let the engine refuse the step itself: only so does it clear what it has counted and kept."""
        read, write = self._access()
        weight = next(one for one in self._engine.module.parameters() if one.requires_grad)
        write(weight, torch.full_like(read(weight), math.inf))
        self._engine.step()

    def save(self, folder: Path) -> None:
        with storing(folder):
            self._engine.save_checkpoint(folder, tag=FOLDER)

    def load(self, folder: Path) -> None:
        parts = len(list((folder / FOLDER).glob("*_optim_states.pt")))
        if not parts:
            raise _other(folder, "without DeepSpeed", "start it so again")
        if parts != self._world:
            raise _other(folder, f"under DeepSpeed by {parts} processes", "start as many")
        self._engine.load_checkpoint(folder, tag=FOLDER)

    def _access(self) -> tuple[Any, Any]:
        """Return what reads and writes a weight's gradient: this process's piece, or where weights are whole all."""
        from deepspeed import utils

        if self._cut:
            return utils.safe_get_local_grad, utils.safe_set_local_grad
        return utils.safe_get_full_grad, utils.safe_set_full_grad


def _other(folder: Path, how: str, fix: str) -> InputError:
    return InputError(Problem(str(folder), 0, 0, f"it was written {how}", f"{fix}, or remove the folder to start anew"))
