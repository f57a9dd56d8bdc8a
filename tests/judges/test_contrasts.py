import numpy as np
import pytest

from cai.constitution import load_constitution
from cai.engines.base import GenerateRequest
from cai.errors import EngineError
from cai.judges.contrasts import (
    OPENINGS,
    SHOWN,
    Example,
    contrast_states,
    examples_of,
    length_of,
)
from cai.types import Dialogue, Message
from tests.judges.planted import EXAMPLES, PRINCIPLES, StateEngine, contrasts, prompts


def test_both_answers_are_read_with_their_lengths() -> None:
    found = contrasts(StateEngine(), 64)
    assert found.good.shape == found.bad.shape == (64, 3, 16)
    assert found.good_lengths[1] == length_of("three short words")
    assert found.good_lengths[0] == length_of(OPENINGS[0][0] + "three short words")


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
    bare = shown.model_copy(update={"few_shots": (first, first), "comparison_shots": ()})
    assert len(examples_of(bare)) == 1


def test_a_contrast_with_an_answer_missing_is_left_out_whole() -> None:
    found = contrasts(StateEngine(silent=frozenset({"2/good", "5/bad"})), 8)
    whole = contrasts(StateEngine(), 8)
    left = [0, 1, 3, 4, 6, 7]
    assert all(np.array_equal(part, of_all[left]) for part, of_all in zip(found, whole, strict=True))


def test_nothing_to_learn_from_is_said_so() -> None:
    silent = frozenset(f"{n}/good" for n in range(4))
    with pytest.raises(EngineError, match="none of 4 contrasts has two answers"):
        contrasts(StateEngine(silent), 4)


def test_examples_too_long_for_the_model_are_left_out() -> None:
    engine = StateEngine(short=True)
    found = contrasts(engine, 6, examples=EXAMPLES)
    assert len(found.good) == 6
    asked = [request.prompt for request in engine.seen if isinstance(request, GenerateRequest)]
    assert [len(prompt) for prompt in asked].count(2) == 12
    nothing = StateEngine(short=True)
    alone = contrasts(nothing, 6)
    assert np.array_equal(alone.good, found.good)


def test_some_of_the_pairs_can_be_taken() -> None:
    every = contrasts(StateEngine(), 8)
    some = every.where(np.arange(8) >= 6)
    assert all(np.array_equal(part, whole[6:]) for part, whole in zip(some, every, strict=True))
