"""What a training with an adapter leaves: the adapter apart, as PEFT loads it, and the model with it in its weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from cai.engines.embedded import model_digest
from cai.engines.loading import load_model
from cai.train.group_config import GRPOConfig
from cai.train.grpo import run_grpo
from cai.train.ppo.trainer import run_ppo
from tests.train import rig
from tests.train.ppo.rig import settings, vowels

LORA = {"r": 2, "alpha": 4}


def by_ppo(model: Path, folder: Path) -> None:
    run_ppo(settings(folder, model, lora=LORA, learning_rate=1e-2, value_adapter=True), vowels)


def by_grpo(model: Path, folder: Path) -> None:
    config = settings(folder, model)
    run_grpo(
        GRPOConfig(
            model=str(model), out=config.out, prompts=config.prompts, precision="fp32", lora=LORA, learning_rate=1e-2,
            steps=1, batch_size=2, generations=4, max_new_tokens=8,
        ),
        vowels,
    )  # fmt: skip


def on_rows(kind: str) -> Callable[[Path, Path], None]:
    return lambda model, folder: rig.KINDS[kind][1](rig.settings(kind, folder, model, lora=LORA, learning_rate=1e-2))


TRAINERS = {"sft": on_rows("sft"), "dpo": on_rows("dpo"), "ppo": by_ppo, "grpo": by_grpo}


@pytest.mark.parametrize("train", TRAINERS)
def test_the_adapter_over_its_base_is_the_trained_model(train: str, tiny_model_dir: Path, tmp_path: Path) -> None:
    TRAINERS[train](tiny_model_dir, tmp_path)
    apart, out = tmp_path / "out" / "adapter", tmp_path / "out"
    ids = torch.tensor([[1, 5, 9, 7, 3, 20]])
    base: Any = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    with torch.no_grad():
        start = base(ids).logits
        merged = AutoModelForCausalLM.from_pretrained(out / "model")(ids).logits
        over: Any = PeftModel.from_pretrained(base, str(apart))
        found = over(ids).logits
    assert float((merged - start).abs().max()) > 1e-3
    torch.testing.assert_close(found, merged, atol=1e-5, rtol=1e-5)
    assert json.loads((apart / "cai.json").read_text())["base"] == model_digest(str(tiny_model_dir))
    assert AutoTokenizer.from_pretrained(apart).get_vocab() == AutoTokenizer.from_pretrained(out / "model").get_vocab()
    engine, _, _ = load_model(
        str(tiny_model_dir), adapter=str(apart), dtype="float32", device="cpu", quantization="none"
    )
    with torch.no_grad():
        torch.testing.assert_close(engine(ids).logits, merged, atol=1e-5, rtol=1e-5)
