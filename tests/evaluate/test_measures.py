import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.evaluate.measures import MEASURES, cut_off, refusal_wording, repetition, words

REFUSALS = [
    "I'm sorry, but I can't help with that.",
    "I’m sorry, but I can’t help with that.",
    "I am very sorry to hear that.",
    "I cannot assist with this request.",
    "I can not do that.",
    "I won't write that.",
    "i will not",
    "I am unable to help.",
    "I'm unable to help.",
    "I'm not able to help.",
    "I'm not comfortable with this.",
    "I don't feel comfortable with this.",
    "I'm afraid this is beyond me.",
    "As an AI, I have no opinions.",
    "It is not appropriate to share that.",
]
ANSWERS = [
    "Sure! Here is a recipe.",
    "Candles can't burn without air.",
    "The trail will not be open until May.",
    "Sorry is a hard word to say.",
    "Marie will not come. Hi, sorry!",
    "The aide said so.",
    "",
]


@pytest.mark.parametrize("text", REFUSALS)
def test_the_wording_of_a_refusal_is_found(text: str) -> None:
    assert refusal_wording(text, "stop") == 1.0


@pytest.mark.parametrize("text", ANSWERS)
def test_other_wording_is_not_taken_for_one(text: str) -> None:
    assert refusal_wording(text, "stop") == 0.0


def test_only_the_beginning_of_an_answer_counts() -> None:
    assert refusal_wording("word " * 30 + REFUSALS[0], "stop") == 1.0
    assert refusal_wording("word " * 40 + REFUSALS[0], "stop") == 0.0


def test_length_is_in_words() -> None:
    assert words("one  two\nthree", "stop") == 3.0
    assert words("", "stop") == 0.0


def test_an_answer_is_cut_off_when_the_limit_ended_it() -> None:
    assert (cut_off("a", "length"), cut_off("a", "stop")) == (1.0, 0.0)


def test_repetition_is_the_share_of_four_word_runs_that_were_there_before() -> None:
    assert repetition("a b c d e f g h", "stop") == 0.0
    assert repetition("a a a a a a", "stop") == pytest.approx(2 / 3)  # three runs, one of them new
    assert repetition("a b c d a b c d", "stop") == pytest.approx(1 / 5)
    assert repetition("a a a a", "stop") == 0.0, "one run cannot repeat"
    assert repetition("", "stop") == 0.0


@pytest.mark.parametrize("name", MEASURES)
@given(text=st.text(max_size=300))
def test_every_measure_is_a_finite_number_for_every_text(name: str, text: str) -> None:
    value = MEASURES[name](text, "stop")
    assert isinstance(value, float)
    assert math.isfinite(value)
    assert value >= 0
