"""What draws the answers: an engine, and how it comes by the weights that are being trained.

**Transformers** samples from the policy where it is; from a copy where that is faster (bfloat16), or where the policy
trains meanwhile (`rollout.ahead`). A copy shares what is frozen: beside an adapter's base it is small, and full
finetuning pays 4 bytes per weight, 2 in bfloat16, which has its copy anyway.

**vLLM** holds the model a second time, in a process of its own. All weights go there before each rollout, through this
machine's memory; of an adapter's policy the adapter alone. Left out: several processes that train, each of which would
need a device of its own for vLLM. `cai.train.ppo.server` has those.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from accelerate import Accelerator
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from cai.engines.base import Engine
from cai.engines.render import Renderer
from cai.engines.transformers import TransformersEngine
from cai.errors import InputError, Problem
from cai.train.ppo.config import PPOConfig
from cai.train.ppo.policy import Actor, PolicyWithValue, causal_of
from cai.train.ppo.server import ServerSampler

ADAPTER = "rollout-adapter"
"""The folder, in that of the run, by which vLLM gets an adapter."""


class Interrupted(Exception):
    """What stops an answer that is being drawn when nobody waits for it any more."""


class Sampler(Protocol):
    """An engine that answers by the policy's weights, as they were at the last refresh or later."""

    renderer: Renderer

    @property
    def engine(self) -> Engine:
        """What is asked for answers."""
        ...

    def refresh(self) -> None:
        """Answer by the policy's present weights from now on. Nothing is being drawn meanwhile."""
        ...

    def interrupt(self) -> None:
        """Make what is being drawn in another thread end soon, with whatever exception; no more will be drawn."""
        ...

    def close(self) -> None:
        """Free what the engine holds."""
        ...


class TransformersSampler:
    """Samples in this process."""

    def __init__(self, policy: PolicyWithValue, config: PPOConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        """Copy the policy where it can't be sampled from in place."""
        self._actor = Actor(policy, config)
        self.engine: TransformersEngine = TransformersEngine(self._actor.network, tokenizer)
        self.renderer = self.engine.renderer
        if self._actor.is_copy:
            self.engine.network.keep_shared()

    def refresh(self) -> None:
        """Take over the policy's weights, where they are a copy."""
        self._actor.refresh()

    def interrupt(self) -> None:
        """Let the copy's next forward pass fail."""
        base: nn.Module = self.engine.network.causal.base_model
        base.register_forward_pre_hook(_refuse)

    def close(self) -> None:
        """Do nothing: the memory is this process's own."""


def _refuse(*_: Any) -> None:
    raise Interrupted("the run has ended")


class VLLMSampler:
    """Samples with vLLM, whose weights are replaced in place."""

    def __init__(self, policy: PolicyWithValue, config: PPOConfig) -> None:
        """Start vLLM on the model that training starts from."""
        from cai.engines.vllm import VLLMEngine

        self._policy, self._folder = policy, config.out / ADAPTER
        adapter = None
        if config.lora is not None:
            adapter = str(self._save_adapter())
        self.engine: VLLMEngine = VLLMEngine.load(
            config.model, dtype="bfloat16" if policy.bf16 else "float32", adapter=adapter, config=config.rollout.vllm
        )
        self.renderer = self.engine.renderer
        self._adapted = adapter is not None

    def refresh(self) -> None:
        """Give vLLM the policy's weights, or its adapter."""
        if self._adapted:
            self.engine.use_adapter(str(self._save_adapter()))
        else:
            self.engine.load_weights(self._policy_weights())

    def _policy_weights(self) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in causal_of(self._policy.policy).state_dict().items():
            yield name, tensor.bfloat16() if self._policy.bf16 else tensor

    def _save_adapter(self) -> Path:
        network: Any = self._policy.policy
        network.save_pretrained(self._folder, save_embedding_layers=False)
        return self._folder

    def interrupt(self) -> None:
        """End vLLM's process, and with it what it is at work on."""
        self.engine.close()

    def close(self) -> None:
        """End vLLM's process."""
        self.engine.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def build_sampler(
    policy: PolicyWithValue, config: PPOConfig, tokenizer: PreTrainedTokenizerBase, accelerator: Accelerator
) -> Sampler:
    """Return what the config asks for; raises InputError where this machine or run can't have it."""
    if config.rollout.engine == "transformers":
        return TransformersSampler(policy, config, tokenizer)
    if config.rollout.engine == "vllm_server":
        return ServerSampler(policy, config, accelerator)
    if accelerator.num_processes > 1:
        problem = f"vLLM in process can't answer for {accelerator.num_processes} processes"
        fix = "start one process, or use vllm_server or transformers"
        raise InputError(Problem("rollout.engine", 0, 0, problem, fix))
    return VLLMSampler(policy, config)
