import math
from pathlib import Path

import numpy as np
import pytest

from cai.errors import StorageError
from cai.judges.base import Judge
from cai.judges.contrasts import Contrasts
from cai.judges.direction import WINDOW, Direction, DirectionJudge, middle_layers
from cai.judges.pairwise import sigmoid
from tests.judges.planted import HIDDEN, LAYERS, StateEngine, answers, contrasts, lengths, pairs, planted
from tests.judges.samples import HI, KIND, comparison, one


def fitted(count: int = 300) -> Direction:
    return Direction.fit(pairs(count), layers=(4, 6, 8))


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
    direction = Direction.fit(pairs(side=0), layers=(0, 1, 2))
    assert 0.4 < told_apart(direction, pairs(500, side=0, good=3, bad=4)) < 0.6


def test_what_a_prompt_brings_to_both_of_its_answers_does_not_drown_the_difference() -> None:
    about = np.random.default_rng(9).normal(size=(40, LAYERS, HIDDEN)) * 100
    few = pairs(40)
    loud = few._replace(good=few.good + about, bad=few.bad + about)
    direction = Direction.fit(loud, layers=(4, 6, 8))
    assert np.allclose(direction.vectors, Direction.fit(few, layers=(4, 6, 8)).vectors)
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
    direction = Direction.fit(lengthened(pairs(), 1.0), layers=(4, 6, 8))
    unseen = lengthened(pairs(500, good=3, bad=4), unseen_more)
    assert told_apart(direction, unseen) > 0.9
    blind = unseen._replace(good_lengths=unseen.good_lengths * 0, bad_lengths=unseen.bad_lengths * 0)
    if unseen_more < 0:  # without the correction, length would decide
        assert told_apart(direction, blind) < 0.7


def test_lengths_that_never_vary_among_the_pairs_are_left_alone() -> None:
    same = pairs()._replace(good_lengths=np.full(300, 4.0), bad_lengths=np.full(300, 2.0))
    direction = Direction.fit(same, layers=(4, 6, 8))
    assert np.abs(direction.slopes).max() < 1e-9
    assert told_apart(direction, pairs(500, good=3, bad=4)) > 0.9


def test_scores_do_not_depend_on_how_many_are_read_together() -> None:
    direction, states, long = fitted(), answers(9, 1, 5), lengths(9, 6)
    apart = [float(direction.score(states[n : n + 1], long[n : n + 1])[0]) for n in range(9)]
    assert direction.score(states, long).tolist() == pytest.approx(apart, abs=1e-12)


@pytest.mark.parametrize(("good", "bad"), [(1, 1), (0, 0), (5, 4)])
def test_fewer_than_two_pairs_and_answers_without_a_partner_are_refused(good: int, bad: int) -> None:
    given = Contrasts(answers(good, 1, 1), answers(bad, -1, 2), lengths(good, 1), lengths(bad, 2))
    with pytest.raises(ValueError, match=f"two pairs of answers, got {good} good and {bad} bad"):
        Direction.fit(given, layers=(4, 6, 8))


def test_states_that_are_no_numbers_are_refused() -> None:
    broken = pairs(5)
    broken.good[2, 1, 3] = math.inf
    with pytest.raises(ValueError, match="not a finite number"):
        Direction.fit(broken, layers=(4, 6, 8))


def test_answers_without_any_difference_give_a_direction_that_never_votes() -> None:
    same, long = answers(4, 0, 1), lengths(4, 1)
    direction = Direction.fit(Contrasts(same, same, long, long), layers=(4, 6, 8))
    assert direction.scale == 1.0
    assert direction.score(same, long).tolist() == pytest.approx([0.0] * 4, abs=1e-6)


def test_what_was_saved_is_read_back_bit_by_bit(tmp_path: Path) -> None:
    direction = Direction.fit(lengthened(pairs(), 1.0), layers=(4, 6, 8))
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


def test_a_judge_that_learned_from_contrasts_knows_kind_from_cruel() -> None:
    engine = StateEngine()
    learned = contrasts(engine, 64)
    judge: Judge = DirectionJudge(engine, Direction.fit(learned, (4, 6, 8)))
    asked = [comparison(f"kind {n}", f"cruel {n}", name=str(n)) for n in range(2 * WINDOW + 5)]
    verdicts = list(judge.compare(asked))
    assert [verdict.id for verdict in verdicts] == [item.id for item in asked]
    assert sum((verdict.prob_a or 0) > 0.5 for verdict in verdicts) > 0.85 * len(asked)
    assert (judge.name, judge.model, judge.by_principle) == ("direction", "script", False)


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
    scores = judge.scores([(HI, text, KIND) for text in ("kind words", "unreadable", "cruel words")])
    assert math.isnan(scores[1])
    assert scores[0] > scores[2]
    prob = one(judge, comparison("kind words", "cruel words")).prob_a
    assert prob == pytest.approx(sigmoid((scores[0] - scores[2]) / fitted().scale))
