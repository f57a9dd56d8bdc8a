"""Hidden states with a planted direction, and an engine that shows them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cai.constitution import Principle
from cai.engines.base import Failure, Generated, GenerateRequest, ScoreRequest
from cai.engines.scripted import ScriptedEngine
from cai.judges.contrasts import Array, Contrasts, Example, States, contrast_states
from cai.storage import seed_from
from cai.types import Dialogue, Message

LAYERS, HIDDEN = 3, 16


def planted(seed: int = 0) -> Array:
    """A direction in each layer but the last, which knows nothing."""
    direction = np.random.default_rng(seed).normal(size=(LAYERS, HIDDEN))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    direction[-1] = 0
    return np.asarray(direction)


def answers(count: int, side: float, seed: int) -> Array:
    noise = np.random.default_rng(seed).normal(size=(count, LAYERS, HIDDEN)) * np.linspace(0.5, 3, HIDDEN)
    return np.asarray(noise + side * 3 * planted())


def lengths(count: int, seed: int, more: float = 0.0) -> Array:
    return np.asarray(np.random.default_rng(seed).normal(3 + more, 0.5, size=count))


def pairs(count: int = 300, *, side: float = 1, good: int = 1, bad: int = 2) -> Contrasts:
    """Answers on both sides of the planted direction, of lengths that mean nothing."""
    return Contrasts(
        answers(count, side, good),
        answers(count, -side, bad),
        lengths(count, good + 50),
        lengths(count, bad + 50),
    )


@dataclass(frozen=True)
class Read:
    id: str
    states: tuple[Array, ...]


class StateEngine(ScriptedEngine):
    """Answers by what it is told, and shows states in which kindness is the planted direction."""

    layers = 30

    def __init__(self, silent: frozenset[str] = frozenset(), *, short: bool = False) -> None:
        super().__init__(self._answer)
        self._silent, self._short = silent, short
        self.read: list[ScoreRequest] = []

    def _answer(self, request: GenerateRequest, seed: int) -> str | Failure:
        assert not isinstance(request.prompt, str)
        if request.id in self._silent:
            return Failure(id=request.id, reason="engine", message="out of memory")
        if self._short and len(request.prompt) > 2:
            return Failure(id=request.id, reason="too_long", message="two turns at most")
        return f"{'kind' if 'kind' in request.prompt[0].content else 'cruel'} words {seed % 1000}"

    def generate(self, requests: Iterable[GenerateRequest]) -> Iterator[Generated | Failure]:
        yield from reversed(list(super().generate(requests)))

    def answer_states(self, requests: Iterable[ScoreRequest], layers: tuple[int, ...]) -> Iterator[States | Failure]:
        for request in reversed(list(requests)):
            self.read.append(request)
            if "unreadable" in request.candidates:
                yield Failure(id=request.id, reason="empty", message="nothing to read")
            else:
                yield Read(request.id, tuple(self.state(text) for text in request.candidates))

    def state(self, text: str) -> Array:
        if text == "overflow":
            return np.full((LAYERS, HIDDEN), np.nan)
        side = ("kind" in text) - ("cruel" in text)
        return np.asarray(answers(1, side, seed_from(text) % 2**32)[0])


PRINCIPLES = tuple(
    Principle(id=name, text=f"Be kind: {name}.", contrast=f"Be rude: {name}.") for name in ("a", "b", "c", "d")
)


def prompts(count: int) -> list[Dialogue]:
    return [(Message("user", f"question {number}"),) for number in range(count)]


EXAMPLES = tuple(Example(f"asked {n}", f"good {n}", f"bad {n}") for n in range(5))


def contrasts(engine: StateEngine, count: int, seed: int = 0, examples: Sequence[Example] = ()) -> Contrasts:
    return contrast_states(engine, prompts(count), PRINCIPLES, layers=(4, 6, 8), seed=seed, examples=examples)
