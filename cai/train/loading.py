"""Models to train: in float32 or in 4 bits, with an adapter or without, switched to packed attention."""

import logging
from collections.abc import Mapping, Sequence
from importlib import util
from typing import Any

import torch
from torch import Tensor
from transformers.utils import is_liger_kernel_available

from cai.engines.loading import readable, whole
from cai.errors import InputError, MissingDependencyError, Problem
from cai.judges.heads import heads_of, labels_of
from cai.processes import loads_whole
from cai.train.common import wants_bf16
from cai.train.configs import EpochsConfig
from cai.train.readout import use_packing

HEADS = ["lm_head", "score"]
"""Layers that stay in full precision."""

SCORE = "score.weight"
"""What a language model lacks as a preference model, and is drawn for it."""


def check_extras(config: EpochsConfig) -> None:
    """Raise MissingDependencyError or InputError when the config asks for kernels that are not here."""
    if (config.quantization != "none" or config.optimizer != "adamw") and util.find_spec("bitsandbytes") is None:
        raise MissingDependencyError("bitsandbytes", "quantization")
    if config.liger and not (is_liger_kernel_available() and torch.cuda.is_available()):
        fix = "pip install liger-kernel on a machine with a GPU, or leave it out"
        raise InputError(Problem("liger", 0, 0, "Liger kernels are not available here", fix))


def load_packed(auto: Any, path: str, config: EpochsConfig, device: torch.device, **options: Any) -> Any:
    """Return a model of an auto class on its device, in float32 or quantised, switched to packed attention.

    Raises InputError for a model that can't be trained on packed rows, EngineError for files that are not all of one.
    """
    is_quantized = config.quantization != "none"
    options |= _four_bits(config, device) if is_quantized else {}
    with loads_whole(), readable(config.model):
        loaded = auto.from_pretrained(path, dtype="float32", output_loading_info=True, **options)
    model = whole(config.model, loaded, but=[SCORE])
    return use_packing(_prepared(model) if is_quantized else model.to(device), path)


def _four_bits(config: EpochsConfig, device: torch.device) -> dict[str, Any]:
    """Return what `from_pretrained` is told to load linear layers in 4 bits."""
    from transformers import BitsAndBytesConfig

    quantized = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",  # Dettmers et al. 2023, arXiv 2305.14314, section 3
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if wants_bf16(config.precision) else torch.float32,
        llm_int8_skip_modules=HEADS,
    )
    return {"quantization_config": quantized, "device_map": {"": device}}


def _prepared(model: Any) -> Any:
    from peft import prepare_model_for_kbit_training

    # bitsandbytes tells of every cast, once per layer and step.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    prepare: Any = prepare_model_for_kbit_training
    model.train()  # as `evaluating` wants it
    return prepare(model, use_gradient_checkpointing=False)  # Trainer sees to that


def with_adapter(model: Any, config: EpochsConfig, *, task: str, keep: Sequence[str] = ()) -> Any:
    """Return the model with the config's adapter on it, or as it is; `keep` names layers trained whole."""
    if config.lora is None:
        return model
    from peft import LoraConfig, get_peft_model
    from peft.tuners.tuners_utils import BaseTunerLayer

    lora = config.lora
    settings = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        task_type=task,
        modules_to_save=list(keep) or None,
    )
    adapted = get_peft_model(model, settings)
    if isinstance(model.get_output_embeddings(), BaseTunerLayer):
        where = Problem("lora.target_modules", 0, 0, "the output layer can't have an adapter", "name other layers")
        raise InputError(where)
    return adapted


def adapted_anew(model: Any, weights: Mapping[str, Tensor]) -> Any:
    """Return the model that was adapted, loaded anew in float32, with the trained adapter on it.

    `weights` are the whole model's, as `accelerator.get_state_dict` gathers them. Anew, because the model at hand may
    be in pieces, or in 4 bits: to merge the adapter into what those have left would lose precision for nothing.
    """
    from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    base = model.get_base_model()
    options = labels_of(heads_of(base.config)) if hasattr(base, "score") else {}
    with loads_whole():
        unadapted = type(base).from_pretrained(base.config._name_or_path, dtype="float32", **options)
    unadapted.config.pad_token_id = base.config.pad_token_id
    fresh = get_peft_model(unadapted, model.peft_config["default"])
    adapter = get_peft_model_state_dict(model, state_dict=dict(weights))
    set_peft_model_state_dict(fresh, {name: value.float().cpu() for name, value in adapter.items()})
    return fresh
