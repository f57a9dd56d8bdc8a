"""A config, or the name of a model, becomes an engine; anything else is said before a model is loaded."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from cai.engines.base import Generated, GenerateRequest, Sampling
from cai.engines.build import ENGINES, EngineConfig, build_engine
from cai.errors import InputError
from tests.engines import tiny


def test_an_unknown_kind_names_those_there_are() -> None:
    with pytest.raises(InputError, match=r"unknown kind 'vllmm'; use one of: .*transformers"):
        build_engine(EngineConfig(kind="vllmm"))


def test_an_unknown_key_or_value_is_refused() -> None:
    with pytest.raises(ValidationError):
        EngineConfig(modle="x")  # type: ignore[call-arg]
    with pytest.raises(ValidationError):
        EngineConfig(dtype="int3")


def test_every_field_has_a_docstring() -> None:
    assert all(field.description for field in EngineConfig.model_fields.values())
    assert EngineConfig().kind in ENGINES


def test_a_folder_becomes_an_engine(tmp_path: Path) -> None:
    tiny.llama().save_pretrained(tmp_path)
    tiny.shared_tokenizer().save_pretrained(tmp_path)
    engine = build_engine(EngineConfig(model=str(tmp_path), dtype="float32", device="cpu", max_batch=4))
    assert engine.name == "transformers"
    assert len(engine.model) >= 40  # a digest of the weights
    request = GenerateRequest(id="a", prompt="yes", sampling=Sampling(temperature=0, max_new_tokens=4))
    assert isinstance(next(engine.generate([request])), Generated)
    assert build_engine(EngineConfig(model=str(tmp_path), dtype="float32")).model == engine.model
