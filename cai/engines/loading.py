"""A model for inference: where its weights go, in which type, quantised or with an adapter."""

import contextlib
import logging
from collections.abc import Collection, Iterator
from importlib import util
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from cai.errors import EngineError, MissingDependencyError

Dtype = Literal["auto", "float32", "bfloat16"]
Quantization = Literal["none", "8bit", "4bit"]


def load_model(
    model: str, *, dtype: Dtype, quantization: Quantization, device: str, adapter: str | None
) -> tuple[torch.nn.Module, PreTrainedTokenizerBase, str]:
    """Return a model that is ready to answer, its tokenizer, and the revision that tells it from any other.

    Raises InputError for a name that is neither a folder nor a hub id, EngineError for weights that can't be loaded.
    """
    from cai.engines.embedded import model_digest, resolve_model

    path = resolve_model(model)
    place = pick_device(device)
    kind = pick_dtype(dtype, place)
    with readable(model):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=kind,
            trust_remote_code=False,
            output_loading_info=True,
            **quantized(quantization, kind, place),
        )
        tokenizer = read_tokenizer(model)
    network = whole(model, loaded)
    revision = model_digest(path) + ("" if quantization == "none" else f"+{quantization}")
    if adapter is not None:
        network = _with_adapter(network, adapter)
        revision += "+" + model_digest(adapter)
    if quantization == "none":
        network.to(place)
    return network.eval().requires_grad_(False), tokenizer, revision


@contextlib.contextmanager
def readable(model: str, *, part: str = "") -> Iterator[None]:
    """Raise EngineError, with the name that a model was given by, where its files can't be read."""
    try:
        yield
    except (OSError, ValueError, SafetensorError) as error:
        said = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(" .:")
        fix = "name a folder that has all of a model and its tokenizer, or a hub id"
        raise EngineError(f"{model}: {part}cannot be loaded: {said}; {fix}") from error


def read_tokenizer(model: str, **options: Any) -> PreTrainedTokenizerBase:
    """Return a model's tokenizer; raises as `load_model` does."""
    from cai.engines.embedded import resolve_model

    path = resolve_model(model)
    with readable(model, part="its tokenizer "):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path, trust_remote_code=False, **options)
    return tokenizer


def whole(model: str, loaded: Any, *, but: Collection[str] = ()) -> Any:
    """Return the network of `from_pretrained(…, output_loading_info=True)`.

    Raises EngineError when the files lack weights of it, `but` for those: Transformers draws them at random, and only
    warns.
    """
    network, info = loaded
    if absent := sorted(set(info["missing_keys"]) - set(but)):
        shown = ", ".join(absent[:3]) + (f" and {len(absent) - 3} more" if len(absent) > 3 else "")
        raise EngineError(f"{model}: the files have no weights for {shown}")
    for layer in network.modules():  # bitsandbytes' fast layout on a CPU has blocks of 32 x 64; others go without it
        if type(layer).__name__ == "Linear4bit" and (layer.out_features % 32 or layer.in_features % 64):
            layer.support_avx512bf16_for_cpu = False
    return network


def pick_device(device: str) -> torch.device:
    """Return the device of this name; ``auto`` is a GPU where there is one."""
    if device != "auto":
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def pick_dtype(dtype: Dtype, device: torch.device) -> torch.dtype:
    """Return the type of the weights: bfloat16 where the machine multiplies it faster."""
    if dtype != "auto":
        return torch.float32 if dtype == "float32" else torch.bfloat16
    if device.type == "cpu":
        able = torch.cpu.get_capabilities()
        return torch.bfloat16 if able.get("avx512_bf16") or able.get("amx_bf16") else torch.float32
    return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32


def quantized(quantization: Quantization, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """Return what `from_pretrained` is told: such weights are put in their place as they are loaded."""
    if quantization == "none":
        return {}
    if util.find_spec("bitsandbytes") is None:
        raise MissingDependencyError("bitsandbytes", "quantization")
    from transformers import BitsAndBytesConfig

    # bitsandbytes tells of every cast to float16, once per layer and step.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    how = (
        BitsAndBytesConfig(load_in_8bit=True)
        if quantization == "8bit"
        else BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    )
    return {"quantization_config": how, "device_map": {"": device}}


def _with_adapter(model: Any, adapter: str) -> Any:
    try:
        from peft import PeftModel
    except ImportError as error:
        raise MissingDependencyError("peft", "train") from error
    return PeftModel.from_pretrained(model, adapter)
