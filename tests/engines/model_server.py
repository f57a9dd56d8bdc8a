"""A real, if small, OpenAI-compatible server: it computes with the tiny model what vLLM's interface promises.

Token ids in and out, seeds, stop strings, log-probabilities of what was drawn and (`echo`) of what was read; chats are
rendered here. One request at a time.
"""

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

from cai.engines.base import Completion, Sampling
from cai.engines.decoding import Row
from cai.engines.scoring import Item
from cai.engines.transformers import TransformersEngine
from cai.types import Message
from tests.engines import tiny
from tests.engines.fault_server import Reply, Seen, models


class ModelServer:
    """The handler of a `LoopbackServer`."""

    def __init__(self, *, owner: str = "vllm", name: str = "tiny") -> None:
        self._engine = TransformersEngine(tiny.llama(), tiny.shared_tokenizer(), batch_tokens=256)
        self._owner, self._name = owner, name
        self._lock = threading.Lock()

    async def __call__(self, seen: Seen) -> Reply:
        if seen.path == "/v1/models":
            return Reply.of(models(self._name, owned_by=self._owner, root="weights-1", max_model_len=tiny.CONTEXT))
        return await asyncio.to_thread(self._answer, seen)

    def _answer(self, seen: Seen) -> Reply:
        body, renderer = seen.json, self._engine.renderer
        is_chat = seen.path.endswith("/chat/completions")
        if is_chat:
            *before, last = [Message(message["role"], message["content"]) for message in body["messages"]]
            prefill = last.content if body.get("continue_final_message") else ""
            ids = renderer.prompt_ids(tuple(before) if prefill else (*before, last), prefill)
        else:
            prompt = body["prompt"]
            ids = prompt if isinstance(prompt, list) else renderer.prompt_ids(prompt)
        limit = body.get("max_tokens", 16)
        if len(ids) + 1 > tiny.CONTEXT:
            said = f"This model's maximum context length is {tiny.CONTEXT} tokens, but {len(ids)} were given"
            return Reply.of({"error": {"message": said, "type": "BadRequestError"}}, status=400)
        with self._lock:
            written = self._write(ids, body, min(limit, tiny.CONTEXT - len(ids)))
            read = self._read(ids) if body.get("echo") else []
        return Reply.of(self._choice(written, ids, read, body, is_chat=is_chat))

    def _write(self, ids: list[int], body: dict[str, Any], limit: int) -> Completion:
        """Write until an end; what is returned has the tokens of a stop string, as vLLM's has."""
        sampling = Sampling(
            temperature=body.get("temperature", 1.0),
            top_p=body.get("top_p", 1.0),
            top_k=max(0, body.get("top_k", 0)),
            min_new_tokens=body.get("min_tokens", 0),
            max_new_tokens=limit,
        )
        row = Row(
            owner=0,
            ids=ids,
            sampling=sampling,
            seed=body.get("seed", 0),
            limit=limit,
            logprobs_wanted=True,
            turn=False,
            stop=(),
        )
        (ended,) = self._engine._write([[row]])
        assert ended.completion is not None
        return self._stopped(ended.completion, body.get("stop", ()))

    def _stopped(self, whole: Completion, stops: Sequence[str]) -> Completion:
        for count in range(1, len(whole.token_ids) + 1):
            text = self._engine.renderer.decode(whole.token_ids[:count])
            places = [text.find(stop) for stop in stops if stop in text]
            if places:
                assert whole.logprobs is not None
                return Completion(
                    text=text[: min(places)],
                    token_ids=whole.token_ids[:count],
                    finish_reason="stop",
                    logprobs=whole.logprobs[:count],
                )
        return whole

    def _read(self, ids: list[int]) -> list[float]:
        """Return the log-probability of each id but the first."""
        if len(ids) < 2:
            return []
        item = Item(0, ids[:1], [ids[1:]])
        ((_, scores),) = self._engine._run_group([item], lambda scorer, batch: scorer.logprobs(batch))
        logprobs: list[float] = scores[0]
        return logprobs

    def _choice(
        self, written: Completion, ids: list[int], read: list[float], body: dict[str, Any], *, is_chat: bool
    ) -> dict[str, Any]:
        drawn = list(written.token_ids)
        logprobs: dict[str, Any] | None = None
        if body.get("logprobs") and is_chat:
            logprobs = {"content": [{"token": "?", "logprob": value} for value in written.logprobs or ()]}
        elif body.get("logprobs"):
            values: list[float | None] = list(written.logprobs or ())
            logprobs = {"token_logprobs": [None, *read, *values] if body.get("echo") else values}
        choice: dict[str, Any] = {"index": 0, "finish_reason": written.finish_reason, "logprobs": logprobs}
        choice |= {"message": {"content": written.text}} if is_chat else {"text": written.text}
        if body.get("return_token_ids"):
            choice |= {"token_ids": drawn, "prompt_token_ids": ids}
        usage = {"prompt_tokens": len(ids), "completion_tokens": len(drawn)}
        return {"choices": [choice], "usage": usage}
