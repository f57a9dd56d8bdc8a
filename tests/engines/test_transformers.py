"""The Transformers engine: the conformance suite on a tiny model, both ways of running it, and what is its own."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from cai.engines.base import Engine, Failure, Generated, GenerateRequest, Sampling, Scored, ScoreRequest
from cai.engines.transformers import AnswerStates, TransformersEngine
from cai.types import Message
from tests.engines import conformance, tiny


def make(model: LlamaForCausalLM | None = None, *, plain: bool = False, max_batch: int = 8) -> TransformersEngine:
    engine = TransformersEngine(
        model or tiny.llama(), tiny.shared_tokenizer(), max_batch=max_batch, batch_tokens=256, window=32
    )
    if plain:
        engine.network._shared = False
    assert engine.network.shared is not plain
    return engine


class TestShared(conformance.Conformance):
    context = tiny.CONTEXT

    @pytest.fixture
    def engine(self) -> Engine:
        return make()


class TestPlain(conformance.Conformance):
    context = tiny.CONTEXT
    many = 300

    @pytest.fixture
    def engine(self) -> Engine:
        return make(plain=True)


PROMPTS = ["What do you think?", "The quick brown fox", "yes", "Please rewrite the answer so that it is harmless. " * 3]


@pytest.mark.parametrize("plain", [False, True])
def test_greedy_is_what_generate_writes(plain: bool) -> None:
    model = tiny.llama()
    engine = make(model, plain=plain)
    sampling = Sampling(temperature=0, max_new_tokens=20)
    results = engine.generate([GenerateRequest(id=prompt, prompt=prompt, sampling=sampling) for prompt in PROMPTS])
    for result in results:
        assert isinstance(result, Generated)
        ids = torch.tensor([tiny.shared_tokenizer().encode(result.id)])
        untyped: Any = model
        theirs = untyped.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False)
        assert list(result.completions[0].token_ids) == theirs[0, ids.shape[1] :].tolist()


@pytest.mark.parametrize("plain", [False, True])
def test_scores_are_those_of_one_full_forward(plain: bool) -> None:
    model = tiny.llama()
    engine = make(model, plain=plain)
    candidates = ("(A)", "yes", "I think it is a good thing to do.")
    for result in engine.score([ScoreRequest(id=prompt, prompt=prompt, candidates=candidates) for prompt in PROMPTS]):
        assert isinstance(result, Scored)
        prompt = tiny.shared_tokenizer().encode(result.id)
        for text, score in zip(candidates, result.scores, strict=True):
            candidate = tiny.shared_tokenizer().encode(text)
            with torch.no_grad():
                logits = model(torch.tensor([prompt + candidate])).logits[0].log_softmax(-1)
            expected = [logits[len(prompt) - 1 + place, token].item() for place, token in enumerate(candidate)]
            assert score.logprobs == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("plain", [False, True])
def test_states_are_means_over_the_candidate(plain: bool) -> None:
    model = tiny.llama()
    engine = make(model, plain=plain)
    candidates = ("yes", "I think it is.")
    for result in engine.answer_states(
        [ScoreRequest(id=prompt, prompt=prompt, candidates=candidates) for prompt in PROMPTS], (0, 1, -1)
    ):
        assert isinstance(result, AnswerStates)
        prompt = tiny.shared_tokenizer().encode(result.id)
        for text, states in zip(candidates, result.states, strict=True):
            candidate = tiny.shared_tokenizer().encode(text)
            with torch.no_grad():
                hidden = model(torch.tensor([prompt + candidate]), output_hidden_states=True).hidden_states
            expected = torch.stack([hidden[layer][0, len(prompt) :].mean(0) for layer in (0, 1, -1)])
            torch.testing.assert_close(states, expected, atol=1e-4, rtol=1e-4)


def test_a_model_with_a_sliding_window_is_run_the_plain_way() -> None:
    from transformers import MistralConfig, MistralForCausalLM

    values = tiny.config().to_dict()
    config = MistralConfig(**{key: values[key] for key in SHAPE}, sliding_window=8)
    torch.manual_seed(0)
    engine = TransformersEngine(MistralForCausalLM(config), tiny.shared_tokenizer())
    assert not engine.network.shared
    long = Sampling(temperature=0, max_new_tokens=12)
    together = list(engine.generate([GenerateRequest(id=p, prompt=p, sampling=long) for p in PROMPTS]))
    for result in together:
        alone = list(engine.generate([GenerateRequest(id=result.id, prompt=result.id, sampling=long)]))
        assert alone == [result]


def test_a_model_with_capped_logits_is_run_the_plain_way() -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    values = tiny.config().to_dict()
    torch.manual_seed(0)
    model = Gemma2ForCausalLM(Gemma2Config(**{key: values[key] for key in SHAPE}, head_dim=8))
    engine = TransformersEngine(model, tiny.shared_tokenizer())
    assert not engine.network.shared
    assert isinstance(next(engine.generate([GenerateRequest(id="a", prompt="yes")])), Generated)


SHAPE = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "eos_token_id",
    "pad_token_id",
)


def test_a_model_in_training_is_left_as_it_was() -> None:
    """PPO samples from the policy that it trains: modes, gradients and attention must be the trainer's again."""
    model = tiny.llama().train()
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    engine = TransformersEngine(model, tiny.shared_tokenizer())
    attention = model.config._attn_implementation
    requests = [GenerateRequest(id=str(n), prompt="yes", seeds=(n,)) for n in range(3)]
    for _ in engine.generate(requests):
        assert [module.training for module in model.modules()] == modes
        assert torch.is_grad_enabled()
        assert model.config._attn_implementation == attention
        model(torch.tensor([[1, 2, 3]])).logits.sum().backward()
    assert model.lm_head.weight.grad is not None


def test_new_weights_are_used_at_once() -> None:
    model = tiny.llama()
    engine = make(model)
    request = GenerateRequest(id="a", prompt="yes", sampling=Sampling(temperature=0, max_new_tokens=8))
    before = list(engine.generate([request]))
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(model.model.embed_tokens.weight.flip(0))
    assert list(engine.generate([request])) != before


def test_adapters_are_used_and_can_be_turned_off() -> None:
    from peft import LoraConfig, get_peft_model

    request = GenerateRequest(id="a", prompt="yes", sampling=Sampling(temperature=0, max_new_tokens=8), logprobs=True)
    base = list(make().generate([request]))
    torch.manual_seed(0)
    lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    model = get_peft_model(tiny.llama(), lora)
    engine = TransformersEngine(model, tiny.shared_tokenizer())
    assert engine.network.shared
    assert list(engine.generate([request])) != base
    with model.disable_adapter():
        off = list(engine.generate([request]))
    assert isinstance(off[0], Generated)
    assert isinstance(base[0], Generated)
    assert off[0].completions[0].token_ids == base[0].completions[0].token_ids


def test_less_memory_means_smaller_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make(max_batch=8)
    requests = [
        GenerateRequest(id=str(n), prompt="yes " * n, sampling=Sampling(temperature=0, max_new_tokens=6))
        for n in range(1, 9)
    ]
    scores = [ScoreRequest(id=str(n), prompt="yes " * n, candidates=("no", "yes")) for n in range(1, 9)]
    expected, expected_scores = list(engine.generate(requests)), list(engine.score(scores))
    hidden = engine.network.hidden

    def too_small(ids: torch.Tensor, *args: object) -> torch.Tensor:
        if ids.shape[0] > 3:
            raise torch.OutOfMemoryError
        return hidden(ids, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(engine.network, "hidden", too_small)
    monkeypatch.setattr(engine, "_batch_tokens", 1024)
    assert sorted(engine.generate(requests), key=lambda r: r.id) == sorted(expected, key=lambda r: r.id)
    found = {result.id: result for result in engine.score(scores)}
    for result in expected_scores:
        other = found[result.id]
        assert isinstance(result, Scored)
        assert isinstance(other, Scored)
        for one, two in zip(result.scores, other.scores, strict=True):
            assert one.logprobs == pytest.approx(two.logprobs, abs=1e-4)


def test_a_candidate_without_tokens_scores_nothing() -> None:
    result = next(make().score([ScoreRequest(id="a", prompt="yes", candidates=("", "no"))]))
    assert isinstance(result, Scored)
    assert result.scores[0].logprobs == ()
    assert result.scores[1].logprobs
    assert isinstance(next(make().score([ScoreRequest(id="a", prompt="yes", candidates=())])), Failure)


@pytest.fixture(scope="module")
def real() -> TransformersEngine:
    from cai.engines import embedded

    path = embedded.resolve_model()
    if not Path(path).is_dir():
        pytest.skip("the embedded model is not installed")
    return TransformersEngine.load(path, dtype="float32", max_batch=8)


@pytest.mark.model
def test_the_real_model_answers(real: TransformersEngine) -> None:
    request = GenerateRequest(
        id="a",
        prompt=(Message("user", "What is the capital of France?"),),
        sampling=Sampling(temperature=0, max_new_tokens=16),
    )
    result = next(real.generate([request]))
    assert isinstance(result, Generated)
    assert "Paris" in result.completions[0].text
    assert result.completions[0].finish_reason == "stop"


@pytest.mark.model
def test_the_real_model_scores_the_truth_higher(real: TransformersEngine) -> None:
    prompt = (Message("user", "What is the capital of France?"),)
    candidates = ("The capital of France is Paris.", "The capital of France is Oslo.")
    requests = [ScoreRequest(id=str(n), prompt=prompt, candidates=candidates, end_of_turn=True) for n in range(2)]
    for result in real.score(requests):
        assert isinstance(result, Scored)
        assert result.scores[0].total > result.scores[1].total
