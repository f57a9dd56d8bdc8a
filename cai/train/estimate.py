"""How much memory a training takes and how long, said before the first step.

Memory is what stays (weights, gradients, optimizer: Rajbhandari et al. 2020, arXiv 1910.02054, section 3.1) and what
the longest micro-batch holds, which `cai.train.dry_run` counts. Time is that of a roofline (Williams et al. 2009): the
operations of matrix products by the rate of such products here, and the bytes that all other operations move by the
rate of such operations here; both rates are measured for a moment.
"""

import functools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import psutil
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from cai.processes import world
from cai.progress import clock
from cai.train.checks import Finding
from cai.train.common import wants_bf16
from cai.train.configs import REFERENCE_FREE, DPOConfig, EpochsConfig, RewardConfig
from cai.train.dry_run import Work, on_meta, work_of
from cai.train.loading import HEADS, with_adapter
from cai.train.packing import Row, pack_ends, pack_tokens
from cai.train.rates import measured_rates
from cai.train.readout import answer_logprobs, answer_scores

NF4_BYTES = (4 + 0.127) / 8
"""Per weight, with doubly quantised constants (Dettmers et al. 2023, arXiv 2305.14314, section 3)."""

ADAM_BYTES = {"adamw": 8.0, "adamw_8bit": 2.03, "paged_adamw_8bit": 2.03}
"""Per trained weight: two moments. In 8 bits with a float32 scale per 256 values (Dettmers et al. 2022)."""

STEP_BYTES = 44.0
"""That an optimizer's step moves per trained weight: AdamW reads four tensors of float32 and writes three, the norm of
the gradients, their scaling and the look at their sum read three more and write one."""


@dataclass(frozen=True)
class Estimate:
    """What a training will take, per process; bytes and seconds."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    """With temporaries; of the longest micro-batch."""
    around: float
    """What the process had before: libraries and rows. 0 on a GPU."""
    copies: float
    """Of all weights in float32: the one that an adapter is merged into at the end, and the file that 4-bit weights are
    made of, which stays mapped. 0 on a GPU: they are in the machine's memory."""
    free: float
    """On the device, when it was asked."""
    seconds: float

    @property
    def peak(self) -> float:
        """Most bytes at once."""
        return self.around + self.weights + self.gradients + self.optimizer + self.activations + self.copies

    def __str__(self) -> str:
        """Return it for people."""
        where = " per process" if world() > 1 else ""
        took = clock(max(1.0, self.seconds))
        return f"about {took} and {size(self.peak)}{where}; {size(self.around + self.free)} free"

    def to_json(self) -> dict[str, float]:
        """Return its parts, and `peak`."""
        return {**asdict(self), "peak": self.peak}


@dataclass(frozen=True)
class Weights:
    """How many weights a model has, exactly."""

    all: int
    trained: int
    embedded: int
    """Trained ones of embeddings, whose optimizer state stays in 32 bits."""
    quantizable: int
    """In linear layers, the heads aside."""


def size(count: float) -> str:
    """Return bytes for people.

    >>> size(3.14e9), size(2.5e7), size(1.2e11)
    ('3.1 GB', '25 MB', '120 GB')
    """
    if count < 1e9:
        return f"{count / 1e6:.0f} MB"
    return f"{count / 1e9:.1f} GB" if count < 1e11 else f"{count / 1e9:.0f} GB"


SHORT = 1e11
"""Floating-point operations of a training that nothing is said about: seconds on any machine."""


def is_short(config: EpochsConfig, path: str, rows: Sequence[Row], order: Sequence[int]) -> bool:
    """Tell whether a training is over before an estimate of it would help: by six operations per weight and token."""
    count, _ = _counted(config, path)
    return 6.0 * count.all * sum(_length(rows[row]) for row in order) < SHORT


def estimate(
    config: EpochsConfig, path: str, rows: Sequence[Row], order: Sequence[int], *, micro: int, device: torch.device
) -> Estimate:
    """Return what a training on `rows`, in `order`, will take in a process with `micro` of them in memory at once.

    Loads the model's config and none of its weights.
    """
    count, model_config = _counted(config, path)
    scores, make = isinstance(config, RewardConfig), functools.partial(_make, config)
    batches = [order[start : start + micro] for start in range(0, len(order), micro)]
    tokens = [sum(_length(rows[row]) for row in batch) for batch in batches]
    mean = sum(tokens) / len(tokens)
    bf16 = wants_bf16(config.precision)
    again = config.batch_size // world() > micro

    def work(batch: Sequence[int]) -> Work:
        given = (pack_ends if scores else pack_tokens)([rows[row] for row in batch])
        read = answer_scores if scores else answer_logprobs
        return work_of(make, model_config, given, read, bf16=bf16, device=device, again=again)

    most = tokens.index(max(tokens))
    usual = min(range(len(tokens)), key=lambda place: abs(tokens[place] - mean))
    longest = work(batches[most])
    typical = longest if usual == most else work(batches[usual])
    rates = measured_rates(model_config, round(mean), round(mean / micro), bf16=bf16, device=device)
    once = typical.flops / rates.products + typical.attention / rates.attention + typical.moved / rates.others
    forwards = _extra_forwards(config, len({*order}) / len(order))
    passes = len(batches) / world() * mean / tokens[usual] * (1 + forwards * typical.forward_flops / typical.flops)
    steps = len(order) / min(config.batch_size, len(order))
    seconds = passes * once + steps * STEP_BYTES * count.trained / rates.others
    return _of_parts(config, count, longest, seconds, device)


def _counted(config: EpochsConfig, path: str) -> tuple[Weights, Any]:
    """Return how many weights a model will have when it is trained, and its config."""
    model_config = AutoConfig.from_pretrained(path)
    if isinstance(config, RewardConfig):
        model_config.num_labels = len(config.heads) or 1
    return count_weights(on_meta(functools.partial(_make, config), model_config)), model_config


def _of_parts(config: EpochsConfig, count: Weights, longest: Work, seconds: float, device: torch.device) -> Estimate:
    on_gpu = device.type == "cuda"
    held = weight_bytes(config, count)
    copies = 2 if isinstance(config, DPOConfig) and config.reference_mode == "copy" and _compares(config) else 1
    gradients = 4.0 * count.trained
    return Estimate(
        weights=held * copies,
        gradients=gradients,
        optimizer=optimizer_bytes(config, count),
        activations=max(0.0, longest.held - gradients),
        around=0.0 if on_gpu else float(psutil.Process().memory_info().rss),
        copies=0.0 if on_gpu else 4.0 * count.all * ((config.lora is not None) + (config.quantization == "4bit")),
        free=float(torch.cuda.mem_get_info(device)[0] if on_gpu else psutil.virtual_memory().available),
        seconds=seconds,
    )


def weight_bytes(config: EpochsConfig, count: Weights) -> float:
    """Return the bytes of a model's weights as it is trained: float32, or linear layers in 4 bits."""
    in_4bit = count.quantizable if config.quantization == "4bit" else 0
    return 4.0 * (count.all - in_4bit) + NF4_BYTES * in_4bit


def optimizer_bytes(config: EpochsConfig, count: Weights) -> float:
    """Return the bytes of the optimizer's state."""
    in_32bit = count.embedded if config.optimizer != "adamw" else 0
    return ADAM_BYTES[config.optimizer] * (count.trained - in_32bit) + ADAM_BYTES["adamw"] * in_32bit


def _compares(config: DPOConfig) -> bool:
    """Tell whether a loss compares with a reference."""
    return config.loss not in REFERENCE_FREE


def _extra_forwards(config: EpochsConfig, once: float) -> float:
    """Return the forward passes per micro-batch beside the one that is trained on; `once`: of each row, one in all."""
    if isinstance(config, DPOConfig) and _compares(config):
        return once if config.reference_mode == "cached" else 1.0
    if isinstance(config, RewardConfig) and not config.eval_data:
        return once * config.eval_fraction / (1 - config.eval_fraction)
    return 0.0


def _make(config: EpochsConfig, model_config: Any) -> Any:
    """Return the model as it will be trained, to be made on the meta device."""
    scores = isinstance(config, RewardConfig)
    auto: Any = AutoModelForSequenceClassification if scores else AutoModelForCausalLM
    model = auto.from_config(model_config, dtype=torch.float32)
    if config.quantization == "4bit" and wants_bf16(config.precision):
        for module in _linear(model):
            module.weight.data = module.weight.data.bfloat16()  # as it comes out of the 4 bits: no cast is kept
    if config.lora is not None:
        task, keep = ("SEQ_CLS", ["score"]) if scores else ("CAUSAL_LM", [])
        model = with_adapter(model, config, task=task, keep=keep)
    if config.gradient_checkpointing:
        model.activation_checkpointing_enable()
    return model


def _linear(model: nn.Module) -> list[nn.Linear]:
    """Return the linear layers that quantisation takes."""
    return [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not any(part in HEADS or "lora_" in part for part in name.split("."))
    ]


def count_weights(model: nn.Module) -> Weights:
    """Count a model's weights, shared ones once."""
    trained = {id(weight): weight.numel() for weight in model.parameters() if weight.requires_grad}
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    return Weights(
        all=sum(weight.numel() for weight in model.parameters()),
        trained=sum(trained.values()),
        embedded=sum(number for key, number in trained.items() if key in embeddings),
        quantizable=sum(module.weight.numel() for module in _linear(model)),
    )


def _length(row: Row) -> int:
    return len(row[0]) + sum(map(len, row[1]))


def will_it_fit(found: Estimate) -> Finding | None:
    """Return a warning when the memory that is free won't do."""
    if found.peak <= found.around + found.free:
        return None
    problem = f"training takes about {size(found.peak)}, and {size(found.around + found.free)} are free"
    fix = "lower micro_batch or max_length, or set gradient_checkpointing, lora, optimizer: adamw_8bit"
    return Finding("memory", "warning", 0, 0, problem, fix, ())
