"""A training that ends when a held-out figure stops rising, and keeps the weights that were best."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from cai.processes import rank
from cai.storage import atomic_write_json, storing


class StopOnHeldOut(TrainerCallback):
    """Ends a training when a held-out figure stops rising, and puts the best weights back.

    `measure` is called with the model every `every` steps, in every process, and must give the same in each; higher is
    better. After `patience` measurements without a new best by more than `least` the training ends. The trained weights
    of the best measurement are kept in the memory of the CPU, and in checkpoints: a training that is resumed goes on
    comparing. It has to come before the callback that marks a checkpoint as whole.
    """

    def __init__(
        self,
        measure: Callable[[Any], float],
        *,
        every: int = 10,
        patience: int = 3,
        least: float = 0.0,
        checkpoint: Path | None = None,
    ) -> None:
        """Go on from a checkpoint, if one is named. Raises ValueError for steps or a patience below 1."""
        if every < 1 or patience < 1:
            raise ValueError(f"every is {every} and patience {patience}; both must be at least 1")
        self._measure, self._every, self._patience, self._least = measure, every, patience, least
        self.measured: list[tuple[int, float]] = []
        """(step, figure), in order."""
        self.best: tuple[int, float] | None = None
        self._weights: dict[str, Tensor] = {}
        figures, weights = _files(checkpoint) if checkpoint else (Path(), Path())
        if checkpoint and figures.is_file():
            self.measured = [(int(step), float(value)) for step, value in json.loads(figures.read_text())]
            for each in self.measured:
                self._compare(*each)
            self._weights = load_file(weights) if weights.is_file() else {}

    def _compare(self, step: int, value: float) -> bool:
        """Tell whether a figure is the best so far, by enough, and note it."""
        if self.best is None or value > self.best[1] + self._least:
            self.best = (step, value)
            return True
        return False

    @property
    def is_over(self) -> bool:
        """Whether patience is at its end."""
        return self.best is not None and sum(step > self.best[0] for step, _ in self.measured) >= self._patience

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        """Measure, and end the training when it is due."""
        if state.global_step % self._every == 0 and not self.is_over:
            value = self._measure(model)
            self.measured.append((state.global_step, value))
            if self._compare(state.global_step, value):
                self._weights = {
                    name: _piece(weight).detach().contiguous().to("cpu", copy=True)
                    for name, weight in model.named_parameters()
                    if weight.requires_grad
                }
        if self.is_over:
            control.should_training_stop = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Put the figures and this process's part of the best weights into the checkpoint just written."""
        figures, weights = _files(Path(str(args.output_dir)) / f"checkpoint-{state.global_step}")
        with storing(figures):
            if self._weights:
                save_file(self._weights, weights)
            atomic_write_json(figures, self.measured)

    @torch.no_grad()
    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        """Put the best weights back."""
        for name, weight in model.named_parameters():
            if name in self._weights:
                _piece(weight).copy_(self._weights[name])


def _piece(weight: Tensor) -> Tensor:
    """Return the piece of a sharded weight that this process has; of another the whole."""
    return weight.to_local() if isinstance(weight, DTensor) else weight


def _files(checkpoint: Path) -> tuple[Path, Path]:
    """Return where this process keeps the figures and the best weights."""
    return checkpoint / f"held_out_{rank()}.json", checkpoint / f"held_out_{rank()}.safetensors"
