"""A reward that a server gives: calls in batches, many at once, each with its time; a batch that fails has no reward.

A refused key ends the run. All other faults, after their retries, are answers without a reward.
"""

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import cached_property
from typing import Any

from cai.engines.http import CallError, Session
from cai.engines.stream import stream
from cai.train.rewards.config import HttpReward
from cai.types import Dialogue, Message

Item = tuple[int, Sequence[Dialogue], Sequence[str]]
"""Where a batch starts, and what is in it."""

Given = tuple[int, list[float | None]]

SPEAKERS = {"user": "\n\nHuman: ", "assistant": "\n\nAssistant: ", "system": ""}


class Asker:
    """Asks a server for rewards, in the form that `HttpReward` describes."""

    def __init__(self, entry: HttpReward) -> None:
        """Ask the server of an entry."""
        self._entry = entry
        self.failure = ""
        """Why the last answer without a reward has none."""

    def __call__(self, prompts: Sequence[Dialogue], answers: Sequence[str]) -> list[float | None]:
        """Return a score for each answer, None where the server has none."""
        size = self._entry.batch
        items: list[Item] = [
            (start, prompts[start : start + size], answers[start : start + size])
            for start in range(0, len(answers), size)
        ]
        rewards: list[float | None] = [None] * len(answers)
        for start, given in stream(items, self._session, window=self._entry.concurrency):
            rewards[start : start + len(given)] = given
        return rewards

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[Callable[[Item], Awaitable[Given]]]:
        async with Session(self._entry.server()) as session:

            async def work(item: Item) -> Given:
                start, prompts, answers = item
                async with session.slots:
                    try:
                        said = await session.post(self._entry.endpoint, self.body(prompts, answers))
                    except CallError as error:
                        self.failure = str(error)
                        return start, [None] * len(answers)
                return start, rewards_of(said, len(answers))

            yield work

    def body(self, prompts: Sequence[Dialogue], answers: Sequence[str]) -> dict[str, Any]:
        """Return what is sent for these answers."""
        texts = [self._text(prompt) for prompt in prompts]
        return {
            "query": [text + answer for text, answer in zip(texts, answers, strict=True)],
            "prompts": texts,
            "labels": [None] * len(answers),
            "messages": [
                turns_of((*prompt, Message("assistant", answer)))
                for prompt, answer in zip(prompts, answers, strict=True)
            ],
        }

    def _text(self, prompt: Dialogue) -> str:
        if self._entry.tokenizer is None:
            return "".join(SPEAKERS[turn.role] + turn.content for turn in prompt) + SPEAKERS["assistant"]
        return str(self._tokenizer.apply_chat_template(turns_of(prompt), tokenize=False, add_generation_prompt=True))

    @cached_property
    def _tokenizer(self) -> Any:
        from cai.engines.loading import read_tokenizer

        return read_tokenizer(str(self._entry.tokenizer))


def turns_of(dialogue: Dialogue) -> list[dict[str, str]]:
    """Return a dialogue as JSON has it."""
    return [{"role": turn.role, "content": turn.content} for turn in dialogue]


def rewards_of(said: dict[str, Any], count: int) -> list[float | None]:
    """Return the rewards in a server's answer: None for null and for what is no number; all None for a wrong count.

    >>> rewards_of({"rewards": [0.5, None, "high"]}, 3), rewards_of({"rewards": [1.0]}, 2)
    ([0.5, None, None], [None, None])
    """
    given = said.get("rewards")
    if not isinstance(given, list) or len(given) != count:
        return [None] * count
    return [float(value) if _is_number(value) else None for value in given]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
