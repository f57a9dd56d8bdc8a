"""vLLM, stepped by this process; its workers, one per device, are processes of their own.

vLLM gets token ids from our renderer and gives token ids back: its chat templates, tokenizer and stop strings are not
used, so a prompt is the same here as for every other engine. Each completion is a request of its own with its own
seed. What prompts begin with alike is read once, whatever `shared` says; every call starts with an empty cache, so
that the same requests in the same order give the same results.

A script that loads this engine needs ``if __name__ == "__main__"``: the workers import it again. Left out: models over
several machines, and weights that a trainer hands over from GPU to GPU (they go through this machine's memory).
"""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import psutil
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from cai.engines.base import Failure, Generated, GenerateRequest, Scored, ScoreRequest
from cai.engines.loading import Dtype, pick_dtype
from cai.engines.render import Renderer
from cai.engines.vllm_config import VLLMConfig
from cai.engines.vllm_jobs import Call, Job, Result, Scoring, Stream, Writing
from cai.errors import EngineError, InputError, MissingDependencyError, Problem

if TYPE_CHECKING:
    from cai.engines.build import EngineConfig

Request = TypeVar("Request", GenerateRequest, ScoreRequest)

GIB = 1 << 30

CPU_CACHE = 4 * GIB
"""Memory for keys and values on a CPU, where a quarter of what is free is more than that."""

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks of adapters that vLLM can leave room for."""

ADAPTED = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Layers that there is room for adapters on, besides those of the first adapter."""

UNADAPTED = {"lm_head", "embed_tokens"}
"""Layers that can't be adapted: vLLM 0.32 gives wrong logits, or none, for a prompt's tokens where the head is."""


class VLLMEngine:
    """Samples and scores with vLLM."""

    name = "vllm"

    def __init__(
        self,
        llm: Any,
        tokenizer: PreTrainedTokenizerBase,
        *,
        end_ids: Iterable[int] = (),
        revision: str = "live",
        window: int = 256,
    ) -> None:
        """Use a ``vllm.LLMEngine`` in this process; `load` makes one.

        At most `window` requests are taken from the caller and not yet answered.
        """
        self.renderer = Renderer(tokenizer, end_ids=end_ids)
        self.context: int = llm.model_config.max_model_len
        self._llm, self._base, self._window = llm, revision, window
        self._block: int = llm.vllm_config.cache_config.block_size
        self._adapter: Any = None
        self._adapters, self._numbers = itertools.count(1), itertools.count()
        self._streams: dict[str, Stream[Any]] = {}

    @classmethod
    def load(
        cls,
        model: str,
        *,
        dtype: Dtype = "auto",
        device: str = "auto",
        adapter: str | None = None,
        max_batch: int | None = None,
        batch_tokens: int | None = None,
        window: int = 256,
        config: VLLMConfig | None = None,
    ) -> Self:
        """Load a model by folder, hub id or ``embedded``, with a LoRA adapter if one is named.

        `max_batch` rows are written at once and `batch_tokens` read in one step; by default what suits the device.
        """
        from cai.engines.embedded import model_digest, resolve_model

        path, config = resolve_model(model), config or VLLMConfig()
        rank, layers = _lora(adapter) if adapter is not None else (0, set())
        settings: dict[str, Any] = {
            "tensor_parallel_size": config.tensor_parallel,
            "max_num_seqs": max_batch,
            "max_num_batched_tokens": batch_tokens,
            "max_model_len": config.context,
            "kv_cache_memory_bytes": int(config.cache_gib * GIB) if config.cache_gib is not None else None,
        }
        if room := max(rank, config.lora_rank):
            settings["enable_lora"] = True
            settings["max_lora_rank"] = next((enough for enough in RANKS if enough >= room), room)
            settings["lora_target_modules"] = sorted({*ADAPTED, *layers})
        with _as_it_was():
            try:
                llm = _start(path, dtype, device, settings)
                tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
            except (InputError, MissingDependencyError):
                raise
            except Exception as error:  # whatever failed in a worker
                raise EngineError(f"{model}: vLLM cannot load it: {error}") from error
        engine = cls(llm, tokenizer, end_ids=_end_ids(path), revision=model_digest(path), window=window)
        if adapter is not None:
            engine.use_adapter(adapter)
        return engine

    @property
    def model(self) -> str:
        """Which weights answer; an adapter's digest comes after the base's."""
        return self._base if self._adapter is None else f"{self._base}+{self._adapter.lora_name}"

    def close(self) -> None:
        """End the workers and free their memory; the engine can't be used after that."""
        if self._llm is not None:
            llm, self._llm = self._llm, None
            llm.engine_core.shutdown()

    # --- weights

    def use_adapter(self, folder: str | None) -> None:
        """Answer with this LoRA adapter on the base from now on, or with the base alone."""
        from vllm.lora.request import LoRARequest

        from cai.engines.embedded import model_digest

        room = self._idle("the adapter").vllm_config.lora_config
        if folder is None:
            self._adapter = None
            return
        rank, layers = _lora(folder)
        if room is None or rank > room.max_lora_rank or not layers <= set(room.target_modules):
            problem = f"the engine was loaded without room for rank {rank} on {', '.join(sorted(layers))}"
            raise InputError(Problem(folder, 0, 0, problem, "load it with this adapter, or with its lora_rank"))
        path = os.path.abspath(folder)
        # A new number each time: a folder's content may be new under the old name.
        self._adapter = LoRARequest(model_digest(path), next(self._adapters), path)

    def load_weights(self, weights: str | Iterable[tuple[str, Tensor]], *, revision: str = "live") -> None:
        """Answer with other weights of the same shape from now on: a model's folder, or every tensor by its name.

        Names are those of the Transformers model. `revision` says what tensors are; a folder's is its digest.
        """
        from cai.engines.embedded import model_digest, resolve_model

        llm = self._idle("the weights")
        given: dict[str, Any]
        if isinstance(weights, str):
            path = resolve_model(weights)
            given, revision = {"weights_path": path}, model_digest(path)
        else:
            given = {"weights_iterator": [(name, tensor.detach().cpu()) for name, tensor in weights]}
        try:
            llm.collective_rpc("reload_weights", kwargs=given)
            llm.collective_rpc(_renew_head)
        except Exception as error:
            self.close()  # some weights may be new and others old
            raise EngineError(f"vLLM cannot take these weights: {error}") from error
        self._base = revision

    def _idle(self, what: str) -> Any:
        """Return vLLM where nothing is being answered: no text is half by one model and half by another."""
        if self._streams:
            raise EngineError(f"{what} can't change while results are being read: read all of them or close the stream")
        return self._open()

    def _open(self) -> Any:
        if self._llm is None:
            raise EngineError("this engine was closed")
        return self._llm

    # --- generate and score

    def generate(self, requests: Iterable[GenerateRequest]) -> Iterator[Generated | Failure]:
        """Yield one result per request, as each is finished; others are read in its place."""
        return self._answers(requests, self._writing)

    def score(self, requests: Iterable[ScoreRequest]) -> Iterator[Scored | Failure]:
        """Yield one result per request, as each is finished; others are read in its place."""
        return self._answers(requests, self._scoring)

    def _answers(
        self, requests: Iterable[Request], begin: Callable[[Request], Job[Result] | Failure]
    ) -> Iterator[Result | Failure]:
        llm = self._open()
        if not self._streams:
            llm.reset_prefix_cache()
        source = iter(requests)
        stream: Stream[Result] = Stream(str(next(self._numbers)), self._submit, llm.abort_request)
        self._streams[stream.name] = stream
        try:
            while True:
                while len(stream) < self._window and (request := next(source, None)) is not None:
                    job = begin(request)
                    result = job if isinstance(job, Failure) else stream.add(job)
                    if result is not None:
                        yield result
                if not len(stream):
                    return
                if not stream.inbox:
                    self._step()
                yield from stream.results()
        finally:
            del self._streams[stream.name]
            if self._llm is not None:
                stream.close()

    def _submit(self, name: str, call: Call) -> None:
        from vllm import SamplingParams
        from vllm.exceptions import VLLMValidationError
        from vllm.inputs import tokens_input
        from vllm.sampling_params import RequestOutputKind

        params = dict(call.params)
        kind = RequestOutputKind.DELTA if params.pop("stream", False) else RequestOutputKind.FINAL_ONLY
        prompt = tokens_input(call.ids, cache_salt=call.salt)
        try:
            settings = SamplingParams(**params, output_kind=kind, detokenize=False, flat_logprobs=True, skip_clone=True)
            self._open().add_request(name, prompt, settings, lora_request=self._adapter)
        except VLLMValidationError as error:
            raise ValueError(str(error)) from error

    def _step(self) -> None:
        """Let vLLM do a step, and lay its outputs where they belong: several streams may be read in turn."""
        llm = self._open()
        if not llm.has_unfinished_requests():
            raise EngineError("vLLM lost a request")
        try:
            outputs = llm.step()
        except Exception as error:
            self.close()
            raise EngineError(f"vLLM stopped: {error}") from error
        for output in outputs:
            stream = self._streams.get(output.request_id.partition("-")[0])
            if stream is not None:
                stream.inbox.append(output)

    def _writing(self, request: GenerateRequest) -> Job[Generated] | Failure:
        prompt = self._prompt(request, room=1)
        return prompt if isinstance(prompt, Failure) else Writing(request, prompt, self.renderer, self.context)

    def _scoring(self, request: ScoreRequest) -> Job[Scored] | Failure:
        if not request.candidates:
            return Failure(id=request.id, reason="empty", message="there is no candidate to score")
        turn = not isinstance(request.prompt, str) and not request.prefill
        candidates = [
            self.renderer.answer_ids(text, end_of_turn=request.end_of_turn, turn=turn) for text in request.candidates
        ]
        prompt = self._prompt(request, room=max(1, *map(len, candidates)))
        return prompt if isinstance(prompt, Failure) else Scoring(request, prompt, candidates, self._block)

    def _prompt(self, request: GenerateRequest | ScoreRequest, *, room: int) -> list[int] | Failure:
        """Return the prompt's ids, or why it can't be read with room for so many tokens after it."""
        prompt = request.prompt
        if not prompt or (not isinstance(prompt, str) and not prompt[-1].content.strip()):
            return Failure(id=request.id, reason="empty", message="the prompt is empty")
        try:
            ids = self.renderer.prompt_ids(prompt, request.prefill)
        except InputError as error:
            return Failure(id=request.id, reason="not_supported", message=str(error))
        if len(ids) + room > self.context:
            message = f"the prompt has {len(ids)} tokens and {room} must follow; the context is {self.context}"
            return Failure(id=request.id, reason="too_long", message=message)
        return ids


def _start(path: str, dtype: Dtype, device: str, settings: dict[str, Any]) -> Any:
    """Return an engine of vLLM whose scheduler is in this process: what shares a step is then no matter of timing."""
    try:
        from vllm import EngineArgs, LLMEngine
        from vllm.platforms import current_platform
        from vllm.v1.executor import Executor
    except ModuleNotFoundError as error:
        if error.name != "vllm":
            raise
        raise MissingDependencyError("vllm", "vllm") from error
    place = current_platform.device_type
    if device not in ("auto", place):
        problem = f"this vLLM runs on {place or 'no device of this machine'}, not on {device!r}"
        raise InputError(Problem("engine", 0, 0, problem, f"use device: {place or 'cpu'}, or another build of vLLM"))
    given = {key: value for key, value in settings.items() if value is not None}
    if place == "cpu":
        given.setdefault("kv_cache_memory_bytes", min(CPU_CACHE, psutil.virtual_memory().available // 4))
        # A prompt that is read in several steps takes its seed's stream back, which a CPU's can't (vLLM 0.32).
        given["enable_chunked_prefill"] = False
    args = EngineArgs(
        model=path,
        dtype=_dtype(dtype, current_platform),
        skip_tokenizer_init=True,
        # Compiling for a CPU takes longer than most runs.
        enforce_eager=place == "cpu",
        enable_prefix_caching=True,
        logprobs_mode="raw_logprobs",
        # Workers that are processes give all their memory back.
        distributed_executor_backend="mp",
        disable_log_stats=True,
        use_tqdm_on_load=False,
        **given,
    )
    if place == "cpu" and args.max_num_batched_tokens is not None:
        args.max_num_batched_tokens = max(args.max_num_batched_tokens, args.create_model_config().max_model_len)
    config = args.create_engine_config()
    return LLMEngine(config, Executor.get_class(config), log_stats=False, multiprocess_mode=False)


@contextmanager
def _as_it_was() -> Iterator[None]:
    """Put back what vLLM sets in this process for its workers: variables, and how many threads torch uses."""
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")  # stdout is for results
    variables, threads = dict(os.environ), torch.get_num_threads()
    os.environ.setdefault("VLLM_HOST_IP", "127.0.0.1")  # else it asks the network who this machine is
    try:
        yield
    finally:
        for key in os.environ.keys() - variables.keys():
            del os.environ[key]
        os.environ.update(variables)
        torch.set_num_threads(threads)


def _renew_head(worker: Any) -> None:
    """Pack a worker's head anew: on a CPU a head that is the embedding is a copy of it, which no reload renews."""
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    if worker.device.type == "cpu":
        for module in worker.model_runner.get_model().modules():
            if isinstance(module, ParallelLMHead):
                module.quant_method.process_weights_after_loading(module)


def _dtype(dtype: Dtype, platform: Any) -> str:
    """Return the type of the weights, without waking the GPU in this process."""
    if dtype == "auto" and platform.device_type == "cpu":
        return str(pick_dtype(dtype, torch.device("cpu"))).removeprefix("torch.")
    if dtype == "auto":
        return "bfloat16" if torch.bfloat16 in platform.supported_dtypes else "float32"
    return dtype


def _lora(folder: str) -> tuple[int, set[str]]:
    """Return the rank of a LoRA adapter, and the layers that it is on."""
    path = Path(folder, "adapter_model.safetensors")
    try:
        with safe_open(path, "pt") as file:
            shapes = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        fix = "name the folder that an adapter was saved into"
        raise InputError(Problem(str(path), 0, 0, "there is no LoRA adapter here", fix)) from error
    layers = {key.partition(".lora_")[0].rpartition(".")[2] for key in shapes if ".lora_" in key}
    refused = sorted(layers & UNADAPTED) or sorted(key for key in shapes if ".lora_" not in key)
    if refused:
        problem = f"vLLM can't score with an adapter on {refused[0]}"
        raise InputError(Problem(str(path), 0, 0, problem, "merge it into its base, and name that"))
    return max((shape[0] for key, shape in shapes.items() if ".lora_A" in key), default=0), layers


def _end_ids(path: str) -> list[int]:
    """Return the end-of-turn tokens that a model's generation config names."""
    try:
        ends = GenerationConfig.from_pretrained(path).eos_token_id
    except OSError:
        return []
    return [ends] if isinstance(ends, int) else list(ends or [])


def from_config(config: "EngineConfig") -> VLLMEngine:
    """Build the engine for `cai.engines.build`."""
    if config.quantization != "none":
        fix = "name a model that was saved so, or use the kind transformers"
        raise InputError(Problem("engine.quantization", 0, 0, "the kind 'vllm' takes weights as they are", fix))
    return VLLMEngine.load(
        config.model,
        dtype=config.dtype,
        device=config.device,
        adapter=config.adapter,
        max_batch=config.max_batch,
        batch_tokens=config.batch_tokens,
        window=config.window,
        config=config.vllm,
    )
