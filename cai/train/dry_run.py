"""One micro-batch of a training without a number in it: what it computes, moves and holds, counted op by op.

The model is made of fake tensors, which have a shape, a type and a device and no memory (those that `torch.compile`
traces with), and the trainers' own code runs on it, forward and backward: adapters, frozen weights, autocast, gradient
checkpointing and packed attention count as what they are, for any architecture. Two small models stand for a deep one:
what a second layer adds, every further one does. Layers unlike the second (some mixtures of experts begin with a dense
one) are counted like it. Work inside a kernel (its scratch memory) is not seen.
"""

import contextlib
import copy
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import astuple, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from torch.utils.hooks import RemovableHandle

from cai.judges.preference_model import head_of as score_head_of
from cai.processes import loads_whole
from cai.train import packed_attention

CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: (0, 2),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (1, 5),
}
"""Attention that torch's counter has no formula for: where its query stands, and how many products it makes."""


@dataclass(frozen=True)
class Work:
    """What a micro-batch takes."""

    flops: float
    """Of matrix products; a product and a sum are two."""
    attention: float
    """Floating-point operations of attention, as if it were not causal."""
    moved: float
    """Bytes that all other operations read and write."""
    forward_flops: float
    """The part of `flops` that the forward pass has."""
    deepest: float
    """Most bytes held, beside weights and optimizer, until the backward pass leaves the head: all activations."""
    later: float
    """Most bytes held after that, when gradients are more than the activations that are left."""

    @property
    def held(self) -> float:
        """Most bytes held at once beside weights and optimizer: activations, gradients, temporaries."""
        return max(self.deepest, self.later)

    def further(self, second: "Work", layers: int) -> "Work":
        """Return the work of a model of so many layers, from that of one layer (self) and of two."""
        pairs = zip(astuple(self), astuple(second), strict=True)
        return Work(*(one + (two - one) * (layers - 1) for one, two in pairs))


class Meter(TorchDispatchMode):
    """Counts the work of what runs under it; storages of `known` tensors were there before."""

    def __init__(self, known: Any) -> None:
        """Start at nothing."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = self.attention = self.moved = 0.0
        self.held = self.deepest = self.later = 0
        self._is_later = False
        self._seen = {tensor.untyped_storage()._cdata for tensor in tree_leaves(known) if isinstance(tensor, Tensor)}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count it."""
        out = func(*args, **(kwargs or {}))
        made = [tensor for tensor in tree_leaves(out) if isinstance(tensor, Tensor)]
        flops = flops_of(func, args, kwargs or {}, out)
        if "attention" in func.name():
            self.attention += flops
        else:
            self.flops += flops
        if not flops and not func.is_view and made:
            read = [tensor for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)]
            self.moved += sum(_size(tensor) for tensor in [*read, *made])
        for tensor in made:
            self._hold(tensor.untyped_storage())
        return out

    def _hold(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._seen:
            self._seen.add(key)
            self.held += size
            if self._is_later:
                self.later = max(self.later, self.held)
            else:
                self.deepest = max(self.deepest, self.held)
            weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.held -= size

    def begin(self, head: nn.Module) -> RemovableHandle:
        """Begin a micro-batch of a model with this head, whose way back through the layers is what comes later."""
        self.deepest, self.later, self._is_later = self.held, 0, False

        def turned(_: Tensor) -> None:
            self.later, self._is_later = self.held, True

        return head.register_forward_pre_hook(lambda _, given: given[0].register_hook(turned) and None)


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def flops_of(func: Any, args: Any, kwargs: Any, out: Any) -> float:
    """Return the floating-point operations of a matrix product or an attention; 0 for all else."""
    packet = func.overloadpacket
    if packet is torch.ops.aten.addmm_:
        packet = torch.ops.aten.addmm
    if packet in CPU_ATTENTION:
        place, products = CPU_ATTENTION[packet]
        return float(2 * products * args[place].numel() * args[place + 1].shape[-2])
    formula = flop_registry.get(packet)
    return float(formula(*args, **kwargs, out_val=out)) if formula else 0.0


def work_of(
    make: Callable[[Any], Any],
    config: Any,
    batch: Mapping[str, Any],
    read: Callable[[Any, Mapping[str, Any]], Tensor],
    *,
    bf16: bool,
    device: torch.device,
    again: bool,
) -> Work:
    """Return the work of a micro-batch, forward and backward.

    `make` builds the model of a config, `read` gives what the loss is of, as in `cai.train.readout`; `again` counts a
    second micro-batch of the same step, which meets the gradients of the first.
    """

    def run(layers: int) -> Work:
        model = on_meta(make, with_layers(config, layers)).train()
        model.set_attn_implementation(packed_attention.NAME)
        fake = FakeTensorMode()
        with _own_masks(), fake, device:
            _fill(model)
            given = {name: _faked(fake, value, device) for name, value in batch.items()}
            meter = Meter([*model.parameters(), *model.buffers(), *given.values()])
            with meter:
                for _ in range(1 + again):
                    start, hook = meter.flops, meter.begin(head_of(model))
                    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
                        found = read(model, given).sum()
                    forward = meter.flops - start
                    found.backward()
                    hook.remove()
                    del found
        each = 1 + again
        return Work(meter.flops / each, meter.attention / each, meter.moved / each, forward, meter.deepest, meter.later)

    one, layers = run(1), int(config.get_text_config().num_hidden_layers)
    return one.further(run(2), layers) if layers > 1 else one


@contextlib.contextmanager
def _own_masks() -> Iterator[None]:
    """Let the masks that attention keeps be fake ones for a while."""
    packed_attention.forget_masks()
    try:
        yield
    finally:
        packed_attention.forget_masks()


def with_layers(config: Any, count: int) -> Any:
    """Return a config of a model with so many layers, the first ones."""
    made = copy.deepcopy(config)
    text = made.get_text_config()
    kinds = getattr(text, "layer_types", None)
    if kinds:
        text.layer_types = kinds[:count]
    text.num_hidden_layers = count
    return made


def head_of(model: Any) -> nn.Module:
    """Return the layer that a model ends with: the one of the vocabulary, or of the score."""
    head: nn.Module = model.get_output_embeddings() or score_head_of(model)
    return head


def on_meta(make: Callable[[Any], Any], config: Any) -> Any:
    """Return the model that a function makes of a config, without memory; no random number is drawn."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"), loads_whole():
        return make(config)


def _fill(model: nn.Module) -> None:
    """Put fake tensors in the place of a meta model's weights and buffers; shared ones stay shared."""
    made: dict[Tensor, nn.Parameter] = {}
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                fresh = nn.Parameter(torch.empty(weight.shape, dtype=weight.dtype), requires_grad=weight.requires_grad)
                module._parameters[name] = made.setdefault(weight, fresh)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


def _faked(fake: FakeTensorMode, value: Any, device: torch.device) -> Any:
    return fake.from_tensor(value).to(device) if isinstance(value, Tensor) else value
