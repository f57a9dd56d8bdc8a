"""vLLM's section of a config: documented, and strict."""

import pytest
from pydantic import ValidationError

from cai.engines.vllm_config import VLLMConfig


def test_every_field_has_a_docstring() -> None:
    assert all(field.description for field in VLLMConfig.model_fields.values())


@pytest.mark.parametrize(
    "wrong",
    [
        {"tensor_parallel": 0},
        {"context": 1},
        {"cache_gib": 0},
        {"cache_gib": float("inf")},
        {"lora_rank": 1024},
        {"x": 1},
    ],
)
def test_what_vllm_could_not_do_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        VLLMConfig.model_validate(wrong)
