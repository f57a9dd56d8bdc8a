import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.generate.quality import CHECKS, Candidate, empty, fault, leaked, repetitive, unchanged


def candidate(text: str, before: str = "") -> Candidate:
    return Candidate(text=text, finish_reason="stop", before=before)


@pytest.mark.parametrize("text", ["", " \n", "...", "– * –"])
def test_nothing_said_is_empty(text: str) -> None:
    assert empty(candidate(text)) == "empty"


@pytest.mark.parametrize("text", ["a", "42.", "да", "日本"])
def test_a_word_in_any_script_is_something(text: str) -> None:
    assert empty(candidate(text)) is None


def test_a_loop_is_repetitive_and_a_phrase_that_comes_back_is_not() -> None:
    assert repetitive(candidate("no " * 20)) == "repetitive"
    assert repetitive(candidate("I want to help you. " * 6)) == "repetitive"
    once = "one two three four five six seven eight nine ten eleven twelve"
    assert repetitive(candidate(f"{once} and once more: one two three.")) is None
    assert repetitive(candidate("ha ha ha ha ha")) is None, "too short to tell"


def test_a_revision_that_speaks_of_the_answer_is_none() -> None:
    said = "The assistant's last answer is harmful because it names a weapon."
    assert fault(candidate(said, before="Take a knife.")) == "speaks of the answer in its place"
    assert fault(candidate("The answer is 42.")) is None, "a draft may say so"
    assert fault(candidate("I can't name the answer.", before="It is 42.")) is None


def test_a_revision_must_change_more_than_white_space() -> None:
    assert unchanged(candidate("the  same\nwords", before="the same words")) == "equal to the answer before"
    assert unchanged(candidate("other words", before="the same words")) is None
    assert unchanged(candidate("a draft", before="")) is None
    assert unchanged(candidate("", before="")) is None


def test_the_first_reason_is_given() -> None:
    assert fault(candidate("", before="")) == "empty"
    assert fault(candidate("...", before="...")) == "empty"
    assert fault(candidate("word " * 30, before="word " * 30)) == "repetitive"
    assert fault(candidate("A kind answer.", before="A cruel answer.")) is None


def test_a_revision_that_speaks_of_the_answer_is_a_leaked_critique() -> None:
    assert leaked(candidate("The answer should be kinder.", before="Go away.")) == "speaks of the answer in its place"
    assert leaked(candidate("The answer should be kinder.")) is None
    assert leaked(candidate("The answering machine is broken.", before="Go away.")) is None


@given(st.text(), st.text())
def test_every_text_can_be_checked(text: str, before: str) -> None:
    found = fault(candidate(text, before))
    assert found is None or found in {check(candidate(text, before)) for check in CHECKS}
