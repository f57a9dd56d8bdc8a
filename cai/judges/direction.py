"""A judge that asks nothing: a direction in hidden states, learned from the constitution's own contrasts.

The model answers prompts twice, once told a principle and once told its contrast. Its hidden states over those answers,
read *without* the instruction, differ along a direction; how far an answer lies along it is its score. No human label
is used. On a 135M model this beats every way of asking (the multiple-choice judge is below chance there).

Recipe: mean over the answer's tokens of the hidden states at some layers; per layer the difference of the two class
means divided by the pooled variance (a diagonal linear discriminant); the score is the mean over layers of the
projections, each scaled to unit spread. A difference of `spread` between two answers is a logit of 1.
"""

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from cai.constitution import Constitution, Principle
from cai.engines.base import Engine, Failure, GenerateRequest, Sampling, ScoreRequest
from cai.errors import EngineError, StorageError
from cai.judges.base import Comparison, Verdict
from cai.judges.contrastive import told
from cai.judges.fit import verdicts
from cai.judges.pairwise import verdict_of
from cai.storage import atomic_write, seed_from
from cai.types import Dialogue, Message

WINDOW = 32
"""Comparisons read together."""

SHRUNK = 0.01
"""Keeps the slope by length small where lengths hardly vary: a variance added to theirs."""

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


class Contrasts(NamedTuple):
    """What a direction is learned from: pair i is `good[i]` against `bad[i]`, answers to one prompt.

    Two pairs of answers of 3 and 20 words, read at 9 layers of width 576: `good` and `bad` are [2, 9, 576],
    `good_lengths` and `bad_lengths` are [2], of `length_of` each answer.
    """

    good: Array
    bad: Array
    good_lengths: Array
    bad_lengths: Array


def length_of(text: str) -> float:
    """Return how long an answer is, as the logarithm of its words.

    >>> length_of("")
    0.0
    """
    return math.log1p(len(text.split()))


class Direction:
    """What was learned: per layer a vector, what a step of length adds along it, and the scale of scores.

    Shapes: `vectors` [layers, hidden]; `slopes`, `spreads` [layers].
    """

    def __init__(self, *, layers: Sequence[int], vectors: Array, slopes: Array, spreads: Array, scale: float) -> None:
        """Hold the numbers of a fit."""
        self.layers = tuple(int(layer) for layer in layers)
        self.vectors, self.slopes, self.spreads, self.scale = vectors, slopes, spreads, float(scale)

    @classmethod
    def fit(
        cls, good: Array, bad: Array, good_lengths: Array, bad_lengths: Array, layers: Sequence[int]
    ) -> "Direction":
        """Learn from the differences within pairs: the fields of `Contrasts`, and the layers that were read.

        Raises ValueError when there are fewer than two pairs, or a state is not finite.
        """
        if len(good) != len(bad) or len(good) < 2:
            raise ValueError(f"a direction needs two pairs of answers, got {len(good)} good and {len(bad)} bad")
        if not (np.isfinite(good).all() and np.isfinite(bad).all()):
            raise ValueError("a hidden state is not a finite number: the model's weights or its type are unfit")
        differences, longer = good - bad, good_lengths - bad_lengths
        # What length does to the states is learned from how it varies among the pairs, not from its mean: good
        # answers may be the longer ones throughout, and then their mean difference is not all length.
        varied = longer - longer.mean()
        per_step = np.einsum("n,nlh->lh", varied, differences - differences.mean(axis=0))
        per_step /= varied @ varied + SHRUNK * len(varied)
        rest = differences - longer[:, None, None] * per_step
        vectors = rest.mean(axis=0) / (rest.var(axis=0) + 1e-6)
        raw = np.einsum("nlh,lh->nl", rest, vectors)
        spreads = np.sqrt((raw**2).mean(axis=0)) + 1e-9
        slopes = (vectors * per_step).sum(axis=1)
        direction = cls(layers=layers, vectors=vectors, slopes=slopes, spreads=spreads, scale=1.0)
        spread = float((direction.score(good, good_lengths) - direction.score(bad, bad_lengths)).std())
        direction.scale = spread if spread > 1e-6 else 1.0
        return direction

    def score(self, states: Array, lengths: Array) -> Array:
        """Return one score per answer from states [answers, layers, hidden] and lengths; only differences count."""
        raw = np.einsum("nlh,lh->nl", states, self.vectors) - lengths[:, None] * self.slopes
        return np.asarray((raw / self.spreads).mean(axis=1))

    def save(self, path: Path) -> None:
        """Write the numbers as safetensors, atomically."""
        arrays = {
            "layers": np.asarray(self.layers, dtype=np.int64),
            "vectors": self.vectors,
            "slopes": self.slopes,
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
                slopes=arrays["slopes"],
                spreads=arrays["spreads"],
                scale=float(arrays["scale"][0]),
            )
        except (OSError, SafetensorError, KeyError, IndexError) as error:
            raise StorageError(
                f"{path}: no direction can be read ({error}); remove the file to learn it again"
            ) from error


OPENINGS = (("I'm sorry, but ", "Sure, here is "), ("", ""))
"""How the two answers of a contrast begin where there are no examples; half begin freely, so that the direction is not
of openings."""

SIDES = ("good", "bad")

SHOWN = 3
"""Examples shown before a prompt."""


class Example(NamedTuple):
    """A prompt with an answer that follows the constitution and one that doesn't, as its author wrote them."""

    prompt: str
    good: str
    bad: str


def examples_of(constitution: Constitution) -> tuple[Example, ...]:
    """Return a constitution's examples of revisions and of comparisons, those of its principles too, each once."""
    revised, compared = list(constitution.few_shots), list(constitution.comparison_shots)
    for principle in constitution.principles:
        revised.extend(principle.few_shots)
        compared.extend(principle.comparison_shots)
    shots = [Example(shot.prompt, shot.revision, shot.response) for shot in revised]
    shots += [Example(shot.prompt, shot.chosen, shot.rejected) for shot in compared]
    return tuple(dict.fromkeys(shots))


def contrast_states(
    engine: StateEngine,
    prompts: Sequence[Dialogue],
    principles: Sequence[Principle],
    *,
    layers: tuple[int, ...],
    seed: int,
    examples: Sequence[Example] = (),
    max_new_tokens: int = 48,
) -> Contrasts:
    """Sample both answers of a contrast for every prompt and read their states and lengths.

    Prompt i is answered under principle i modulo their number, after earlier turns that show how: the examples' good
    answers for one side, their bad ones for the other (where that is more than the model reads, without them). Pairs of
    which either answer is empty are left out; raises EngineError when that is all of them.
    """
    sampling = Sampling(temperature=0.7, max_new_tokens=max_new_tokens, min_new_tokens=8)
    texts: dict[str, str] = {}

    def answer(indices: Iterable[int], shown: Sequence[Example]) -> set[int]:
        """Write both answers to each prompt; return the prompts that were too long."""
        requests: list[GenerateRequest] = []
        for index in indices:
            principle = principles[index % len(principles)]
            drawn = random.Random(seed_from(seed, "examples", index)).sample(shown, min(SHOWN, len(shown)))
            opening = ("", "") if shown else OPENINGS[(index + index // len(principles)) % len(OPENINGS)]
            for side, instruction, prefill in zip(SIDES, (principle.text, principle.contrast), opening, strict=True):
                requests.append(
                    GenerateRequest(
                        id=f"{index}/{side}",
                        prompt=told(instruction, _after(drawn, side, prompts[index])),
                        prefill=prefill,
                        seeds=(seed_from(seed, "contrast", index, side),),
                        sampling=sampling,
                    )
                )
        prefills = {request.id: request.prefill for request in requests}
        too_long = set()
        for result in engine.generate(requests):
            if not isinstance(result, Failure):
                texts[result.id] = (prefills[result.id] + result.completions[0].text).strip()
            elif result.reason == "too_long":
                too_long.add(int(result.id.partition("/")[0]))
        return too_long

    long = answer(range(len(prompts)), examples)
    if long and examples:
        answer(sorted(long), ())
    return _read_pairs(engine, prompts, texts, layers)


def _after(examples: Sequence[Example], side: str, prompt: Dialogue) -> Dialogue:
    """Return the dialogue with examples as earlier turns, after its own system turn if it has one."""
    shown = [
        turn
        for example in examples
        for turn in (
            Message("user", example.prompt),
            Message("assistant", example.good if side == "good" else example.bad),
        )
    ]
    first = 1 if prompt[0].role == "system" else 0
    return (*prompt[:first], *shown, *prompt[first:])


def _read_pairs(
    engine: StateEngine, prompts: Sequence[Dialogue], texts: dict[str, str], layers: tuple[int, ...]
) -> Contrasts:
    requests = [
        ScoreRequest(id=str(index), prompt=prompt, candidates=(texts[f"{index}/good"], texts[f"{index}/bad"]))
        for index, prompt in enumerate(prompts)
        if texts.get(f"{index}/good") and texts.get(f"{index}/bad")
    ]
    results = (result for result in engine.answer_states(requests, layers) if not isinstance(result, Failure))
    found = {result.id: as_array(result) for result in results}
    read = [request for request in requests if request.id in found]
    if not read:
        raise EngineError(f"none of {len(prompts)} contrasts has two answers to learn a direction from")
    states = np.asarray([found[request.id] for request in read])
    lengths = np.asarray([[length_of(text) for text in request.candidates] for request in read])
    return Contrasts(states[:, 0], states[:, 1], lengths[:, 0], lengths[:, 1])


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
        return verdicts(comparisons, self._compare, window=WINDOW)

    def _compare(self, fit: Sequence[Comparison]) -> Iterator[Verdict]:
        requests = [
            ScoreRequest(id=item.id, prompt=item.prompt, candidates=(item.response_a, item.response_b)) for item in fit
        ]
        results = {result.id: result for result in self._engine.answer_states(requests, self._direction.layers)}
        for item in fit:
            yield self._verdict(item, results[item.id])

    def scores(self, answers: Sequence[tuple[Dialogue, str]]) -> list[float]:
        """Return a score per (dialogue, answer), not a number where it can't be read.

        Meant for answers to one dialogue: over several, what the dialogues are about counts too.
        """
        requests = [
            ScoreRequest(id=str(index), prompt=prompt, candidates=(text,))
            for index, (prompt, text) in enumerate(answers)
        ]
        found = [math.nan] * len(answers)
        for result in self._engine.answer_states(requests, self._direction.layers):
            if not isinstance(result, Failure):
                index = int(result.id)
                lengths = np.asarray([length_of(answers[index][1])])
                found[index] = float(self._direction.score(as_array(result), lengths)[0])
        return found

    def _verdict(self, item: Comparison, result: States | Failure) -> Verdict:
        if isinstance(result, Failure):
            return Verdict(id=item.id, prob_a=None, reason=f"{result.reason}: {result.message}")
        lengths = np.asarray([length_of(text) for text in (item.response_a, item.response_b)])
        a, b = self._direction.score(as_array(result), lengths)
        return verdict_of(item.id, float(a - b) / self._direction.scale)
