"""Rollouts by a vLLM server, which may be on devices and machines of its own, and serve several processes that train.

The server is started apart, so that it takes orders (``VLLM_SERVER_DEV_MODE=1``: keep it off open networks), and on the
model that training starts from:

    VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --host 127.0.0.1 --port 8000

Before each rollout the main process writes the weights into the run's folder, which the server must see under the same
path, and has the server read them in place: of a LoRA policy the sum of base and adapter, which in bfloat16 is rounded.
Left out: weights from GPU to GPU.

A server puts its batches together as calls arrive: what it draws depends on timing by the rounding of floats, so a run
that goes on need not end with the same bits. On a CPU it can't renew a head that is the embedding too (vLLM 0.32).
"""

import shutil
from typing import Any

import httpx
from accelerate import Accelerator

from cai.engines.build import EngineConfig
from cai.engines.openai import OpenAIEngine, from_config
from cai.engines.render import Renderer
from cai.engines.server import Key
from cai.errors import EngineError
from cai.train.ppo.config import PPOConfig
from cai.train.ppo.policy import PolicyWithValue, causal_of, whole_weights

WEIGHTS = "rollout-weights"
"""The folder, in that of the run, by which the server gets the weights."""


class ServerSampler:
    """Samples with a server that reads the policy's weights from a folder."""

    def __init__(self, policy: PolicyWithValue, config: PPOConfig, accelerator: Accelerator) -> None:
        """Know where the server is; nothing is sent before there is something to ask."""
        assert config.rollout.server is not None
        self._server = config.rollout.server.model_copy(update={"tokenizer": config.model})
        self._policy, self._accelerator = policy, accelerator
        self._folder = (config.out / WEIGHTS).resolve()
        name = config.rollout.served or config.model
        self.engine: OpenAIEngine = from_config(EngineConfig(kind="openai", model=name, server=self._server))
        assert self.engine.renderer is not None
        self.renderer: Renderer = self.engine.renderer

    def refresh(self) -> None:
        """Have the server read the policy's weights, when no process waits for an answer any more."""
        self._accelerator.wait_for_everyone()
        weights = whole_weights(self._policy.policy)
        if self._accelerator.is_main_process:
            if self._policy.bf16:
                weights = {name: tensor.bfloat16() for name, tensor in weights.items()}
            causal_of(self._policy.policy).save_pretrained(self._folder, state_dict=weights)
            self._order("collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": str(self._folder)}})
            self._order("reset_prefix_cache")
        self._accelerator.wait_for_everyone()

    def _order(self, path: str, body: dict[str, Any] | None = None) -> None:
        key = Key(self._server.api_key_env)
        value = key.value()
        try:
            answer = httpx.post(
                f"{self._server.base_url.removesuffix('/v1')}/{path}",
                json=body,
                headers={"Authorization": f"Bearer {value}"} if value else {},
                timeout=httpx.Timeout(self._server.timeout, connect=self._server.connect_timeout),
            )
        except httpx.HTTPError as error:
            raise EngineError(f"{self._server.host}: the weights can't be sent: {key.clean(str(error))}") from None
        if answer.status_code == 404:
            raise EngineError(f"{self._server.host} takes no weights; start it with VLLM_SERVER_DEV_MODE=1")
        if answer.status_code != 200:
            said = key.clean(answer.text[:200])
            raise EngineError(f"{self._server.host} could not take the weights ({answer.status_code}): {said}")

    def interrupt(self) -> None:
        """Do nothing: the server drops what nobody waits for."""

    def close(self) -> None:
        """Remove the weights."""
        if self._accelerator.is_main_process:
            shutil.rmtree(self._folder, ignore_errors=True)
