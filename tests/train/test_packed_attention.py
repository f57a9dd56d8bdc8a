"""Attention by trees against one pass per prompt and answer, for the layouts of four model families."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from cai.train.packed_attention import NAME, attention_forward
from cai.train.packing import Row, pack_tokens
from cai.train.readout import answer_logprobs, use_packing

SHAPE: dict[str, Any] = {
    "vocab_size": 97, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.3, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2, "attn_implementation": "eager",
}  # fmt: skip
FAMILIES: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaConfig(**SHAPE),
    "llama, all heads": lambda: LlamaConfig(**SHAPE | {"num_key_value_heads": 6}),
    "mistral": lambda: MistralConfig(**SHAPE, sliding_window=4),
    "qwen2": lambda: Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=4, max_window_layers=1),
    "qwen3": lambda: Qwen3Config(**SHAPE, head_dim=8),
    "gemma2": lambda: Gemma2Config(
        **SHAPE, head_dim=8, sliding_window=4, attn_logit_softcapping=2.0, final_logit_softcapping=None
    ),
    "gemma2, capped logits": lambda: Gemma2Config(**SHAPE, head_dim=8, sliding_window=4, final_logit_softcapping=3.0),
    "gemma3": lambda: Gemma3TextConfig(**SHAPE, head_dim=8, sliding_window=4),
    "gpt2": lambda: GPT2Config(vocab_size=97, n_embd=48, n_layer=2, n_head=6, n_positions=64, initializer_range=0.3),
}
ROWS: list[Row] = [
    ([3, 9, 11, 5, 8, 13], [[7, 2, 9, 4, 31, 5, 6, 8], [4, 6]]),
    ([21], [[6], [8, 8, 1, 17, 33, 40, 2]]),
    ([5, 6, 7], [[8, 9, 10], [11], [12, 13, 14, 15]]),
]


def made(config: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: Any = AutoModelForCausalLM.from_config(config)
    return model.eval()


def alone(model: Any, rows: list[Row]) -> Tensor:
    found = []
    for prompt, answers in rows:
        for answer in answers:
            ids = torch.tensor([[*prompt, *answer]])
            logprobs = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0].log_softmax(-1)
            found.append(logprobs[len(prompt) - 1 : -1].gather(-1, ids[0, len(prompt) :, None])[:, 0])
    return torch.cat(found)


def with_gradients(model: Any, logprobs: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    weights = torch.linspace(-1, 1, len(logprobs))
    torch.autograd.backward((logprobs * weights).sum())
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_logprobs_and_gradients_are_those_of_one_pass_each(family: str, checkpointing: bool) -> None:
    model = made(FAMILIES[family]())
    wanted = alone(model, ROWS)
    slopes = with_gradients(model, wanted)
    use_packing(model, family)
    if checkpointing:
        model.gradient_checkpointing_enable()
        model.train()  # no dropout in these but GPT-2's
        for module in model.modules():
            module.training = module.training and not isinstance(module, torch.nn.Dropout)
            if hasattr(module, "attn_dropout"):
                module.attn_dropout.p = 0.0
    found = answer_logprobs(model, pack_tokens(ROWS))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    largest = max(float(slope.abs().max()) for slope in slopes.values())
    assert largest > 1e-2
    torch.testing.assert_close(with_gradients(model, found), slopes, atol=1e-5 * max(1.0, largest), rtol=1e-4)


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2"])
def test_without_a_layout_it_attends_as_the_model_does(family: str) -> None:
    model = made(FAMILIES[family]())
    ids = torch.tensor([[3, 9, 11, 5, 8, 13, 7, 2], [5, 6, 7, 8, 9, 0, 0, 0]])
    mask = (ids != 0).long()
    wanted, free = model(input_ids=ids, attention_mask=mask).logits, model(input_ids=ids[:1]).logits
    use_packing(model, family)
    found = model(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(found[mask.bool()], wanted[mask.bool()], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model(input_ids=ids[:1]).logits, free, atol=1e-5, rtol=1e-5)
    # Padding on the left, as in generation: its rows see nothing at all, and must not spoil the others.
    left, positions = ids.flip(1), (mask.flip(1).cumsum(1) - 1).clamp(min=0)
    found = model(input_ids=left, attention_mask=mask.flip(1), position_ids=positions).logits[1, 3:]
    wanted = model(input_ids=left[1:, 3:]).logits[0]
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_no_row_and_no_other_answer_is_seen() -> None:
    model = made(FAMILIES["llama"]())
    use_packing(model, "llama")
    before = answer_logprobs(model, pack_tokens(ROWS))
    other: list[Row] = [ROWS[0], ([21], [[6], [8, 8, 1, 17, 34, 40, 2]]), ROWS[2]]
    changed = (answer_logprobs(model, pack_tokens(other)) - before).abs() > 1e-6
    place = pack_tokens(ROWS)["answer_ids"].tolist().index(33)
    assert changed.nonzero()[:, 0].tolist() == list(range(place, place + 3))  # itself, and what comes after it


def test_what_no_kernel_here_knows_is_refused() -> None:
    part = torch.zeros(1, 2, 3, 4)
    with pytest.raises(NotImplementedError, match="s_aux"):
        attention_forward(torch.nn.Module(), part, part, part, None, s_aux=torch.zeros(2))


def test_nothing_of_it_is_saved(tmp_path: Path, tiny_model_dir: Path) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    use_packing(model, "tiny").save_pretrained(tmp_path)
    assert NAME not in (tmp_path / "config.json").read_text()
    assert AutoModelForCausalLM.from_pretrained(tmp_path).config._attn_implementation == "sdpa"
    assert AutoTokenizer.from_pretrained(tiny_model_dir)
