"""The default engine: Transformers in this process, on whatever device there is.

What makes it fast: prompts of similar length are read together; what many prompts begin with is computed once and
held once; rows leave the batch when they end and others take their place; a score costs no logits over the prompt.
What keeps it honest: each sample has its own stream of random numbers, so its text depends on its seed and prompt,
and on the rest of the batch only through the rounding of floats.

Left out: several devices for one model (that is vLLM's), and a cache across calls (a trainer's weights change).
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from cai.engines.base import (
    Failure,
    Generated,
    GenerateRequest,
    Score,
    Scored,
    ScoreRequest,
)
from cai.engines.decoding import Decoder, Lanes, PlainLanes, Row, SharedLanes
from cai.engines.loading import Dtype, Quantization, load_model
from cai.engines.network import Network
from cai.engines.render import Renderer
from cai.engines.scoring import Item, Scorer
from cai.errors import EngineError, InputError
from cai.types import Usage

if TYPE_CHECKING:
    from cai.engines.build import EngineConfig


CPU_ROWS = 64
"""Rows written at once on a CPU: more make a step longer by as much."""

CUDA_ROWS = 512
"""Rows written at once on a GPU, if memory allows."""

GROUP = 8
"""Completions that make it worth writing those of one shared prefix apart from the others."""

STEPS = 16
"""Tokens written between two looks at what has ended."""


@dataclass(frozen=True, kw_only=True)
class AnswerStates:
    """For each candidate of a request, the mean of its tokens' hidden states, ``[layers, hidden]`` in float32.

    A candidate without tokens has a mean of nothing: NaN.
    """

    id: str
    states: tuple[Tensor, ...]


class TransformersEngine:
    """Samples and scores with a causal language model of Transformers."""

    def __init__(
        self,
        model: torch.nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str = "transformers",
        revision: str = "live",
        max_batch: int | None = None,
        batch_tokens: int | None = None,
        window: int = 256,
    ) -> None:
        """Use a model where it is, also one that is being trained: its mode is restored after every step.

        `max_batch` rows are written at once, `batch_tokens` read at once (by default what suits the device), and
        `window` requests are taken from the caller before work on them begins.
        """
        self.network = Network(model)
        config = getattr(self.network.causal, "generation_config", None)
        ends = getattr(config, "eos_token_id", None)
        self.renderer = Renderer(tokenizer, end_ids=[ends] if isinstance(ends, int) else ends or [])
        self.name = name
        self.model = revision
        self._max_batch, self._window = max_batch, window
        on_gpu = self.network.device.type == "cuda"
        self._batch_tokens = batch_tokens or (32768 if on_gpu else 4096)

    @classmethod
    def load(
        cls,
        model: str,
        *,
        dtype: Dtype = "auto",
        quantization: Quantization = "none",
        device: str = "auto",
        adapter: str | None = None,
        max_batch: int | None = None,
        batch_tokens: int | None = None,
        window: int = 256,
    ) -> Self:
        """Load a model by folder, hub id or ``embedded``, with a LoRA adapter if one is named.

        `quantization` holds the weights of the linear layers in 8 bits (LLM.int8(), arXiv 2208.07339) or in 4 (NF4,
        arXiv 2305.14314) by bitsandbytes, and computes in `dtype`.
        """
        network, tokenizer, revision = load_model(
            model, dtype=dtype, quantization=quantization, device=device, adapter=adapter
        )
        engine = cls(
            network, tokenizer, revision=revision, max_batch=max_batch, batch_tokens=batch_tokens, window=window
        )
        engine.network.keep_shared()
        return engine

    @property
    def layers(self) -> int:
        """How many layers the model has: what `answer_states` can be asked for besides 0, the embedding."""
        return int(self.network.causal.config.get_text_config().num_hidden_layers)

    # --- generate

    def generate(self, requests: Iterable[GenerateRequest]) -> Iterator[Generated | Failure]:
        """Yield one result per request, as each is finished; a window of them is read before the first."""
        source = iter(requests)
        while window := list(itertools.islice(source, self._window)):
            yield from self._generate_window(window)

    def _generate_window(self, window: Sequence[GenerateRequest]) -> Iterator[Generated | Failure]:
        groups: dict[tuple[int, ...], list[Row]] = {}
        rows: list[list[Row]] = []
        for owner, request in enumerate(window):
            prompt = self._prompt(request, room=1)
            if isinstance(prompt, Failure):
                rows.append([])
                yield prompt
                continue
            shared = tuple(prompt[: self.renderer.shared_length(request.prompt, request.shared)])
            rows.append(self._rows(owner, request, prompt))
            groups.setdefault(shared, []).extend(rows[-1])
            if not request.seeds:
                yield Generated(id=request.id, completions=(), usage=Usage(len(prompt), 0))
        missing = [len(own) for own in rows]
        for row in self._write(_merge_small(groups)):
            missing[row.owner] -= 1
            if not missing[row.owner]:
                yield _generated(window[row.owner], rows[row.owner])

    def _rows(self, owner: int, request: GenerateRequest, prompt: list[int]) -> list[Row]:
        is_dialogue = not isinstance(request.prompt, str)
        return [
            Row(
                owner=owner,
                ids=prompt,
                sampling=request.sampling,
                seed=seed,
                limit=max(1, min(request.sampling.max_new_tokens, self.network.context - len(prompt))),
                logprobs_wanted=request.logprobs,
                turn=is_dialogue and not request.prefill,
                stop=request.sampling.stop + (self.renderer.stop_strings if is_dialogue else ()),
            )
            for seed in request.seeds
        ]

    def _write(self, groups: Iterable[Sequence[Row]]) -> Iterator[Row]:
        """Yield rows as they end, group by group. Out of memory means fewer rows at once, and those again."""
        for group in groups:
            waiting = list(group)
            while waiting:
                capacity = min(len(waiting), self._capacity(waiting))
                decoder: Decoder | None = None
                try:
                    while decoder is None or not decoder.done:
                        with self.network.inference():
                            decoder = decoder or self._decoder(waiting, capacity)
                            ended = decoder.advance(STEPS)
                        yield from ended
                except torch.OutOfMemoryError as error:
                    if capacity == 1:
                        raise EngineError(f"out of memory for one row of {len(waiting[0].ids)} tokens") from error
                    self._max_batch = capacity // 2
                    decoder = None
                    torch.cuda.empty_cache()
                waiting = [row for row in waiting if row.completion is None]
                for row in waiting:
                    row.restart()

    def _decoder(self, rows: Sequence[Row], capacity: int) -> Decoder:
        pad = self.renderer.pad_id
        lanes: Lanes = PlainLanes(self.network, pad)
        if self.network.shared:
            lanes = SharedLanes(self.network, [row.ids for row in rows], capacity, self._batch_tokens, pad)
        return Decoder(rows, lanes, self.renderer, capacity)

    def _capacity(self, rows: Sequence[Row]) -> int:
        """Return how many rows to write at once."""
        if self._max_batch is not None:
            return self._max_batch
        device = self.network.device
        if device.type != "cuda":
            return CPU_ROWS
        config = self.network.config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        token = 2 * config.num_hidden_layers * heads * width * self.network.causal.dtype.itemsize
        longest = max(len(row.ids) + row.limit for row in rows)
        free, _ = torch.cuda.mem_get_info(device)
        return max(1, min(CUDA_ROWS, int(0.6 * free / (token * longest))))

    # --- score

    def score(self, requests: Iterable[ScoreRequest]) -> Iterator[Scored | Failure]:
        """Yield one result per request, as each is finished; a window of them is read before the first."""

        def run(scorer: Scorer, batch: Sequence[Item]) -> list[list[list[float]]]:
            return scorer.logprobs(batch)

        for request, item, scores in self._over_items(requests, run):
            if item is None:
                yield scores
                continue
            if not all(math.isfinite(logprob) for score in scores for logprob in score):
                message = "the model's probabilities are not finite: its weights are broken"
                yield Failure(id=request.id, reason="engine", message=message)
                continue
            usage = Usage(len(item.prompt), sum(map(len, item.candidates)))
            yield Scored(id=request.id, scores=tuple(Score(logprobs=tuple(score)) for score in scores), usage=usage)

    def answer_states(
        self, requests: Iterable[ScoreRequest], layers: tuple[int, ...]
    ) -> Iterator[AnswerStates | Failure]:
        """Yield each candidate's mean hidden state at the layers (0 is the embedding, -1 the last)."""

        def run(scorer: Scorer, batch: Sequence[Item]) -> list[list[Tensor]]:
            return scorer.states(batch, layers)

        for request, item, states in self._over_items(requests, run):
            yield states if item is None else AnswerStates(id=request.id, states=tuple(states))

    def _over_items(
        self, requests: Iterable[ScoreRequest], run: Callable[[Scorer, Sequence[Item]], list[Any]]
    ) -> Iterator[tuple[ScoreRequest, Item | None, Any]]:
        """Yield requests with what `run` makes of them, or with a failure and no item."""
        source = iter(requests)
        while window := list(itertools.islice(source, self._window)):
            groups: dict[tuple[int, ...], list[Item]] = {}
            for owner, request in enumerate(window):
                item = self._item(owner, request)
                if isinstance(item, Failure):
                    yield request, None, item
                    continue
                shared = item.prompt[: self.renderer.shared_length(request.prompt, request.shared)]
                groups.setdefault(tuple(shared), []).append(item)
            for group in _merge_single(groups):
                for item, result in self._run_group(group, run):
                    yield window[item.owner], item, result

    def _run_group(
        self, items: Sequence[Item], run: Callable[[Scorer, Sequence[Item]], list[Any]]
    ) -> Iterator[tuple[Item, Any]]:
        """Yield items of one shared prefix with their results; out of memory means smaller batches from there on."""
        done: set[Item] = set()
        batch: Sequence[Item] = items
        while len(done) < len(items):
            waiting = [item for item in items if item not in done]
            try:
                scorer = Scorer(self.network, waiting, self._batch_tokens, self.renderer.pad_id)
                for batch in scorer.batches(waiting):
                    with self.network.inference():
                        results = run(scorer, batch)
                    done.update(batch)
                    yield from zip(batch, results, strict=True)
            except torch.OutOfMemoryError as error:
                if len(batch) == 1:
                    raise EngineError(f"out of memory for one request of {batch[0].cost} tokens") from error
                self._batch_tokens //= 2
                torch.cuda.empty_cache()

    def _item(self, owner: int, request: ScoreRequest) -> Item | Failure:
        if not request.candidates:
            return Failure(id=request.id, reason="empty", message="there is no candidate to score")
        turn = not isinstance(request.prompt, str) and not request.prefill
        candidates = [
            self.renderer.answer_ids(text, end_of_turn=request.end_of_turn, turn=turn) for text in request.candidates
        ]
        prompt = self._prompt(request, room=max(map(len, candidates)))
        return prompt if isinstance(prompt, Failure) else Item(owner, prompt, candidates)

    # --- both

    def _prompt(self, request: GenerateRequest | ScoreRequest, *, room: int) -> list[int] | Failure:
        """Return the prompt's ids, or why it can't be read with room for so many tokens after it."""
        prompt = request.prompt
        if not prompt or (not isinstance(prompt, str) and not prompt[-1].content.strip()):
            return Failure(id=request.id, reason="empty", message="the prompt is empty")
        try:
            ids = self.renderer.prompt_ids(prompt, request.prefill)
        except InputError as error:
            return Failure(id=request.id, reason="not_supported", message=str(error))
        if len(ids) + room > self.network.context:
            message = f"the prompt has {len(ids)} tokens and {room} must follow; the context is {self.network.context}"
            return Failure(id=request.id, reason="too_long", message=message)
        return ids


def _generated(request: GenerateRequest, rows: Sequence[Row]) -> Generated:
    completions = tuple(row.completion for row in rows if row.completion is not None)
    usage = Usage(len(rows[0].ids), sum(len(completion.token_ids) for completion in completions))
    return Generated(id=request.id, completions=completions, usage=usage)


def _merge_small(groups: dict[tuple[int, ...], list[Row]]) -> list[list[Row]]:
    """Return the groups that are large enough to be written apart, and all the others as one."""
    large = [rows for shared, rows in groups.items() if shared and len(rows) >= GROUP]
    rest = [row for shared, rows in groups.items() if not shared or len(rows) < GROUP for row in rows]
    return [*large, rest] if rest else large


def _merge_single(groups: dict[tuple[int, ...], list[Item]]) -> list[list[Item]]:
    """Return the groups of at least two items, and all the others as one."""
    several = [items for shared, items in groups.items() if shared and len(items) > 1]
    rest = [item for shared, items in groups.items() if not shared or len(items) < 2 for item in items]
    return [*several, rest] if rest else several


def from_config(config: "EngineConfig") -> TransformersEngine:
    """Build the engine for `cai.engines.build`."""
    return TransformersEngine.load(
        config.model,
        dtype=config.dtype,
        quantization=config.quantization,
        device=config.device,
        adapter=config.adapter,
        max_batch=config.max_batch,
        batch_tokens=config.batch_tokens,
        window=config.window,
    )
