"""Any OpenAI-compatible server: vLLM, SGLang, llama.cpp, Ollama, or a hosted one.

With the served model's tokenizer at hand (`ServerConfig.tokenizer`), prompts are made here by the one renderer and sent
as token ids: content can't become control, and scores are exact. Without it dialogues go to the server's chat template.
It can't tell a marker in a content from its own; those that are known are made harmless (`wire.escape`), and more can't
be promised over HTTP.

Each seed is a call of its own, and so is each candidate of a score; servers with a prefix cache read what calls begin
with once. What a server can't do is a failure that names it. A refused key ends the stream, and so does a spent budget,
after what was under way. Left out: `shared`, which servers find by themselves, and tokens that are streamed.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cai.budget import BudgetError
from cai.engines.base import Failure, FailureReason, Generated, GenerateRequest, Score, Scored, ScoreRequest
from cai.engines.http import CallError, Session
from cai.engines.server import Key, ServerConfig
from cai.engines.stream import stream
from cai.engines.wire import (
    DIALECTS,
    OWNERS,
    TOO_LONG,
    Call,
    Dialect,
    NotSupportedError,
    UnreadableError,
    chat_call,
    echo_call,
    escape,
    read_choice,
    read_echo,
    read_usage,
    text_call,
)
from cai.errors import EngineError, InputError, Problem
from cai.types import Usage

if TYPE_CHECKING:
    from cai.engines.build import EngineConfig
    from cai.engines.render import Renderer

T = TypeVar("T")

CLAIM_WAIT = 0.02
"""Seconds between two looks at whether other calls have left enough of the budget."""


class OpenAIEngine:
    """Samples and scores with a model that a server holds."""

    name = "openai"

    def __init__(
        self, config: ServerConfig, served: str, *, renderer: "Renderer | None" = None, window: int = 256
    ) -> None:
        """Ask for the model that the server calls `served`; nothing is sent before there is something to ask.

        At most `window` requests are taken from the caller and not yet answered.
        """
        self._key = Key(config.api_key_env)
        self._key.value()  # that there is none is said at once
        self.config, self.renderer = config, renderer
        self.budget = config.budget()
        self._served, self._window = served, window

    # --- the server

    @property
    def model(self) -> str:
        """The served name, and the weights or the host behind it, as far as the server tells."""
        root = self._card.get("root")
        return f"{self._served}@{root if isinstance(root, str) and root else self.config.host}"

    @property
    def context(self) -> int | None:
        """Tokens that the model reads and writes at most, if the server tells."""
        length = self._card.get("max_model_len")
        return length if isinstance(length, int) and length > 0 else None

    @property
    def dialect(self) -> Dialect:
        """What the server takes."""
        kind = self.config.kind
        return DIALECTS[OWNERS.get(str(self._card.get("owned_by")), "other") if kind == "auto" else kind]

    @cached_property
    def _card(self) -> dict[str, Any]:
        """What the server says of the model; nothing where it has no list of models. Raises EngineError."""

        @asynccontextmanager
        async def session() -> AsyncIterator[Callable[[str], Awaitable[dict[str, Any]]]]:
            async with Session(self.config) as session:
                yield session.get

        try:
            (answer,) = stream(["models"], session, window=1)
        except CallError as error:
            if error.status in {404, 405, 501}:
                return {}
            raise EngineError(f"{self.config.host}: {error}") from None
        listed = answer.get("data")
        cards = [card for card in listed if isinstance(card, dict)] if isinstance(listed, list) else []
        for card in cards:
            if card.get("id") == self._served:
                return {key: self._key.clean(value) if isinstance(value, str) else value for key, value in card.items()}
        if not cards:
            return {}
        names = self._key.clean(", ".join(sorted(str(card.get("id")) for card in cards)[:10]))
        raise EngineError(f"{self.config.host} does not serve {self._served!r}; it serves: {names}")

    # --- generate and score

    def generate(self, requests: Iterable[GenerateRequest]) -> Iterator[Generated | Failure]:
        """Yield one result per request, as each is finished."""
        return self._stream(requests, self._generate)

    def score(self, requests: Iterable[ScoreRequest]) -> Iterator[Scored | Failure]:
        """Yield one result per request, as each is finished."""
        return self._stream(requests, self._score)

    def _stream(self, requests: Iterable[Any], work: Callable[[Session, Any], Awaitable[T]]) -> Iterator[T | Failure]:
        """Yield what `work` makes of each request in one session; its refusals become failures."""

        async def answer(session: Session, request: Any) -> T | Failure:
            try:
                return await work(session, request)
            except NotSupportedError as error:
                return Failure(id=request.id, reason="not_supported", message=str(error))
            except (CallError, UnreadableError) as error:
                message = session.key.clean(str(error))
                return Failure(id=request.id, reason=_reason(error, request), message=message)

        @asynccontextmanager
        async def opened() -> AsyncIterator[Callable[[Any], Awaitable[T | Failure]]]:
            async with Session(self.config) as session:
                yield lambda request: answer(session, request)

        _ = self._card  # here, and not in the loop: what it raises is no failure of a request
        yield from stream(requests, opened, window=self._window)

    async def _generate(self, session: Session, request: GenerateRequest) -> Generated | Failure:
        prompt = self._prompt(request, room=1)
        if isinstance(prompt, Failure):
            return prompt
        stop = request.sampling.stop
        if self.renderer is not None and not isinstance(request.prompt, str):
            stop += self.renderer.stop_strings
        calls = [self._call(request, prompt, seed, stop) for seed in request.seeds]
        answers = await _together([self._answer(session, call) for call in calls])
        completions = []
        for answer, _ in answers:
            completion = read_choice(answer, request, stop=stop, renderer=self.renderer)
            completions.append(replace(completion, text=session.key.clean_content(completion.text)))
        return Generated(id=request.id, completions=tuple(completions), usage=_sum(usage for _, usage in answers))

    def _call(self, request: GenerateRequest, prompt: list[int] | str | None, seed: int, stop: tuple[str, ...]) -> Call:
        served, dialect, limit = self._served, self.dialect, request.sampling.max_new_tokens
        if prompt is None:
            assert not isinstance(request.prompt, str)
            return chat_call(served, request, request.prompt, seed, dialect)
        ends: list[int] = []
        if isinstance(prompt, list) and self.renderer is not None:
            ends = sorted(self.renderer.end_ids)
            limit = min(limit, self.context - len(prompt)) if self.context else limit
        return text_call(served, request, seed, prompt, limit=limit, stop=stop, dialect=dialect, end_ids=ends)

    async def _score(self, session: Session, request: ScoreRequest) -> Scored | Failure:
        if not request.candidates:
            return Failure(id=request.id, reason="empty", message="there is no candidate to score")
        if self.renderer is None:
            raise NotSupportedError("scores over HTTP need the served model's tokenizer: set engine.server.tokenizer")
        turn = not isinstance(request.prompt, str) and not request.prefill
        candidates = [
            self.renderer.answer_ids(text, end_of_turn=request.end_of_turn, turn=turn) for text in request.candidates
        ]
        prompt = self._prompt(request, room=max(map(len, candidates)) + 1)
        if isinstance(prompt, Failure):
            return prompt
        assert isinstance(prompt, list)
        dialect = self.dialect
        whole = [prompt + candidate for candidate in candidates if candidate]
        answers = await _together([self._answer(session, echo_call(self._served, ids, dialect)) for ids in whole])
        read = iter([read_echo(answer, ids, len(prompt)) for (answer, _), ids in zip(answers, whole, strict=True)])
        scores = tuple(Score(logprobs=next(read) if candidate else ()) for candidate in candidates)
        return Scored(id=request.id, scores=scores, usage=_sum(usage for _, usage in answers))

    def _prompt(self, request: GenerateRequest | ScoreRequest, *, room: int) -> list[int] | str | Failure | None:
        """Return the prompt as ids, as text, or None where the server's template makes it; or why it can't be read."""
        prompt = request.prompt
        if not prompt or (not isinstance(prompt, str) and not prompt[-1].content.strip()):
            return Failure(id=request.id, reason="empty", message="the prompt is empty")
        if self.renderer is None:
            return escape(prompt + request.prefill) if isinstance(prompt, str) else None
        try:
            ids = self.renderer.prompt_ids(prompt, request.prefill)
        except InputError as error:
            return Failure(id=request.id, reason="not_supported", message=str(error))
        if self.context is not None and len(ids) + room > self.context:
            message = f"the prompt has {len(ids)} tokens and {room} must follow; the context is {self.context}"
            return Failure(id=request.id, reason="too_long", message=message)
        return ids

    async def _answer(self, session: Session, call: Call) -> tuple[dict[str, Any], Usage]:
        """Make a call in a slot and within the budget; return the answer and what it cost."""
        async with session.slots:
            try:
                while not self.budget.claim(call.most):
                    await asyncio.sleep(CLAIM_WAIT)
            except BudgetError as error:
                session.stop(error)
                raise
            spent = Usage(0, 0)
            try:
                answer = await session.post(call.path, call.body)
                spent = read_usage(answer, call.most)
            except asyncio.CancelledError:
                spent = call.most  # the server may have done the work
                raise
            finally:
                self.budget.settle(call.most, spent)
            return answer, spent


async def _together(calls: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Make calls at once; the first that fails ends the others."""
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def _sum(usages: Iterable[Usage]) -> Usage:
    """Add up what calls cost: each reads the prompt again."""
    prompts, completions = zip(*usages, strict=True) if (usages := list(usages)) else ((), ())
    return Usage(sum(prompts), sum(completions))


def _reason(error: CallError | UnreadableError, request: GenerateRequest | ScoreRequest) -> FailureReason:
    """Say which boundary a request crossed at the server."""
    status = error.status if isinstance(error, CallError) else None
    if status in {400, 413, 422} and TOO_LONG.search(str(error)):
        return "too_long"
    if status in {404, 405, 501}:  # the model was in the list, so it is the endpoint that is missing
        return "not_supported"
    return "not_supported" if status in {400, 422} and isinstance(request, ScoreRequest) else "engine"


def from_config(config: "EngineConfig") -> OpenAIEngine:
    """Build the engine for `cai.engines.build`."""
    server = config.server
    if server is None:
        raise _problem("server", "the kind 'openai' needs to know where the server is", "set engine.server.base_url")
    if config.model == "embedded":
        raise _problem("model", "the kind 'openai' needs the name of a model", "write the name that it has there")
    renderer = _load_renderer(server.tokenizer) if server.tokenizer else None
    return OpenAIEngine(server, config.model, renderer=renderer, window=config.window)


def _load_renderer(name: str) -> "Renderer":
    """Return the renderer of a model's folder, hub id or ``embedded``; its weights are not needed."""
    from transformers import AutoTokenizer, GenerationConfig

    from cai.engines.embedded import resolve_model
    from cai.engines.render import Renderer

    is_tokenizer = Path(name, "tokenizer_config.json").is_file()  # a folder without the rest of a model will do
    path = name if is_tokenizer else resolve_model(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise EngineError(f"{name}: its tokenizer cannot be loaded: {error}") from error
    try:
        ends = GenerationConfig.from_pretrained(path).eos_token_id
    except OSError:
        ends = None
    return Renderer(tokenizer, end_ids=[ends] if isinstance(ends, int) else ends or [])


def _problem(key: str, what: str, fix: str) -> InputError:
    return InputError(Problem(f"engine.{key}", 0, 0, what, fix))
