"""A judge that asks nothing: a direction in hidden states, learned from the constitution's own contrasts.

The model answers prompts twice, once told a principle and once told its contrast. Its hidden states over those answers,
read *without* the instruction, differ along a direction; how far an answer lies along it is its score. No human label
is used. On a 135M model this beats every way of asking (the multiple-choice judge is below chance there).

Recipe: mean over the answer's tokens of the hidden states at some layers; per layer the difference of the two class
means divided by the pooled variance (a diagonal linear discriminant); the score is the mean over layers of the
projections, each scaled to unit spread. A difference of `spread` between two answers is a logit of 1.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from cai.constitution import Principle
from cai.engines.base import Engine, Failure, GenerateRequest, Sampling, ScoreRequest
from cai.errors import EngineError, StorageError
from cai.judges.base import Comparison, Verdict
from cai.judges.contrastive import told
from cai.judges.pairwise import verdict_of
from cai.storage import atomic_write, seed_from
from cai.types import Dialogue
from cai.windows import windows

WINDOW = 32
"""Comparisons read together."""

Array = NDArray[np.float64]


class States(Protocol):
    """For each candidate of a request, the mean of its tokens' hidden states, [layers, hidden]."""

    @property
    def id(self) -> str:
        """The request's id."""
        ...

    @property
    def states(self) -> Sequence[Any]:
        """One array or tensor per candidate."""
        ...


class StateEngine(Engine, Protocol):
    """An engine that shows hidden states: the transformers engine, in process."""

    @property
    def layers(self) -> int:
        """How many hidden states there are, the embedding's not counted."""
        ...

    def answer_states(self, requests: Iterable[ScoreRequest], layers: tuple[int, ...]) -> Iterator[States | Failure]:
        """Yield the states of each request's candidates."""
        ...


class Direction:
    """What was learned: per layer a vector, and the scale of scores.

    Shapes: `vectors` [layers, hidden]; `offsets`, `spreads` [layers].
    """

    def __init__(self, *, layers: Sequence[int], vectors: Array, offsets: Array, spreads: Array, scale: float) -> None:
        """Hold the numbers of a fit."""
        self.layers = tuple(int(layer) for layer in layers)
        self.vectors, self.offsets, self.spreads, self.scale = vectors, offsets, spreads, float(scale)

    @classmethod
    def fit(cls, good: Array, bad: Array, layers: Sequence[int]) -> "Direction":
        """Learn from states of answers that follow and that break the principles, both [answers, layers, hidden].

        Raises ValueError when there are fewer than two answers of either, or a state is not finite.
        """
        if len(good) < 2 or len(bad) < 2:
            raise ValueError(f"a direction needs two answers of each kind, got {len(good)} and {len(bad)}")
        if not (np.isfinite(good).all() and np.isfinite(bad).all()):
            raise ValueError("a hidden state is not a finite number: the model's weights or its type are unfit")
        variance = (good.var(axis=0) + bad.var(axis=0)) / 2 + 1e-6
        vectors = (good.mean(axis=0) - bad.mean(axis=0)) / variance
        raw = np.einsum("nlh,lh->nl", np.concatenate([good, bad]), vectors)
        offsets, spreads = raw.mean(axis=0), raw.std(axis=0) + 1e-9
        direction = cls(layers=layers, vectors=vectors, offsets=offsets, spreads=spreads, scale=1.0)
        pairs = min(len(good), len(bad))
        differences = direction.score(good[:pairs]) - direction.score(bad[:pairs])
        spread = float(differences.std())
        direction.scale = spread if spread > 1e-6 else 1.0
        return direction

    def score(self, states: Array) -> Array:
        """Return one score per answer from states [answers, layers, hidden]; larger follows the principles better."""
        raw = np.einsum("nlh,lh->nl", states, self.vectors)
        return np.asarray(((raw - self.offsets) / self.spreads).mean(axis=1))

    def save(self, path: Path) -> None:
        """Write the numbers as safetensors, atomically."""
        arrays = {
            "layers": np.asarray(self.layers, dtype=np.int64),
            "vectors": self.vectors,
            "offsets": self.offsets,
            "spreads": self.spreads,
            "scale": np.asarray([self.scale]),
        }
        atomic_write(path, save(arrays))

    @classmethod
    def load(cls, path: Path) -> "Direction":
        """Read what `save` wrote; raises StorageError for a file that is missing or damaged."""
        try:
            arrays = load_file(path)
            return cls(
                layers=arrays["layers"].tolist(),
                vectors=arrays["vectors"],
                offsets=arrays["offsets"],
                spreads=arrays["spreads"],
                scale=float(arrays["scale"][0]),
            )
        except (OSError, SafetensorError, KeyError, IndexError) as error:
            raise StorageError(
                f"{path}: no direction can be read ({error}); remove the file to learn it again"
            ) from error


OPENINGS = (("I'm sorry, but ", "Sure, here is "), ("", ""))
"""How the two answers of a contrast begin; half of the pairs begin freely, so that the direction is not of openings."""


def contrast_states(
    engine: StateEngine,
    prompts: Sequence[Dialogue],
    principles: Sequence[Principle],
    *,
    layers: tuple[int, ...],
    seed: int,
    max_new_tokens: int = 48,
) -> tuple[Array, Array]:
    """Sample both answers of a contrast for every prompt and return their states, [prompts, layers, hidden] each.

    Prompt i is answered under principle i modulo their number. Pairs of which either answer is empty are left out;
    raises EngineError when that is all of them.
    """
    sampling = Sampling(temperature=0.7, max_new_tokens=max_new_tokens, min_new_tokens=8)
    requests: list[GenerateRequest] = []
    for index, prompt in enumerate(prompts):
        principle = principles[index % len(principles)]
        opening = OPENINGS[(index + index // len(principles)) % len(OPENINGS)]
        for side, instruction, prefill in zip(
            ("good", "bad"), (principle.text, principle.contrast), opening, strict=True
        ):
            requests.append(
                GenerateRequest(
                    id=f"{index}/{side}",
                    prompt=told(instruction, prompt),
                    prefill=prefill,
                    seeds=(seed_from(seed, "contrast", index, side),),
                    sampling=sampling,
                )
            )
    texts: dict[str, str] = {}
    prefills = {request.id: request.prefill for request in requests}
    for result in engine.generate(requests):
        if not isinstance(result, Failure):
            texts[result.id] = (prefills[result.id] + result.completions[0].text).strip()
    return _states_of_pairs(engine, prompts, texts, layers)


def _states_of_pairs(
    engine: StateEngine, prompts: Sequence[Dialogue], texts: dict[str, str], layers: tuple[int, ...]
) -> tuple[Array, Array]:
    requests = [
        ScoreRequest(id=str(index), prompt=prompt, candidates=(texts[f"{index}/good"], texts[f"{index}/bad"]))
        for index, prompt in enumerate(prompts)
        if texts.get(f"{index}/good") and texts.get(f"{index}/bad")
    ]
    results = (result for result in engine.answer_states(requests, layers) if not isinstance(result, Failure))
    found = {result.id: as_array(result) for result in results}
    ordered = np.asarray([found[request.id] for request in requests if request.id in found])
    if not len(ordered):
        raise EngineError(f"none of {len(prompts)} contrasts has two answers to learn a direction from")
    return ordered[:, 0], ordered[:, 1]


def as_array(result: States) -> Array:
    """Return a request's states as one array, [candidates, layers, hidden], float64."""
    return np.asarray([np.asarray(state, dtype=np.float64) for state in result.states])


def middle_layers(count: int) -> tuple[int, ...]:
    """Return the layers that a direction is read from: every second one of the middle half.

    >>> middle_layers(30)
    (8, 10, 12, 14, 16, 18, 20, 22, 24)
    """
    return tuple(range(round(count * 0.26), round(count * 0.8) + 1, 2))


class DirectionJudge:
    """Compare answers by how far each lies along a learned direction."""

    name = "direction"
    by_principle = False

    def __init__(self, engine: StateEngine, direction: Direction) -> None:
        """Judge with an engine's hidden states."""
        self._engine = engine
        self.model = engine.model
        self._direction = direction

    def compare(self, comparisons: Iterable[Comparison]) -> Iterator[Verdict]:
        """Yield one verdict per comparison, in their order."""
        for window in windows(comparisons, WINDOW):
            requests = [
                ScoreRequest(id=item.id, prompt=item.prompt, candidates=(item.response_a, item.response_b))
                for item in window
            ]
            results = {result.id: result for result in self._engine.answer_states(requests, self._direction.layers)}
            for item in window:
                yield self._verdict(item.id, results[item.id])

    def _verdict(self, key: str, result: States | Failure) -> Verdict:
        if isinstance(result, Failure):
            return Verdict(id=key, prob_a=None, reason=f"{result.reason}: {result.message}")
        a, b = self._direction.score(as_array(result))
        logit = float(a - b) / self._direction.scale
        return verdict_of(key, logit)
