"""Pairs of a good and a bad answer that a constitution makes by itself: what the direction judge learns from.

The model answers prompts twice, once told a principle and once told its contrast, after the constitution's examples of
good or of bad answers. No person labels anything. To learn from the examples themselves, too, was tried and made a
worse judge (docs/negative-results.md).
"""

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from cai.constitution import Constitution, Principle
from cai.engines.base import Engine, Failure, GenerateRequest, Sampling, ScoreRequest
from cai.errors import EngineError
from cai.judges.contrastive import told
from cai.storage import seed_from
from cai.types import Dialogue, Message

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

    def where(self, chosen: NDArray[np.bool_]) -> "Contrasts":
        """Return some of the pairs."""
        return Contrasts(*(part[chosen] for part in self))


def length_of(text: str) -> float:
    """Return how long an answer is, as the logarithm of its words.

    >>> length_of("")
    0.0
    """
    return math.log1p(len(text.split()))


def as_array(result: States) -> Array:
    """Return a request's states as one array, [candidates, layers, hidden], float64."""
    return np.asarray([np.asarray(state, dtype=np.float64) for state in result.states])


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
    """Return a constitution's examples of revisions and of comparisons, each once; its principles' own are left out."""
    shots = [Example(shot.prompt, shot.revision, shot.response) for shot in constitution.few_shots]
    shots += [Example(shot.prompt, shot.chosen, shot.rejected) for shot in constitution.comparison_shots]
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
    pairs = [
        Pair(prompt, texts[f"{index}/good"], texts[f"{index}/bad"])
        for index, prompt in enumerate(prompts)
        if texts.get(f"{index}/good") and texts.get(f"{index}/bad")
    ]
    found = _states(engine, pairs, layers)
    if found is None:
        raise EngineError(f"none of {len(prompts)} contrasts has two answers to learn a direction from")
    return found


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


class Pair(NamedTuple):
    """Two answers to one dialogue."""

    prompt: Dialogue
    good: str
    bad: str


def _states(engine: StateEngine, pairs: Sequence[Pair], layers: tuple[int, ...]) -> Contrasts | None:
    """Read both answers of each pair, and leave out a pair that can't be read."""
    requests = [
        ScoreRequest(id=str(index), prompt=pair.prompt, candidates=(pair.good, pair.bad))
        for index, pair in enumerate(pairs)
    ]
    results = (result for result in engine.answer_states(requests, layers) if not isinstance(result, Failure))
    found = {result.id: as_array(result) for result in results}
    read = [request for request in requests if request.id in found]
    if not read:
        return None
    states = np.asarray([found[request.id] for request in read])
    lengths = np.asarray([[length_of(text) for text in request.candidates] for request in read])
    return Contrasts(states[:, 0], states[:, 1], lengths[:, 0], lengths[:, 1])
