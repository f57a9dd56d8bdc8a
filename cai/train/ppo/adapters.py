"""Low-rank adapters over one frozen base: the policy's, and where `value_adapter` asks for it one to read values by.

With both, a loss of the values moves no weight that the policy answers by; it costs a pass of its own.
"""

import contextlib
from collections.abc import Iterator
from typing import cast

from torch import nn
from transformers import PreTrainedModel

from cai.train.ppo.config import PPOConfig

POLICY, VALUE = "default", "value"
"""The adapters' names; PEFT's own for the one that is saved."""


def with_adapter(causal: PreTrainedModel, config: PPOConfig, *, value: bool = False) -> nn.Module:
    """Put a trainable adapter on a model, whose own weights are then frozen; with `value` a second one of its shape."""
    from peft import LoraConfig, get_peft_model

    assert config.lora is not None
    settings = LoraConfig(
        r=config.lora.r,
        lora_alpha=config.lora.alpha,
        lora_dropout=0.0,
        target_modules=config.lora.target_modules,
        task_type="CAUSAL_LM",
    )
    adapted = get_peft_model(causal, settings)
    if value:
        adapted.add_adapter(VALUE, settings)
        for name, weight in adapted.named_parameters():
            if is_values(name):
                weight.requires_grad_(True)
    return cast(nn.Module, adapted)


def is_values(name: str) -> bool:
    """Tell whether a weight of this name is of the values' adapter."""
    return ".lora_" in name and f".{VALUE}." in name


@contextlib.contextmanager
def read_by(network: nn.Module, adapter: str | None) -> Iterator[None]:
    """Have a network read by one of its adapters for a while, or by its base alone.

    PEFT's own `set_adapter` and `disable_adapter` also freeze adapters, whose gradient may be on its way, and leave the
    second one frozen.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in network.modules() if isinstance(module, BaseTunerLayer)]
    before = [(layer._active_adapter, layer._disable_adapters) for layer in layers]
    for layer in layers:
        if adapter is not None:
            layer._active_adapter = [adapter]
        layer._disable_adapters = adapter is None
    try:
        yield
    finally:
        for layer, (active, off) in zip(layers, before, strict=True):
            layer._active_adapter, layer._disable_adapters = active, off
