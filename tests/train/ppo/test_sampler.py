"""Samplers; what needs a real vLLM runs where there is one: ``bash scripts/vllm-cpu.sh test``."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from accelerate import Accelerator

from cai.engines.base import GenerateRequest, Sampling
from cai.engines.transformers import TransformersEngine
from cai.errors import EngineError, InputError, MissingDependencyError, TrainingError
from cai.train.ppo.policy import PolicyWithValue, causal_of, load_policy
from cai.train.ppo.sampler import TransformersSampler, VLLMSampler, build_sampler
from cai.train.ppo.trainer import Trainer, run_ppo
from tests.engines import conformance, tiny
from tests.engines.test_vllm import HAS_VLLM, on_vllm, saved
from tests.train.ppo.rig import interrupted, metrics, settings, vowels, weights
from tests.train.ppo.test_trainer import start

CPU = torch.device("cpu")
VLLM: dict[str, Any] = {"engine": "vllm", "vllm": {"cache_gib": 0.25}}


def move(policy: PolicyWithValue, by: float = 0.05) -> None:
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in policy.trunk:
            weight.add_(torch.randn_like(weight) * by)


@pytest.mark.parametrize("ahead", [False, True])
def test_transformers_answers_by_the_weights_of_the_last_refresh(
    tmp_path: Path, tiny_model_dir: Path, ahead: bool
) -> None:
    config = settings(tmp_path, tiny_model_dir, rollout={"ahead": ahead})
    policy = load_policy(config, CPU)
    sampler = build_sampler(policy, config, tiny.tokenizer(), Accelerator(cpu=True))
    assert isinstance(sampler, TransformersSampler)

    def answer() -> Any:
        request = GenerateRequest(id="a", prompt="yes", sampling=Sampling(temperature=0, max_new_tokens=8))
        return conformance.tokens(conformance.by_id(sampler.engine.generate([request]))["a"])

    before = answer()
    move(policy, 0.3)
    unrefreshed = answer()
    sampler.refresh()
    assert (unrefreshed == before) == ahead
    assert answer() != before


def test_several_processes_are_refused_one_vllm_over_several_devices(
    tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(tmp_path, tiny_model_dir, rollout={"engine": "vllm", "vllm": {"tensor_parallel": 2}})
    monkeypatch.setattr(Accelerator, "num_processes", 2)
    with pytest.raises(InputError, match=r"tensor_parallel: each of 2 processes has a vLLM of its own.*vllm_server"):
        build_sampler(load_policy(config, CPU), config, tiny.tokenizer(), Accelerator(cpu=True))


@pytest.mark.parametrize(("visible", "wanted"), [(None, "1"), ("4,6", "6")])
def test_each_process_starts_vllm_on_its_own_gpu(
    tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch, visible: str | None, wanted: str
) -> None:
    """The plumbing alone, on a machine without a GPU: what an engine would see as it is started."""
    seen: list[str | None] = []

    class Started:
        renderer = None

        @staticmethod
        def load(*args: Any, **kwargs: Any) -> "Started":
            seen.append(os.environ.get("CUDA_VISIBLE_DEVICES"))
            return Started()

        def close(self) -> None:
            pass

    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr("cai.engines.vllm.VLLMEngine", Started)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    config = settings(tmp_path, tiny_model_dir, rollout=VLLM, lora={"r": 2})
    process: Any = SimpleNamespace(device=torch.device("cuda"), num_processes=2, process_index=3, local_process_index=1)
    sampler = build_sampler(load_policy(config, CPU), config, tiny.tokenizer(), process)
    assert seen == [wanted]
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == visible
    assert (config.out / "rollout-adapter-3" / "adapter_model.safetensors").is_file()
    sampler.close()
    assert not (config.out / "rollout-adapter-3").exists()


@pytest.mark.skipif(HAS_VLLM, reason="vLLM is here")
def test_without_vllm_the_command_that_installs_it_is_said(tmp_path: Path, tiny_model_dir: Path) -> None:
    with pytest.raises(MissingDependencyError, match=r"pip install 'cai\[vllm\]'"):
        run_ppo(settings(tmp_path, tiny_model_dir, rollout=VLLM), vowels)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(params=[{}, {"lora": {"r": 4}}], ids=["whole", "lora"])
def on_it(request: pytest.FixtureRequest, tmp_path: Path, model: Path) -> Iterator[tuple[PolicyWithValue, VLLMSampler]]:
    config = settings(tmp_path, model, rollout=VLLM, **request.param)
    policy = load_policy(config, CPU)
    sampler = build_sampler(policy, config, tiny.shared_tokenizer(), Accelerator(cpu=True))
    assert isinstance(sampler, VLLMSampler)
    yield policy, sampler
    sampler.close()


@on_vllm
def test_after_a_refresh_vllm_writes_what_the_trained_weights_do(on_it: tuple[PolicyWithValue, VLLMSampler]) -> None:
    policy, sampler = on_it
    requests = [
        GenerateRequest(id=text, prompt=text, sampling=Sampling(temperature=0, max_new_tokens=24), logprobs=True)
        for text in ("yes", "What do you think of the lazy dog?", "no " * 100)
    ]

    def both() -> tuple[Any, Any]:
        truth = TransformersEngine(causal_of(policy.policy), tiny.shared_tokenizer())
        return conformance.by_id(sampler.engine.generate(requests)), conformance.by_id(truth.generate(requests))

    for _ in range(2):
        move(policy, 0.2)
        stale, truth = both()
        assert {id_: conformance.tokens(one) for id_, one in stale.items()} != {
            id_: conformance.tokens(one) for id_, one in truth.items()
        }
        sampler.refresh()
        found, truth = both()
        for id_, one in truth.items():
            assert conformance.tokens(found[id_]) == conformance.tokens(one)
            assert found[id_].completions[0].logprobs == pytest.approx(one.completions[0].logprobs, abs=1e-3)


@on_vllm
@pytest.mark.parametrize("options", [{}, {"lora": {"r": 2}}], ids=["whole", "lora"])
def test_ppo_trains_on_what_vllm_draws(tmp_path: Path, model: Path, options: dict[str, Any]) -> None:
    config = settings(tmp_path, model, steps=3, learning_rate=3e-3, rollout=VLLM, **options)
    run_ppo(config, vowels)
    names = {path.name for path in config.out.iterdir()}
    assert names == {".lock", "metrics.jsonl", "model", "result.json", "samples.jsonl"}
    rows = metrics(config.out)
    assert max(row["sampling_gap"] for row in rows) < 1e-4
    assert max(abs(row["weight_max"] - 1) for row in rows) < 1e-3
    assert rows[0]["kl"] == 0
    assert rows[-1]["kl"] > 0.1


@on_vllm
def test_what_vllm_drew_ahead_goes_on_to_the_same_bits(tmp_path: Path, model: Path) -> None:
    outs = []
    for name in ("whole", "cut"):
        config = settings(
            tmp_path / name, model, steps=4, save_every=2, learning_rate=3e-3, rollout={**VLLM, "ahead": True}
        )
        if name == "cut":
            with pytest.raises(KeyboardInterrupt):
                run_ppo(config, interrupted(4))
            assert not any(map(_is_large, psutil.Process().children(recursive=True)))
        run_ppo(config, vowels)
        outs.append(config.out)
    assert metrics(outs[0]) == metrics(outs[1])
    assert all(torch.equal(weight, weights(outs[1])[name]) for name, weight in weights(outs[0]).items())
    assert max(row["weight_max"] for row in metrics(outs[0])) > 1.01


def _is_large(process: psutil.Process) -> bool:
    try:
        return bool(process.memory_info().rss > 100 << 20)
    except psutil.NoSuchProcess:
        return False


@on_vllm
def test_a_step_whose_weights_never_came_is_refused_and_what_is_under_way_ends_with_the_run(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(
        tmp_path, model, rollout={**VLLM, "max_gap": 0.05}, learning_rate=1e-2, batch_size=32, max_new_tokens=100,
        max_length=512,
    )  # fmt: skip
    ready = Trainer(config, Accelerator(cpu=True), vowels)
    try:
        ready.step(1)
        monkeypatch.setattr(VLLMSampler, "refresh", lambda sampler: None)
        with pytest.raises(TrainingError, match="vllm does not run this model as training does"):
            ready.step(2)
        ready.answers._begin(3)
        future = ready.answers._next
        time.sleep(0.1)
    finally:
        ready.answers.close()
    assert future is not None
    assert isinstance(future.exception(timeout=5), EngineError)


@on_vllm
@pytest.mark.timeout(900)
def test_two_processes_have_a_vllm_each(tmp_path: Path, model: Path) -> None:
    config = settings(tmp_path, model, steps=3, learning_rate=3e-3, rollout=VLLM)
    assert start(config, processes=2) == 0
    rows = metrics(config.out)
    assert [row["dropped"] for row in rows] == [0, 0, 0]
    assert max(row["sampling_gap"] for row in rows) < 1e-4
    assert rows[-1]["kl"] > 0.1
