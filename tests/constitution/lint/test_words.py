import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.constitution.lint.words import (
    NEAR,
    agrees,
    content,
    forbids,
    negations,
    opposes,
    plain,
    related,
    similar,
    similarity,
    stem,
    words,
)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("crime", "crimes"),
        ("hide", "hiding"),
        ("safe", "safer"),
        ("stay", "stays"),
        ("said", "say"),
        ("study", "studies"),
    ],
)
def test_forms_of_a_word_are_one(one: str, other: str) -> None:
    assert stem(one) == stem(other)


@pytest.mark.parametrize(("one", "other"), [("glass", "glad"), ("ring", "red"), ("honest", "harm"), ("this", "thing")])
def test_other_words_stay_apart(one: str, other: str) -> None:
    assert stem(one) != stem(other)


def test_content_leaves_out_what_says_nothing() -> None:
    assert content("Don’t help anyone's brother with what he must not do") == {"help", "broth"}
    assert content("Be it so") == frozenset()
    assert words("Don’t — stop!") == ["don't", "stop"]
    assert plain("Be kind,\n to PEOPLE!") == "be kind to people"


def test_related_sees_beginnings() -> None:
    assert related(content("deceive a person"), content("no deception"))
    assert not related(content("deceive a person"), content("decide quickly"))


@pytest.mark.parametrize(
    ("text", "forbidding"),
    [
        ("Never lie.", True),
        ("Please do not lie.", True),
        ("When somebody asks, don’t guess.", True),
        ("Avoid jokes.", True),
        ("Say when you do not know.", False),
        ("Nobody is stupid.", False),
        ("Note the time.", False),
    ],
)
def test_forbids(text: str, forbidding: bool) -> None:
    assert forbids(text) is forbidding


def test_negations_tell_agreement_from_opposition() -> None:
    assert negations("Never say that you can't, not even once.") == 3
    assert agrees("Never lie.", "Do not lie.")
    assert not agrees("Say when you know.", "Say when you do not know.")
    assert not opposes("Say when you know.", "Say when you do not know.")
    assert opposes("Never lie.", "Lie.")


def test_similarity_is_the_share_of_common_words() -> None:
    assert similarity(frozenset("abcd"), frozenset("abce")) == 3 / 5
    assert similarity(frozenset(), frozenset()) == 0


@given(st.lists(st.frozensets(st.sampled_from("abcdefgh")), max_size=8), st.integers())
def test_similar_finds_what_a_look_at_all_pairs_finds(sets: list[frozenset[str]], seed: int) -> None:
    left, right = sets, random.Random(seed).sample(sets, len(sets))

    def accept(first: int, second: int) -> bool:
        return (first + second) % 3 != 0

    slow: dict[int, int] = {}
    for second, first in itertools.product(range(len(right)), range(len(left))):
        if similarity(left[first], right[second]) >= NEAR and accept(first, second):
            slow.setdefault(second, first)
    assert similar(left, right, accept) == slow
