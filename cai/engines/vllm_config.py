"""What only the vLLM engine needs to know: the config's section, which imports neither vLLM nor torch."""

from pydantic import BaseModel, ConfigDict, Field


class VLLMConfig(BaseModel):
    """How vLLM holds a model."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    tensor_parallel: int = Field(default=1, ge=1)
    """Devices that hold one model together."""
    context: int | None = Field(default=None, ge=2)
    """Tokens read and written at most; None is what the model can, for which there must be memory."""
    cache_gib: float | None = Field(default=None, gt=0)
    """Memory for keys and values, in GiB on each device; None takes what vLLM leaves on a GPU, and of a CPU's memory a
    quarter of what is free, 4 at most."""
    lora_rank: int = Field(default=0, ge=0, le=512)
    """Room for adapters of this rank that are put on later; the one named at the start makes its own."""
