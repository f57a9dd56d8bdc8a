"""Models whose attention or logits are not Llama's: PPO samples what it scores, and scores what they say."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3Config,
    Gemma3TextConfig,
    GPT2Config,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from cai.train.ppo.monitor import Clock
from cai.train.ppo.policy import causal_of
from cai.train.ppo.trainer import run_ppo
from tests.engines import tiny
from tests.train.ppo.rig import metrics, settings, trainer, vowels

WORDS = len(tiny.shared_tokenizer())
SHAPE: dict[str, Any] = {
    "vocab_size": WORDS, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 2, "max_position_embeddings": tiny.CONTEXT, "initializer_range": 0.3, "bos_token_id": None,
    "pad_token_id": tiny.shared_tokenizer().pad_token_id, "eos_token_id": tiny.shared_tokenizer().eos_token_id,
}  # fmt: skip
# Windows are shorter than the prompts, and caps low enough to bend most logits.
FAMILIES: dict[str, Callable[[], Any]] = {
    "gemma2": lambda: Gemma2Config(
        **SHAPE, head_dim=8, sliding_window=6, attn_logit_softcapping=2.0, final_logit_softcapping=3.0
    ),
    "gemma3": lambda: Gemma3TextConfig(**SHAPE, head_dim=8, sliding_window=6),
    "gemma3, which sees": lambda: Gemma3Config(
        text_config=FAMILIES["gemma3"]().to_dict(),
        vision_config={
            "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "image_size": 28, "patch_size": 14,
        },
        mm_tokens_per_image=4,
    ),
    "mistral": lambda: MistralConfig(**SHAPE, sliding_window=6),
    "qwen2": lambda: Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=6, max_window_layers=1),
    "qwen3": lambda: Qwen3Config(**SHAPE, head_dim=8),
    "gpt2": lambda: GPT2Config(
        vocab_size=WORDS, n_embd=48, n_layer=2, n_head=6, n_positions=tiny.CONTEXT, initializer_range=0.3,
        bos_token_id=None, eos_token_id=SHAPE["eos_token_id"],
    ),
}  # fmt: skip


def saved(config: Any, folder: Path) -> Path:
    """Save a model of random weights with the tiny tokenizer."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: Any = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_sampled_is_what_is_trained(family: str, tmp_path: Path) -> None:
    model = saved(FAMILIES[family](), tmp_path / "model")
    ready = trainer(tmp_path, model, max_new_tokens=12, entropy_coefficient=0.1)
    causal: Any = causal_of(ready.learner.policy.policy)
    assert causal.config._attn_implementation == "cai_packed"
    batch = ready.rollouts(1, Clock())
    # Its own forward, as Transformers computes it, one answer at a time.
    own: Any = AutoModelForCausalLM.from_pretrained(model, attn_implementation="eager").eval()
    for one, row_T in zip(batch.samples, batch.logprobs_BT, strict=True):
        ids = torch.tensor([one.prompt_ids + one.answer_ids])
        assert len(one.prompt_ids) > 6
        with torch.no_grad():
            every = own(input_ids=ids).logits[0, len(one.prompt_ids) - 1 : -1].log_softmax(-1)
        wanted = every.gather(-1, ids[0, len(one.prompt_ids) :, None])[:, 0]
        torch.testing.assert_close(row_T[: len(wanted)], wanted, atol=1e-4, rtol=0)
        torch.testing.assert_close(torch.tensor(one.sampled_logprobs), wanted, atol=1e-4, rtol=0)
    first = ready.learner.update(batch, ready.learner.plan(batch.samples, step=1, epoch=0)[0])
    assert (first.sums.ratio_max, first.sums.inverse_ratio_max, first.sums.kl) == (1.0, 1.0, 0.0)
    assert first.grad_norm > 0


def test_a_capped_model_is_trained_and_saved_with_its_cap(tmp_path: Path) -> None:
    model = saved(FAMILIES["gemma2"](), tmp_path / "model")
    config = settings(tmp_path, model, steps=3, temperature=0.8, entropy_coefficient=0.01)
    run_ppo(config, vowels)
    rows = metrics(config.out)
    assert rows[0]["kl"] == 0
    assert 0 < rows[-1]["kl"] < 10
    trained: Any = AutoModelForCausalLM.from_pretrained(config.out / "model")
    assert trained.config.final_logit_softcapping == 3.0
    assert float(trained(input_ids=torch.tensor([[5, 6]])).logits.abs().max().detach()) <= 3.0
