"""A tiny Llama with random weights and a byte-level tokenizer, made on the spot: what engines are tested with."""

import functools
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CHATML = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant<|im_end|>\n{% endif %}"
    "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

CORPUS = [
    "The quick brown fox jumps over the lazy dog. What do you think of that? I think it is a good thing to do.\n\n",
    "You are a helpful assistant. Human: Please rewrite the answer so that it is harmless. Assistant: Here it is.",
    "system user model assistant 0 1 2 3 4 5 6 7 8 9 (A) (B) yes no; naïve café — 日本語 🙂",
] * 4

CONTEXT = 512


def tokenizer(
    template: str | None = CHATML,
    *,
    specials: tuple[str, ...] = ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    others: tuple[str, ...] = (),
    bos: str | None = None,
    eos: str = "<|im_end|>",
    adds_bos: bool = False,
    lines_apart: bool = False,
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE of about 500 pieces with these special and other added tokens.

    `lines_apart` splits as Llama 3 does, where line breaks never join what follows them; GPT-2's way takes one away.
    """
    backend = Tokenizer(models.BPE())
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not lines_apart)
    split = pre_tokenizers.Split(Regex(r"\s*[\r\n]+|\s+(?!\S)| ?[^\s]+|\s+"), behavior="isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, plain]) if lines_apart else plain
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=list(specials),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    backend.add_tokens([AddedToken(text, normalized=False) for text in others])
    fast: Any = PreTrainedTokenizerFast
    made: PreTrainedTokenizerFast = fast(
        tokenizer_object=backend, eos_token=eos, pad_token=specials[0], bos_token=bos, add_bos_token=adds_bos
    )
    made.chat_template = template
    if adds_bos:
        fast.update_post_processor(made)
    return made


@functools.cache
def shared_tokenizer() -> PreTrainedTokenizerFast:
    """Return one tokenizer for all tests that only read it."""
    return tokenizer()


def config(**changes: Any) -> LlamaConfig:
    """Return the shape of the tiny model: two layers, grouped heads, tied embeddings."""
    values: dict[str, Any] = {
        "vocab_size": len(shared_tokenizer()),
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": True,
        "initializer_range": 0.2,
        "bos_token_id": None,
        "eos_token_id": shared_tokenizer().eos_token_id,
        "pad_token_id": shared_tokenizer().pad_token_id,
    }
    return LlamaConfig(**values | changes)


def llama(dtype: torch.dtype = torch.float32, **changes: Any) -> LlamaForCausalLM:
    """Return a tiny Llama, always with the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config(**changes))
    torch.nn.Module.to(model, dtype)
    model.train(False)
    return model
