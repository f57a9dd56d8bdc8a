"""From a config to an engine. A new engine is one file and one line in `ENGINES`."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module, util
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from cai.engines.base import Engine, Sampling
from cai.engines.ray import RayConfig
from cai.engines.server import ServerConfig
from cai.engines.vllm_config import VLLMConfig
from cai.errors import InputError, Problem


@dataclass(frozen=True)
class Known:
    """Where an engine is, and what it needs."""

    module: str
    """Has a function ``from_config``; imported when the engine is asked for."""
    about: str
    packages: tuple[str, ...] = ()
    """What must be installed besides cai's own dependencies."""
    extra: str = ""
    """The extra of cai that brings them."""


ENGINES = {
    "transformers": Known("cai.engines.transformers", "in this process, on a CPU or a GPU; the default"),
    "vllm": Known("cai.engines.vllm", "vLLM in this process, on one or several GPUs, or a CPU", ("vllm",), "vllm"),
    "openai": Known("cai.engines.openai", "any OpenAI-compatible server: vLLM, SGLang, llama.cpp, Ollama, hosted"),
    "ray": Known("cai.engines.ray", "on many workers, on this machine or a cluster", ("ray",), "ray"),
}


def why_not(kind: str) -> str | None:
    """Return why an engine can't be started here, with the command that changes it; None when it can."""
    known = ENGINES[kind]
    missing = [name for name in known.packages if util.find_spec(name) is None]
    return f"{', '.join(missing)} not installed: pip install 'cai[{known.extra}]'" if missing else None


class EngineConfig(BaseModel):
    """Which engine answers, with which model, and how much it does at once."""

    # A key that stands in the wrong field must not be shown by the error that refuses it.
    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False, hide_input_in_errors=True
    )

    kind: str = "transformers"
    """Which engine: a key of `ENGINES`."""
    model: str = "embedded"
    """A folder, a hub id, or ``embedded`` for the default model; for ``openai``, the name that the server knows."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of the weights; ``auto`` is bfloat16 where the machine multiplies it faster."""
    quantization: Literal["none", "8bit", "4bit"] = "none"
    """Weights of the linear layers in 8 or 4 bits, by bitsandbytes."""
    device: str = "auto"
    """``auto`` takes a GPU if there is one; else a device as torch names it."""
    adapter: str | None = None
    """Folder of a LoRA adapter to put on the model."""
    max_batch: int | None = Field(default=None, ge=1)
    """Rows written at once; None finds out from the device's memory."""
    batch_tokens: int | None = Field(default=None, ge=256)
    """Tokens read in one pass; None suits the device."""
    window: int = Field(default=256, ge=1)
    """Requests taken from the stream before work on them begins: more makes better batches, less makes a run that was
    cut off lose less."""
    vllm: VLLMConfig | None = None
    """``vllm``: how it holds the model."""
    server: ServerConfig | None = None
    """``openai``: where the server is, and the limits of what is asked of it."""
    ray: RayConfig | None = None
    """``ray``: the cluster and its workers."""


class SamplingConfig(BaseModel):
    """How texts are drawn: the paper's temperature 1 unless a run says otherwise."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    temperature: float = Field(default=1.0, ge=0.0)
    """0 is greedy."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    max_new_tokens: int = Field(default=256, ge=1)

    def to_sampling(self) -> Sampling:
        """Return the engine's form."""
        return Sampling(temperature=self.temperature, top_p=self.top_p, max_new_tokens=self.max_new_tokens)


def build_engine(config: EngineConfig | str) -> Engine:
    """Return the engine of a config, or the default engine with a model of this name."""
    if isinstance(config, str):
        config = EngineConfig(model=config)
    known = ENGINES.get(config.kind)
    if known is None:
        fix = f"use one of: {', '.join(sorted(ENGINES))}"
        raise InputError(Problem("engine", 0, 0, f"unknown kind {config.kind!r}", fix))
    build: Callable[[EngineConfig], Engine] = import_module(known.module).from_config
    return build(config)
