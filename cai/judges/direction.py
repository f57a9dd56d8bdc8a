"""A judge that asks nothing: a direction in hidden states, learned from the constitution's own contrasts.

Hidden states over the good and bad answers of `cai.judges.contrasts`, read *without* any instruction, differ along a
direction; how far an answer lies along it is its score. No human label is used. On a 135M model this beats every way of
asking.

Recipe: mean over the answer's tokens of the hidden states at some layers; what they change with an answer's length is
taken out; per layer the mean difference within pairs divided by its variance (a diagonal linear discriminant); the
score is the mean over layers of the projections, each scaled to unit size. A difference of `scale` between two answers
is a logit of 1.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from cai.constitution import Principle
from cai.engines.base import Failure, ScoreRequest
from cai.errors import StorageError
from cai.judges.base import Comparison, Verdict
from cai.judges.contrasts import Array, Contrasts, StateEngine, States, as_array, length_of
from cai.judges.fit import verdicts
from cai.judges.pairwise import verdict_of
from cai.storage import atomic_write
from cai.types import Dialogue

WINDOW = 32
"""Comparisons read together."""

SHRUNK = 0.01
"""Keeps the slope by length small where lengths hardly vary: a variance added to theirs."""


class Direction:
    """What was learned: per layer a vector, what a step of length adds along it, and the scale of scores.

    Shapes: `vectors` [layers, hidden]; `slopes`, `spreads` [layers].
    """

    def __init__(self, *, layers: Sequence[int], vectors: Array, slopes: Array, spreads: Array, scale: float) -> None:
        """Hold the numbers of a fit."""
        self.layers = tuple(int(layer) for layer in layers)
        self.vectors, self.slopes, self.spreads, self.scale = vectors, slopes, spreads, float(scale)

    @classmethod
    def fit(cls, contrasts: Contrasts, layers: Sequence[int]) -> "Direction":
        """Learn from the differences within pairs, which were read at these layers.

        Raises ValueError when there are fewer than two pairs, or a state is not finite.
        """
        good, bad, good_lengths, bad_lengths = contrasts
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

    def scores(self, answers: Sequence[tuple[Dialogue, str, Principle]]) -> list[float]:
        """Return a score per answer, not a number where it can't be read; by the direction, whatever the principle.

        Meant for answers to one dialogue: over several, what the dialogues are about counts too.
        """
        requests = [
            ScoreRequest(id=str(index), prompt=prompt, candidates=(text,))
            for index, (prompt, text, _) in enumerate(answers)
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
