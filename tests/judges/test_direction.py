import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from cai.constitution import Principle
from cai.engines.base import Failure, Generated, GenerateRequest, ScoreRequest
from cai.engines.scripted import ScriptedEngine
from cai.errors import EngineError, StorageError
from cai.judges.base import Judge
from cai.judges.direction import (
    OPENINGS,
    WINDOW,
    Array,
    Direction,
    DirectionJudge,
    States,
    contrast_states,
    middle_layers,
)
from cai.storage import seed_from
from cai.types import Dialogue, Message
from tests.judges.samples import comparison, one

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


def fitted(count: int = 300) -> Direction:
    return Direction.fit(answers(count, 1, 1), answers(count, -1, 2), layers=(4, 6, 8))


def test_a_planted_direction_is_found_and_tells_unseen_answers_apart() -> None:
    direction = fitted()
    good, bad = direction.score(answers(500, 1, 3)), direction.score(answers(500, -1, 4))
    assert (good > bad).mean() > 0.9
    weights = direction.vectors * np.linspace(0.5, 3, HIDDEN) ** 2  # undo the division by the variance
    for layer in range(LAYERS - 1):
        cosine = weights[layer] @ planted()[layer] / np.linalg.norm(weights[layer])
        assert cosine > 0.8
    assert np.abs(direction.vectors[-1]).max() < np.abs(direction.vectors[:-1]).max() / 3


def test_without_a_direction_there_is_nothing_to_tell() -> None:
    direction = Direction.fit(answers(300, 0, 1), answers(300, 0, 2), layers=(0, 1, 2))
    share = (direction.score(answers(500, 0, 3)) > direction.score(answers(500, 0, 4))).mean()
    assert 0.4 < share < 0.6


def test_scores_do_not_depend_on_how_many_are_read_together() -> None:
    direction, states = fitted(), answers(9, 1, 5)
    apart = [float(direction.score(state[None])[0]) for state in states]
    assert direction.score(states).tolist() == pytest.approx(apart, abs=1e-12)


@pytest.mark.parametrize(("good", "bad"), [(1, 5), (5, 1), (0, 0)])
def test_fewer_than_two_answers_of_a_kind_are_refused(good: int, bad: int) -> None:
    with pytest.raises(ValueError, match=f"two answers of each kind, got {good} and {bad}"):
        Direction.fit(answers(good, 1, 1), answers(bad, -1, 2), layers=(4, 6, 8))


def test_states_that_are_no_numbers_are_refused() -> None:
    broken = answers(5, 1, 1)
    broken[2, 1, 3] = math.inf
    with pytest.raises(ValueError, match="not a finite number"):
        Direction.fit(broken, answers(5, -1, 2), layers=(4, 6, 8))


def test_answers_without_any_difference_give_a_direction_that_never_votes() -> None:
    same = answers(4, 0, 1)
    direction = Direction.fit(same, same, layers=(4, 6, 8))
    assert direction.scale == 1.0
    assert direction.score(same).tolist() == pytest.approx([0.0] * 4, abs=1e-6)


def test_what_was_saved_is_read_back_bit_by_bit(tmp_path: Path) -> None:
    direction = fitted()
    direction.save(tmp_path / "new" / "direction.safetensors")
    again = Direction.load(tmp_path / "new" / "direction.safetensors")
    assert (again.layers, again.scale) == (direction.layers, direction.scale)
    states = answers(20, 1, 5)
    assert again.score(states).tolist() == direction.score(states).tolist()


@pytest.mark.parametrize("content", [None, b"", b"\xff" * 100])
def test_a_file_that_is_no_direction_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "direction.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StorageError, match=r"direction\.safetensors: no direction can be read .*; remove the file"):
        Direction.load(path)


def test_a_torn_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "direction.safetensors"
    fitted().save(path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(StorageError, match=r"no direction can be read"):
        Direction.load(path)


@pytest.mark.parametrize("count", [1, 2, 6, 12, 30, 80])
def test_the_layers_that_are_read_are_inside_the_model(count: int) -> None:
    layers = middle_layers(count)
    assert layers
    assert all(0 <= layer <= count for layer in layers)
    assert len(set(layers)) == len(layers)


@dataclass(frozen=True)
class Read:
    id: str
    states: tuple[Array, ...]


class StateEngine(ScriptedEngine):
    """Answers by what it is told, and shows states in which kindness is the planted direction."""

    layers = 30

    def __init__(self, silent: frozenset[str] = frozenset()) -> None:
        super().__init__(self._answer)
        self._silent = silent
        self.read: list[ScoreRequest] = []

    def _answer(self, request: GenerateRequest, seed: int) -> str | Failure:
        assert not isinstance(request.prompt, str)
        if request.id in self._silent:
            return Failure(id=request.id, reason="engine", message="out of memory")
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


def contrasts(engine: StateEngine, count: int, seed: int = 0) -> tuple[Array, Array]:
    return contrast_states(engine, prompts(count), PRINCIPLES, layers=(4, 6, 8), seed=seed)


def test_a_judge_that_learned_from_contrasts_knows_kind_from_cruel() -> None:
    engine = StateEngine()
    good, bad = contrasts(engine, 64)
    assert good.shape == bad.shape == (64, LAYERS, HIDDEN)
    judge: Judge = DirectionJudge(engine, Direction.fit(good, bad, (4, 6, 8)))
    asked = [comparison(f"kind {n}", f"cruel {n}", name=str(n)) for n in range(2 * WINDOW + 5)]
    verdicts = list(judge.compare(asked))
    assert [verdict.id for verdict in verdicts] == [item.id for item in asked]
    assert sum((verdict.prob_a or 0) > 0.5 for verdict in verdicts) > 0.85 * len(asked)
    assert (judge.name, judge.model, judge.by_principle) == ("direction", "script", False)


def test_answers_are_made_with_the_instruction_and_read_without_it() -> None:
    engine = StateEngine()
    contrasts(engine, 6)
    assert all(request.prompt[0].role == "system" for request in engine.seen if not isinstance(request.prompt, str))
    assert sorted(str(request.prompt) for request in engine.read) == sorted(map(str, prompts(6)))
    told = {request.id: request.prompt[0] for request in engine.seen if not isinstance(request.prompt, str)}
    assert told["5/good"] == Message("system", "Be kind: b.")
    assert told["5/bad"] == Message("system", "Be rude: b.")


@pytest.mark.parametrize("count", [4, 8, 32])
def test_half_of_the_contrasts_begin_freely_however_few_there_are(count: int) -> None:
    engine = StateEngine()
    contrasts(engine, count)
    asked = [request for request in engine.seen if isinstance(request, GenerateRequest)]
    begun = {request.id: request.prefill for request in asked}
    assert sum(begun[f"{n}/good"] == OPENINGS[0][0] for n in range(count)) == count / 2
    assert all((begun[f"{n}/good"], begun[f"{n}/bad"]) in OPENINGS for n in range(count))
    assert any(text.startswith(OPENINGS[0][0]) for request in engine.read for text in request.candidates)


def test_the_same_seed_gives_the_same_contrasts_and_another_one_others() -> None:
    first, again, other = (contrasts(StateEngine(), 8, seed) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    engine = StateEngine()
    contrasts(engine, 8)
    seeds = [request.seeds for request in engine.seen if isinstance(request, GenerateRequest)]
    assert len(set(seeds)) == 16


def test_a_contrast_with_an_answer_missing_is_left_out_whole() -> None:
    good, bad = contrasts(StateEngine(silent=frozenset({"2/good", "5/bad"})), 8)
    whole_good, whole_bad = contrasts(StateEngine(), 8)
    left = [0, 1, 3, 4, 6, 7]
    assert np.array_equal(good, whole_good[left])
    assert np.array_equal(bad, whole_bad[left])


def test_nothing_to_learn_from_is_said_so() -> None:
    silent = frozenset(f"{n}/good" for n in range(4))
    with pytest.raises(EngineError, match="none of 4 contrasts has two answers"):
        contrasts(StateEngine(silent), 4)


def judge_of(engine: StateEngine) -> DirectionJudge:
    return DirectionJudge(engine, fitted())


def test_swapping_the_answers_turns_the_probability_over() -> None:
    judge = judge_of(StateEngine())
    for number in range(20):
        here = one(judge, comparison(f"kind {number}", f"other {number}")).prob_a
        there = one(judge, comparison(f"other {number}", f"kind {number}")).prob_a
        assert here is not None
        assert there == pytest.approx(1 - here, abs=1e-12)


@pytest.mark.parametrize(
    ("a", "b", "reason"),
    [
        ("same", "same", "tie"),
        ("kind", "unreadable", "empty: nothing to read"),
        ("overflow", "kind", "the score is not a finite number"),
    ],
)
def test_what_cannot_be_told_is_an_abstention(a: str, b: str, reason: str) -> None:
    verdict = one(judge_of(StateEngine()), comparison(a, b))
    assert verdict.abstained
    assert verdict.reason == reason
