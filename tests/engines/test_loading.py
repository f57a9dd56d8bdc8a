"""Where weights go and in which type; quantised ones answer as the same weights do in Transformers."""

import shutil
from pathlib import Path

import pytest
import torch

from cai.engines.base import Generated, GenerateRequest, Sampling
from cai.engines.build import EngineConfig, build_engine
from cai.engines.loading import Quantization, load_model, pick_device, pick_dtype
from cai.errors import EngineError


def test_the_type_is_what_is_asked_for_or_what_the_device_is_fast_at() -> None:
    cpu = torch.device("cpu")
    assert pick_dtype("float32", cpu) == torch.float32
    assert pick_dtype("bfloat16", cpu) == torch.bfloat16
    able = torch.cpu.get_capabilities()
    fast = bool(able.get("avx512_bf16") or able.get("amx_bf16"))
    assert pick_dtype("auto", cpu) == (torch.bfloat16 if fast else torch.float32)
    assert pick_device("cpu") == cpu


@pytest.mark.model
@pytest.mark.parametrize("quantization", ["8bit", "4bit"])
def test_quantised_weights_write_what_they_write_in_transformers(quantization: Quantization) -> None:
    pytest.importorskip("bitsandbytes")
    name = "embedded"
    model, tokenizer, revision = load_model(
        name, dtype="float32", quantization=quantization, device="cpu", adapter=None
    )
    assert model.get_memory_footprint() < 300e6  # type: ignore[operator]
    engine = build_engine(EngineConfig(model=name, dtype="float32", device="cpu", quantization=quantization))
    assert engine.model == revision
    assert revision.endswith(f"+{quantization}")
    sampling = Sampling(temperature=0, max_new_tokens=8, min_new_tokens=8)
    result = next(engine.generate([GenerateRequest(id="a", prompt="The capital of France is", sampling=sampling)]))
    assert isinstance(result, Generated)
    ids = tokenizer("The capital of France is", return_tensors="pt")
    wanted = model.generate(**ids, do_sample=False, max_new_tokens=8, min_new_tokens=8)[0]  # type: ignore[operator]
    assert list(result.completions[0].token_ids) == wanted[-8:].tolist()
    assert "Paris" in result.completions[0].text


def test_a_file_that_holds_no_weights_is_named(tiny_model_dir: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_model_dir, broken)
    (broken / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    with pytest.raises(EngineError, match="the files have no weights for") as caught:
        load_model(str(broken), dtype="float32", quantization="none", device="cpu", adapter=None)
    assert str(broken) in str(caught.value)
