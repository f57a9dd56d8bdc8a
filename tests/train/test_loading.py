"""Models to train: adapters, weights in 4 bits, and what is said of kernels that are not here."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from cai.errors import InputError, MissingDependencyError
from cai.judges.preference_model import PreferenceModel
from cai.train import loading
from cai.train.configs import SFTConfig
from cai.train.loading import adapted_anew, check_extras, load_packed, with_adapter
from cai.train.packed_attention import NAME
from cai.train.packing import pack_tokens
from cai.train.readout import answer_logprobs
from tests.engines import tiny
from tests.train import rig

CPU = torch.device("cpu")


def config(tmp_path: Path, **changes: Any) -> SFTConfig:
    return SFTConfig(out=tmp_path, data=[], precision="fp32", **changes)


def test_an_adapter_trains_little_and_starts_as_nothing(tiny_model_dir: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    assert with_adapter(model, config(tmp_path), task="CAUSAL_LM") is model
    ids = torch.tensor([[5, 6, 7]])
    before = model(ids).logits.detach()
    wrapped = with_adapter(model, config(tmp_path, lora={"r": 2}), task="CAUSAL_LM").eval()
    trained = [name for name, value in wrapped.named_parameters() if value.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    torch.testing.assert_close(wrapped(ids).logits.detach(), before)


def test_an_adapter_on_the_output_layer_is_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    settings = config(tmp_path, lora={"r": 2, "target_modules": ["q_proj", "lm_head"]})
    with pytest.raises(InputError, match=r"lora.target_modules: the output layer can't have an adapter"):
        with_adapter(model, settings, task="CAUSAL_LM")


def test_models_come_packed(tiny_model_dir: Path, tmp_path: Path) -> None:
    model = load_packed(AutoModelForCausalLM, str(tiny_model_dir), config(tmp_path), CPU)
    assert (model.config._attn_implementation, model.dtype) == (NAME, torch.float32)


def test_in_4_bits_only_the_adapter_trains_and_the_merge_is_exact(tiny_model_dir: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="4-bit weights are an extra: pip install 'cai[quantization]'")
    settings = config(tmp_path, lora={"r": 2}, quantization="4bit")
    base = load_packed(AutoModelForCausalLM, str(tiny_model_dir), settings, CPU)
    kinds = {type(module).__name__ for module in base.modules()}
    assert "Linear4bit" in kinds
    assert type(base.lm_head) is torch.nn.Linear
    model = with_adapter(base, settings, task="CAUSAL_LM")
    trained = [weight for name, weight in model.named_parameters() if weight.requires_grad]
    with torch.no_grad(), torch.random.fork_rng():
        for weight in trained:
            weight.normal_(std=0.1)
    whole = with_adapter(AutoModelForCausalLM.from_pretrained(tiny_model_dir), settings, task="CAUSAL_LM")
    exact = {name: weight for name, weight in whole.named_parameters() if weight.requires_grad}
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.requires_grad:
                exact[name].copy_(weight)
    found = adapted_anew(model, model.state_dict()).merge_and_unload().state_dict()
    wanted = whole.merge_and_unload().state_dict()
    torch.testing.assert_close(dict(found), dict(wanted))


@pytest.mark.parametrize("kind", ["sft", "reward", "dpo"])
def test_qlora_trains_and_saves_a_plain_model(tiny_model_dir: Path, tmp_path: Path, kind: str) -> None:
    pytest.importorskip("bitsandbytes", reason="4-bit weights are an extra: pip install 'cai[quantization]'")
    changes: dict[str, Any] = {"lora": {"r": 4}, "quantization": "4bit", "epochs": 4, "rows": 4, "learning_rate": 1e-2}
    settings = rig.settings(kind, tmp_path, tiny_model_dir, **changes)
    found, logged = rig.train(kind, settings)
    assert logged[-1]["loss"] < logged[0]["loss"]
    auto = AutoModelForSequenceClassification if kind == "reward" else AutoModelForCausalLM
    model = rig.loaded_whole(auto, settings.out / "model")
    assert model.dtype == torch.float32
    assert not getattr(model.config, "quantization_config", None)
    assert ("score.weight" in found) == (kind == "reward")
    start = AutoModelForCausalLM.from_pretrained(tiny_model_dir).state_dict()
    moved = {name for name, value in found.items() if name in start and not torch.equal(value, start[name])}
    assert moved
    assert all("proj" in name for name in moved)  # what no adapter was on is as it was, to the bit
    assert AutoTokenizer.from_pretrained(settings.out / "model").chat_template


def test_layers_of_any_width_train_and_judge_in_4_bits(tmp_path: Path) -> None:
    """On a CPU with AVX-512 bitsandbytes lays layers out in blocks of 32 x 64, and fails where they don't fit."""
    pytest.importorskip("bitsandbytes", reason="4-bit weights are an extra: pip install 'cai[quantization]'")
    start = tmp_path / "start"
    tiny.llama(hidden_size=36, intermediate_size=51).save_pretrained(start)
    tiny.tokenizer().save_pretrained(start)
    settings = rig.settings("reward", tmp_path, start, lora={"r": 4}, quantization="4bit", rows=8, eval_fraction=0.5)
    rig.train("reward", settings)
    judge = PreferenceModel.load(str(settings.out / "model"), quantization="4bit")
    assert "Linear4bit" in {type(module).__name__ for module in judge.model.modules()}
    assert len(set(judge.score_ids([[5, 6, 7], [8, 9]]))) == 2


def test_8_bit_adamw_takes_nearly_the_steps_of_adamw(tiny_model_dir: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="8-bit optimizers are an extra: pip install 'cai[quantization]'")
    runs = {}
    for optimizer in ("adamw", "adamw_8bit"):
        settings = rig.settings("sft", tmp_path / optimizer, tiny_model_dir, optimizer=optimizer)
        runs[optimizer], _ = rig.train("sft", settings)
    assert 0 < rig.largest_difference(runs["adamw"], runs["adamw_8bit"]) < 3e-3  # three steps of 1e-3


def test_kernels_that_are_not_here_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading.util, "find_spec", lambda name: None)
    check_extras(config(tmp_path))
    for changes in ({"optimizer": "adamw_8bit"}, {"lora": {}, "quantization": "4bit"}):
        with pytest.raises(MissingDependencyError, match="quantization"):
            check_extras(config(tmp_path, **changes))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="liger: Liger kernels are not available here; pip install liger-kernel"):
        check_extras(config(tmp_path, liger=True))


def test_packed_rows_under_an_adapter(tiny_model_dir: Path, tmp_path: Path) -> None:
    model = load_packed(AutoModelForCausalLM, str(tiny_model_dir), config(tmp_path), CPU)
    batch = pack_tokens([([5, 6, 7], [[8, 9], [4, 3, 2]])])
    before = answer_logprobs(model, batch).detach()
    adapted = with_adapter(model, config(tmp_path, lora={"r": 2}), task="CAUSAL_LM")
    torch.testing.assert_close(answer_logprobs(adapted, batch).detach(), before)
