"""The state to go on from: whole, or not there.

A checkpoint (`cai.train.checkpoints`) holds the trained weights with the value head, the optimizer's moments, the
reference where it follows the policy, the answers that were drawn ahead for the next step, and ``state.json``: step, KL
coefficient, moments of the scores, settings, prompts.

The position in the data and all random numbers are functions of (seed, step), so the step says both.

Weights in pieces come gathered (`cai.train.ppo.pieces`).
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cai.errors import InputError, Problem
from cai.storage import atomic_write_json, storing
from cai.train.checkpoints import complete
from cai.train.ppo.batch import Sample, Seen
from cai.train.ppo.config import PPOConfig
from cai.train.same_run import refuse_changed, settings_of
from cai.types import Message

STATE = "state.json"
WEIGHTS, MOMENTS, REFERENCE = "weights.safetensors", "optimizer.safetensors", "reference.safetensors"
AHEAD = "ahead.json"
BEST = "best.json"

FREE = {
    "out",
    "prompts",
    "eval_prompts",
    "steps",
    "save_every",
    "report_to",
    "samples_every",
    "samples_shown",
    "micro_batch",
}
"""Settings that may change between two starts of one run."""


class Progressed(NamedTuple):
    """How far a run has come."""

    step: int
    kl_coefficient: float
    seen: Seen = Seen()
    """Moments of the scores."""


def place(folder: Path, step: int) -> Path:
    """Return where a step's checkpoint goes."""
    return folder / f"checkpoint-{step}"


def save(
    folder: Path,
    progressed: Progressed,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    about: Mapping[str, Any],
    reference: nn.Module | None = None,
    ahead: Sequence[Sample] | None = None,
) -> None:
    """Write a checkpoint, then remove the older ones. For the main process only.

    Without an optimizer, its moments lie in the folder already.
    """
    path = place(folder, progressed.step)
    with storing(path):
        path.mkdir(parents=True, exist_ok=optimizer is None)
        _write(path / WEIGHTS, dict(_trained(model)))
        if optimizer is not None:
            _write(path / MOMENTS, _moments(optimizer))
        if reference is not None:
            _write(path / REFERENCE, dict(reference.named_parameters()))
        if ahead is not None:
            atomic_write_json(path / AHEAD, [asdict(sample) for sample in ahead])
        atomic_write_json(path / STATE, {**progressed._asdict(), **about})
    complete(path)


def save_best(folder: Path, model: nn.Module, *, step: int, score: float) -> None:
    """Keep the trained weights of a step, in the place of those before. For the main process only."""
    path = place(folder, step)
    with storing(path):
        shutil.rmtree(path, ignore_errors=True)  # a step that is taken again
        path.mkdir(parents=True)
        _write(path / WEIGHTS, dict(_trained(model)))
        atomic_write_json(path / BEST, {"step": step, "score": score})
    complete(path, keep=1)


def read_best(path: Path) -> dict[str, float]:
    """Return the step and the score of a checkpoint of `save_best`."""
    found: dict[str, float] = json.loads((path / BEST).read_text("utf-8"))
    return found


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    save_file({name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}, path)


def _trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Return the trained weights; tied ones come once."""
    return [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]


def _moments(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": tensor for index, moments in state.items() for name, tensor in moments.items()}


def load_weights(path: Path, model: nn.Module) -> None:
    """Put a checkpoint's weights into the model, in place."""
    saved = load_file(path / WEIGHTS)
    trained = dict(_trained(model))
    if saved.keys() != trained.keys():
        problem = "the checkpoint has other weights than the model"
        raise InputError(Problem(str(path), 0, 0, problem, "remove the folder to start anew"))
    with torch.no_grad():
        for name, weight in trained.items():
            weight.copy_(saved[name])


def load_reference(path: Path, reference: nn.Module) -> None:
    """Put a checkpoint's reference into the network, in place."""
    saved = load_file(path / REFERENCE)
    with torch.no_grad():
        for name, weight in reference.named_parameters():
            weight.copy_(saved[name])


def load_moments(path: Path, optimizer: torch.optim.Optimizer) -> None:
    """Put a checkpoint's moments into the optimizer."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in load_file(path / MOMENTS).items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def read_ahead(path: Path) -> list[Sample] | None:
    """Return the answers, of all processes, that were drawn ahead for the step after a checkpoint; None if none were.

    Numbers come back to the last bit.
    """
    if not (path / AHEAD).exists():
        return None
    return [
        Sample(
            **{
                **row,
                "prompt": tuple(Message(*message) for message in row["prompt"]),
                **{name: tuple(row[name]) for name in ("prompt_ids", "answer_ids", "sampled_logprobs")},
            }
        )
        for row in json.loads((path / AHEAD).read_text("utf-8"))
    ]


def read_state(path: Path, config: PPOConfig, *, prompts: str) -> Progressed:
    """Return how far a checkpoint has come; raises InputError when it belongs to a run with other settings."""
    state = json.loads((path / STATE).read_text("utf-8"))
    others = [] if state["prompts"] == prompts else ["the prompts' content"]
    refuse_changed(path, state["settings"], config, free=FREE, others=others)
    return Progressed(step=state["step"], kl_coefficient=state["kl_coefficient"], seen=Seen(*state["seen"]))


def about(config: PPOConfig, *, prompts: str) -> dict[str, Any]:
    """Return what a checkpoint says of the run that it belongs to; `prompts` is a digest of their keys."""
    return {"settings": settings_of(config, free=FREE), "prompts": prompts}
