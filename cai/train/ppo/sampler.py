"""What draws the answers: an engine, and how it comes by the weights that are being trained.

**Transformers** samples from the policy where it is; from a copy where that is faster (bfloat16), where the policy
trains meanwhile (`rollout.ahead`), or where it is in pieces (FSDP2). A copy shares what is frozen: beside an adapter's
base it is small, and full finetuning pays 4 bytes per weight, 2 in bfloat16, which has its copy anyway.

**vLLM** holds the model a second time, in a process of its own beside each process that trains, and on the same device:
leave room. All weights go there before each rollout, through this machine's memory; of an adapter's policy the adapter
alone. Left out: one vLLM over several devices for several processes; `cai.train.ppo.server` has those.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedTokenizerBase

from cai.engines.base import Engine
from cai.engines.loading import Dtype
from cai.engines.render import Renderer
from cai.engines.transformers import TransformersEngine
from cai.errors import InputError, Problem
from cai.train.ppo.adapters import POLICY
from cai.train.ppo.config import PPOConfig
from cai.train.ppo.pieces import whole
from cai.train.ppo.policy import Actor, PolicyWithValue, whole_weights
from cai.train.ppo.server import ServerSampler

ADAPTER = "rollout-adapter"
"""The folder, in that of the run and with the process's number, by which vLLM gets an adapter."""

VISIBLE = "CUDA_VISIBLE_DEVICES"


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
    """Samples with vLLM, whose weights are replaced in place; each process that trains has one."""

    def __init__(self, policy: PolicyWithValue, config: PPOConfig, accelerator: Accelerator) -> None:
        """Start vLLM on the model that training starts from."""
        from cai.engines.vllm import VLLMEngine

        self._policy, self._folder = policy, config.out / f"{ADAPTER}-{accelerator.process_index}"
        adapter = None
        if config.lora is not None:
            adapter = str(self._save_adapter())
        dtype: Dtype = "bfloat16" if policy.bf16 else "float32"
        with _own_device(accelerator):
            self.engine: VLLMEngine = VLLMEngine.load(
                config.model, dtype=dtype, adapter=adapter, config=config.rollout.vllm
            )
        self.renderer = self.engine.renderer
        self._adapted = adapter is not None

    def refresh(self) -> None:
        """Give vLLM the policy's weights, or its adapter."""
        if self._adapted:
            self.engine.use_adapter(str(self._save_adapter()))
        else:
            weights = whole_weights(self._policy.policy).items()
            self.engine.load_weights((name, one.bfloat16() if self._policy.bf16 else one) for name, one in weights)

    def _save_adapter(self) -> Path:
        network: Any = self._policy.policy
        adapter = {
            name: whole(tensor).detach()
            for name, tensor in network.state_dict(keep_vars=True).items()
            if ".lora_" in name
        }
        network.save_pretrained(
            self._folder, state_dict=adapter, selected_adapters=[POLICY], save_embedding_layers=False
        )
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
    if accelerator.num_processes > 1 and config.rollout.vllm.tensor_parallel > 1:
        problem = f"each of {accelerator.num_processes} processes has a vLLM of its own, on its own device"
        raise InputError(Problem("rollout.vllm.tensor_parallel", 0, 0, problem, "set it to 1, or take vllm_server"))
    return VLLMSampler(policy, config, accelerator)


@contextlib.contextmanager
def _own_device(accelerator: Accelerator) -> Iterator[None]:
    """Let what is started here see this process's GPU and none of the others'."""
    if accelerator.device.type != "cuda" or accelerator.num_processes == 1:
        yield
        return
    before = os.environ.get(VISIBLE)
    every = before.split(",") if before else [str(number) for number in range(torch.cuda.device_count())]
    os.environ[VISIBLE] = every[accelerator.local_process_index]
    try:
        yield
    finally:
        os.environ.pop(VISIBLE)
        if before is not None:
            os.environ[VISIBLE] = before
