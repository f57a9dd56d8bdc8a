import random
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.records.loaders import load_prompts, packaged_prompts
from cai.records.schema import Prompt, PromptKind
from cai.records.splits import HELD_OUT_SHARE, is_held_out, split
from cai.types import Message
from tests.records.samples import asked


def prompt(text: str, kind: PromptKind = "red_team") -> Prompt:
    return Prompt.of(asked(text), kind=kind)


MANY = [prompt(f"question number {number}") for number in range(4000)]


def test_about_a_quarter_is_held_out() -> None:
    share = sum(map(is_held_out, MANY)) / len(MANY)
    assert share == pytest.approx(HELD_OUT_SHARE, abs=0.03)  # four standard deviations


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_another_share_can_be_asked_for(share: float) -> None:
    found = sum(is_held_out(item, share=share) for item in MANY) / len(MANY)
    assert found == pytest.approx(share, abs=0.035)
    assert found == share or 0 < share < 1


def test_a_larger_share_moves_prompts_one_way_only() -> None:
    assert all(is_held_out(item, share=0.5) for item in MANY if is_held_out(item, share=0.25))


def test_no_prompt_is_on_both_sides_and_none_is_lost() -> None:
    train, held_out = split(MANY)
    assert sorted(item.key for item in train + held_out) == sorted(item.key for item in MANY)
    assert not {item.key for item in train} & {item.key for item in held_out}


def test_the_order_of_the_file_moves_nothing() -> None:
    shuffled = random.Random(0).sample(MANY, len(MANY))
    assert {item.key for item in split(shuffled)[1]} == {item.key for item in split(MANY)[1]}
    assert [item.key for item in split(MANY)[0]] == [item.key for item in MANY if not is_held_out(item)]


def test_the_split_is_pinned() -> None:
    # Another rule would move prompts that earlier models were trained on into the held-out set.
    assert [number for number in range(40) if is_held_out(MANY[number])] == PINNED


PINNED = [5, 7, 14, 15, 27, 34, 38]


@given(st.sampled_from(MANY), st.randoms(use_true_random=False))
def test_spellings_of_one_prompt_are_on_the_same_side(item: Prompt, chance: random.Random) -> None:
    words = item.text.split()
    spelled = "".join(
        chance.choice([word, word.upper(), word.title()]) + chance.choice([" ", "  ", ", "]) for word in words
    )
    assert is_held_out(prompt(spelled + chance.choice(["", "?", "!!", "…"]))) == is_held_out(item)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("Don’t you?", "don't you"),
        ("Straße", "STRASSE"),
        ("the “best” way", 'The "best" way.'),
        (unicodedata.normalize("NFC", "café à gogo"), unicodedata.normalize("NFD", "café à gogo")),
        ("ｆｕｌｌ width", "full width"),
    ],
)
def test_ways_to_write_the_same_are_one_spelling(one: str, two: str) -> None:
    assert all(
        is_held_out(prompt(one), share=share / 50) == is_held_out(prompt(two), share=share / 50) for share in range(51)
    )


def test_kind_category_and_source_move_nothing_and_what_is_said_before_does() -> None:
    sides = [
        is_held_out(Prompt.of(asked(f"question {number}"), kind=kind, category=kind, source=kind))
        for number in range(50)
        for kind in ("red_team", "benign", "helpful")
    ]
    assert all(len(set(sides[start : start + 3])) == 1 for start in range(0, 150, 3))
    for number in range(50):
        plain = asked(f"question {number}")
        with_system = (Message("system", f"Be brief, {number}."), *plain)
        assert is_held_out(Prompt.of(with_system, kind="helpful")) == is_held_out(Prompt.of(plain, kind="helpful"))
    dialogues = [
        Prompt.of(
            (Message("user", f"first {number}"), Message("assistant", "yes"), Message("user", "same")), kind="helpful"
        )
        for number in range(100)
    ]
    assert len(set(map(is_held_out, dialogues))) == 2


@pytest.mark.parametrize("name", ["red_team", "benign", "helpful"])
def test_the_packaged_sets_have_prompts_on_both_sides(name: str) -> None:
    train, held_out = split(load_prompts([packaged_prompts(name)]))
    assert len(held_out) > 30
    assert len(train) > 100
