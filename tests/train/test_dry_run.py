"""A micro-batch counted on fake tensors is that of real ones, and a deep model is two shallow ones drawn on."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from cai.train import packed_attention
from cai.train.dry_run import Meter, Work, head_of, on_meta, with_layers, work_of
from cai.train.packing import pack_ends, pack_tokens
from cai.train.readout import answer_logprobs, answer_scores

CPU = torch.device("cpu")
ROWS: Any = [([5] * 20, [[7] * 30, [8] * 25]), ([9] * 12, [[6] * 18, [4] * 22])]
TOKENS = 20 + 30 + 25 + 12 + 18 + 22
LM = (AutoModelForCausalLM, pack_tokens, answer_logprobs)
PM = (AutoModelForSequenceClassification, pack_ends, answer_scores)


def config_of(folder: Any, layers: int) -> Any:
    config = AutoConfig.from_pretrained(folder)
    config.num_hidden_layers, config.num_labels = layers, 1
    return config


def counted(kind: Any, config: Any, *, again: bool = False, bf16: bool = False, **made: Any) -> Work:
    auto, pack, read = kind

    def make(config: Any) -> Any:
        model = auto.from_config(config)
        if made.get("checkpointing"):
            model.activation_checkpointing_enable()
        return model

    return work_of(make, config, pack(ROWS), read, bf16=bf16, device=CPU, again=again)


@pytest.mark.parametrize(("kind", "bf16"), [(LM, True), (PM, False)], ids=["lm", "pm"])
def test_fake_tensors_count_as_real_ones(tiny_model_dir: Any, kind: Any, bf16: bool) -> None:
    config = config_of(tiny_model_dir, 2)
    found = counted(kind, config, bf16=bf16)
    auto, pack, read = kind
    model = auto.from_config(config).train()
    model.set_attn_implementation(packed_attention.NAME)
    batch = pack(ROWS)
    meter = Meter([*model.parameters(), *model.buffers(), *batch.values()])
    with meter:
        meter.begin(head_of(model))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            total = read(model, batch).sum()
        total.backward()
        del total
    assert (found.flops, found.attention) == (meter.flops, meter.attention)
    assert found.moved == pytest.approx(meter.moved, rel=0.01)
    assert (found.deepest, found.later) == pytest.approx((meter.deepest, meter.later), rel=0.02)


def test_products_are_those_of_the_linear_layers(tiny_model_dir: Any) -> None:
    config = config_of(tiny_model_dir, 3)
    found = counted(LM, config)
    model = on_meta(AutoModelForCausalLM.from_config, config)
    layers = sum(
        module.weight.numel()
        for name, module in model.named_modules()
        if type(module) is torch.nn.Linear and name != "lm_head"
    )
    head, read = model.lm_head.weight.numel(), 30 + 25 + 18 + 22
    rotary = 3 * TOKENS * config.head_dim  # an outer product, once or twice
    # The last token of an answer is predicted and not read; the logits are computed again on the way back.
    forward = 2 * layers * (TOKENS - 4) + 2 * head * read
    assert found.forward_flops == pytest.approx(forward, abs=rotary)
    assert found.flops == pytest.approx(3 * 2 * layers * (TOKENS - 4) + 4 * 2 * head * read, abs=2 * rotary)


@pytest.mark.parametrize(("checkpointing", "words"), [(False, 0), (True, 0), (False, 9000)])
def test_two_layers_tell_of_four(tiny_model_dir: Any, checkpointing: bool, words: int) -> None:
    config = config_of(tiny_model_dir, 4)
    config.vocab_size = words or config.vocab_size  # many words: a shallow model holds most when it ends
    found = counted(LM, config, checkpointing=checkpointing)
    direct = work_of(
        lambda _: real(config, 4, checkpointing),
        with_layers(config, 1),
        pack_tokens(ROWS),
        answer_logprobs,
        bf16=False,
        device=CPU,
        again=False,
    )
    assert found.flops == direct.flops
    assert found.moved == pytest.approx(direct.moved, rel=0.01)
    assert found.held == pytest.approx(direct.held, rel=0.2 if checkpointing else 0.05)
    assert found.deepest == pytest.approx(direct.deepest, rel=0.2 if checkpointing else 0.05)


def real(config: Any, layers: int, checkpointing: bool) -> Any:
    model = AutoModelForCausalLM.from_config(with_layers(config, layers))
    if checkpointing:
        model.activation_checkpointing_enable()
    return model


def test_what_saves_memory_is_seen(tiny_model_dir: Any) -> None:
    config = config_of(tiny_model_dir, 6)
    plain = counted(LM, config)
    saved = counted(LM, config, checkpointing=True)
    assert saved.deepest < 0.7 * plain.deepest
    assert saved.flops > plain.flops
    assert counted(LM, config, again=True).deepest > plain.deepest  # the gradients of the micro-batch before
    assert counted(LM, config, bf16=True).deepest < plain.deepest


def test_nothing_fake_and_no_drawn_number_is_left_behind(tiny_model_dir: Any) -> None:
    config = config_of(tiny_model_dir, 2)
    torch.manual_seed(3)
    wanted = torch.rand(4)
    torch.manual_seed(3)
    counted(LM, config)
    assert torch.equal(torch.rand(4), wanted)
    model = AutoModelForCausalLM.from_config(config)
    model.set_attn_implementation(packed_attention.NAME)
    assert torch.isfinite(answer_logprobs(model, pack_tokens(ROWS))).all()  # the same layout: a kept mask would be fake
