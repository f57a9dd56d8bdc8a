import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from cai.constitution import Principle, load_constitution
from cai.engines.base import Failure, Generated, GenerateRequest, ScoreRequest
from cai.engines.scripted import ScriptedEngine
from cai.errors import EngineError, StorageError
from cai.judges.base import Judge
from cai.judges.direction import (
    OPENINGS,
    SHOWN,
    WINDOW,
    Array,
    Contrasts,
    Direction,
    DirectionJudge,
    Example,
    States,
    contrast_states,
    examples_of,
    length_of,
    middle_layers,
)
from cai.judges.pairwise import sigmoid
from cai.storage import seed_from
from cai.types import Dialogue, Message
from tests.judges.samples import HI, comparison, one

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
        answers(count, side, good), answers(count, -side, bad), lengths(count, good + 50), lengths(count, bad + 50)
    )


def fitted(count: int = 300) -> Direction:
    return Direction.fit(*pairs(count), layers=(4, 6, 8))


def told_apart(direction: Direction, unseen: Contrasts) -> float:
    """The share of pairs in which the good answer has the higher score."""
    good = direction.score(unseen.good, unseen.good_lengths)
    return float((good > direction.score(unseen.bad, unseen.bad_lengths)).mean())


def test_a_planted_direction_is_found_and_tells_unseen_answers_apart() -> None:
    direction = fitted()
    assert told_apart(direction, pairs(500, good=3, bad=4)) > 0.9
    weights = direction.vectors * np.linspace(0.5, 3, HIDDEN) ** 2  # undo the division by the variance
    for layer in range(LAYERS - 1):
        cosine = weights[layer] @ planted()[layer] / np.linalg.norm(weights[layer])
        assert cosine > 0.8
    assert np.abs(direction.vectors[-1]).max() < np.abs(direction.vectors[:-1]).max() / 3


def test_without_a_direction_there_is_nothing_to_tell() -> None:
    direction = Direction.fit(*pairs(side=0), layers=(0, 1, 2))
    assert 0.4 < told_apart(direction, pairs(500, side=0, good=3, bad=4)) < 0.6


def test_what_a_prompt_brings_to_both_of_its_answers_does_not_drown_the_difference() -> None:
    about = np.random.default_rng(9).normal(size=(40, LAYERS, HIDDEN)) * 100
    few = pairs(40)
    loud = few._replace(good=few.good + about, bad=few.bad + about)
    direction = Direction.fit(*loud, layers=(4, 6, 8))
    assert np.allclose(direction.vectors, Direction.fit(*few, layers=(4, 6, 8)).vectors)
    assert told_apart(direction, pairs(500, good=3, bad=4)) > 0.85


def lengthened(found: Contrasts, good_more: float) -> Contrasts:
    """Answers whose states move with their length, far along one axis; the good ones are longer by `good_more`."""
    axis = np.zeros((LAYERS, HIDDEN))
    axis[:, 0] = 10.0
    good, bad = found.good_lengths + good_more, found.bad_lengths
    return Contrasts(
        found.good + good[:, None, None] * axis,
        found.bad + bad[:, None, None] * axis,
        good_lengths=good,
        bad_lengths=bad,
    )


@pytest.mark.parametrize("unseen_more", [1.0, 0.0, -1.0])
def test_that_good_answers_were_longer_is_not_learned(unseen_more: float) -> None:
    direction = Direction.fit(*lengthened(pairs(), 1.0), layers=(4, 6, 8))
    unseen = lengthened(pairs(500, good=3, bad=4), unseen_more)
    assert told_apart(direction, unseen) > 0.9
    blind = unseen._replace(good_lengths=unseen.good_lengths * 0, bad_lengths=unseen.bad_lengths * 0)
    if unseen_more < 0:  # without the correction, length would decide
        assert told_apart(direction, blind) < 0.7


def test_lengths_that_never_vary_among_the_pairs_are_left_alone() -> None:
    same = pairs()._replace(good_lengths=np.full(300, 4.0), bad_lengths=np.full(300, 2.0))
    direction = Direction.fit(*same, layers=(4, 6, 8))
    assert not direction.slopes.any()
    assert told_apart(direction, pairs(500, good=3, bad=4)) > 0.9


def test_scores_do_not_depend_on_how_many_are_read_together() -> None:
    direction, states, long = fitted(), answers(9, 1, 5), lengths(9, 6)
    apart = [float(direction.score(states[n : n + 1], long[n : n + 1])[0]) for n in range(9)]
    assert direction.score(states, long).tolist() == pytest.approx(apart, abs=1e-12)


@pytest.mark.parametrize(("good", "bad"), [(1, 1), (0, 0), (5, 4)])
def test_fewer_than_two_pairs_and_answers_without_a_partner_are_refused(good: int, bad: int) -> None:
    with pytest.raises(ValueError, match=f"two pairs of answers, got {good} good and {bad} bad"):
        Direction.fit(answers(good, 1, 1), answers(bad, -1, 2), lengths(good, 1), lengths(bad, 2), layers=(4, 6, 8))


def test_states_that_are_no_numbers_are_refused() -> None:
    broken = pairs(5)
    broken.good[2, 1, 3] = math.inf
    with pytest.raises(ValueError, match="not a finite number"):
        Direction.fit(*broken, layers=(4, 6, 8))


def test_answers_without_any_difference_give_a_direction_that_never_votes() -> None:
    same, long = answers(4, 0, 1), lengths(4, 1)
    direction = Direction.fit(same, same, long, long, layers=(4, 6, 8))
    assert direction.scale == 1.0
    assert direction.score(same, long).tolist() == pytest.approx([0.0] * 4, abs=1e-6)


def test_what_was_saved_is_read_back_bit_by_bit(tmp_path: Path) -> None:
    direction = Direction.fit(*lengthened(pairs(), 1.0), layers=(4, 6, 8))
    direction.save(tmp_path / "new" / "direction.safetensors")
    again = Direction.load(tmp_path / "new" / "direction.safetensors")
    assert (again.layers, again.scale) == (direction.layers, direction.scale)
    assert again.slopes.any()
    states, long = answers(20, 1, 5), lengths(20, 6)
    assert again.score(states, long).tolist() == direction.score(states, long).tolist()


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


def test_a_judge_that_learned_from_contrasts_knows_kind_from_cruel() -> None:
    engine = StateEngine()
    learned = contrasts(engine, 64)
    assert learned.good.shape == learned.bad.shape == (64, LAYERS, HIDDEN)
    assert learned.good_lengths[1] == length_of("three short words")
    assert learned.good_lengths[0] == length_of(OPENINGS[0][0] + "three short words")
    judge: Judge = DirectionJudge(engine, Direction.fit(*learned, (4, 6, 8)))
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
    assert np.array_equal(first.good, again.good)
    assert not np.array_equal(first.good, other.good)
    engine = StateEngine()
    contrasts(engine, 8)
    seeds = [request.seeds for request in engine.seen if isinstance(request, GenerateRequest)]
    assert len(set(seeds)) == 16


def asked_of(engine: StateEngine) -> dict[str, Dialogue]:
    """The dialogues that were answered, by request."""
    return {
        request.id: request.prompt
        for request in engine.seen
        if isinstance(request, GenerateRequest) and not isinstance(request.prompt, str)
    }


def test_examples_show_one_side_good_answers_and_the_other_bad_ones() -> None:
    engine = StateEngine()
    contrasts(engine, 12, examples=EXAMPLES)
    asked = asked_of(engine)
    for number in range(12):
        good, bad = asked[f"{number}/good"], asked[f"{number}/bad"]
        assert [turn.role for turn in good] == ["system", *["user", "assistant"] * SHOWN, "user"]
        assert good[1::2][:SHOWN] == bad[1::2][:SHOWN]  # the same questions to both
        assert all(turn.content.startswith("good") for turn in good[2::2])
        assert all(turn.content.startswith("bad") for turn in bad[2::2])
    assert len({asked[f"{number}/good"][1:-1] for number in range(12)}) > 6  # drawn anew for each prompt
    begun = {request.prefill for request in engine.seen if isinstance(request, GenerateRequest)}
    assert begun == {""}
    again = StateEngine()
    contrasts(again, 12, examples=EXAMPLES)
    assert asked_of(again) == asked


def test_examples_come_after_a_system_turn_and_their_own_readers_never_see_them() -> None:
    engine, prompt = StateEngine(), (Message("system", "Be brief."), Message("user", "Hi"))
    contrast_states(engine, [prompt] * 2, PRINCIPLES, layers=(4,), seed=0, examples=EXAMPLES[:1])
    good = asked_of(engine)["0/good"]
    assert good[0] == Message("system", "Be kind: a.\n\nBe brief.")
    assert good[1:] == (Message("user", "asked 0"), Message("assistant", "good 0"), Message("user", "Hi"))
    assert [request.prompt for request in engine.read] == [prompt] * 2


def test_a_constitution_gives_its_examples_once() -> None:
    shown = load_constitution("harmless")
    found = examples_of(shown)
    assert len(found) == len(set(found)) == len(shown.few_shots) + len(shown.comparison_shots)
    first, last = shown.few_shots[0], shown.comparison_shots[-1]
    assert Example(first.prompt, first.revision, first.response) in found
    assert Example(last.prompt, last.chosen, last.rejected) in found
    own = shown.principles[0].model_copy(update={"few_shots": (first,), "comparison_shots": (last, last)})
    bare = shown.model_copy(update={"few_shots": (), "comparison_shots": (), "principles": (own,)})
    assert len(examples_of(bare)) == 2
    assert examples_of(bare.model_copy(update={"principles": shown.principles})) == ()


def test_a_contrast_with_an_answer_missing_is_left_out_whole() -> None:
    found = contrasts(StateEngine(silent=frozenset({"2/good", "5/bad"})), 8)
    whole = contrasts(StateEngine(), 8)
    left = [0, 1, 3, 4, 6, 7]
    assert all(np.array_equal(part, of_all[left]) for part, of_all in zip(found, whole, strict=True))


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
        ("kind", ":", "answer B has no words"),
        ("kind", "unreadable", "empty: nothing to read"),
        ("overflow", "kind", "the score is not a finite number"),
    ],
)
def test_what_cannot_be_told_is_an_abstention(a: str, b: str, reason: str) -> None:
    verdict = one(judge_of(StateEngine()), comparison(a, b))
    assert verdict.abstained
    assert verdict.reason == reason


def test_single_answers_are_scored_as_the_comparison_scores_them() -> None:
    judge = judge_of(StateEngine())
    scores = judge.scores([(HI, "kind words"), (HI, "unreadable"), (HI, "cruel words")])
    assert math.isnan(scores[1])
    assert scores[0] > scores[2]
    prob = one(judge, comparison("kind words", "cruel words")).prob_a
    assert prob == pytest.approx(sigmoid((scores[0] - scores[2]) / fitted().scale))


def test_examples_too_long_for_the_model_are_left_out() -> None:
    engine = StateEngine(short=True)
    found = contrasts(engine, 6, examples=EXAMPLES)
    assert len(found.good) == 6
    asked = [request.prompt for request in engine.seen if isinstance(request, GenerateRequest)]
    assert [len(prompt) for prompt in asked].count(2) == 12
    nothing = StateEngine(short=True)
    alone = contrasts(nothing, 6)
    assert np.array_equal(alone.good, found.good)
