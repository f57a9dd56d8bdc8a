import time

import pytest

from cai.constitution import Principle
from cai.constitution.checkers import checker, checkers, find_checker

LONG = " ".join(["word"] * 30)
LOOP = "I can not help you with that today. " * 4


@pytest.mark.parametrize(
    ("rule", "passes", "fails"),
    [
        ("max_words:3", "one two three", "one two three four"),
        ("min_words:3", "one two three", "one two"),
        ("max_sentences:2", "One is 3.5 kg. Two!", "One. Two. Three"),
        ("includes:emergency|call 112", "Please CALL\n112 now.", "Call 1123."),
        ("excludes:as an AI|in conclusion", "An AIr of calm.", "Well, As an  AI, no."),
        ("matches:^\\d{4}-\\d\\d-", "2026-11-21", "yesterday"),
        ("lacks:(?i)guarantee[ds]?", "It may work.", "Success is GUARANTEED."),
        ("ends_with:?", "Shall we?  \n", "We shall."),
        ("no_links", "See the library.", "See https://x.example/a"),
        ("no_contact_details", "In 1990-2020 it cost 1,000,000.", "Call +49 171 2345678."),
        ("no_contact_details", "Meet me @ noon.", "Write to ann.lee@mail.example."),
        ("not_empty", "x", " \n"),
        ("no_repetition", LOOP[:80], LOOP),
        ("json", '{"a": [1]}', 'Sure: {"a": 1}'),
    ],
)
def test_a_rule_passes_and_fails(rule: str, passes: str, fails: str) -> None:
    check = find_checker(rule)
    assert (check(passes), check(fails)) == (True, False)


def test_every_rule_is_tested_and_says_what_it_does() -> None:
    tested = {str(case[0]).partition(":")[0] for case in _cases()}
    shipped = {name: says for name, says in checkers().items() if not name.startswith(("test_", "shouts"))}
    assert tested == set(shipped)
    assert all(shipped.values())


def _cases() -> list[tuple[str, str, str]]:
    mark = next(mark for mark in test_a_rule_passes_and_fails.pytestmark if mark.name == "parametrize")  # type: ignore[attr-defined]
    return list(mark.args[1])


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("max_word:3", "did you mean 'max_words'?"),
        ("max_words", "is not a number"),
        ("max_words:-1", "is not a number"),
        ("max_words:many", "is not a number"),
        ("no_links:3", "takes no argument"),
        ("excludes:a||b", "an empty phrase"),
        ("matches:", "no pattern"),
        ("matches:(", "bad regular expression"),
        ("ends_with", "no ending"),
        ("os.system:ls", "no checker 'os.system'"),
    ],
)
def test_a_rule_that_can_not_be(rule: str, said: str) -> None:
    with pytest.raises(ValueError, match="; ") as caught:
        find_checker(rule)
    assert said in str(caught.value)


def test_a_pattern_that_takes_too_long_gives_no_verdict() -> None:
    check = find_checker(r"matches:^(\w+\s?)*\.$")
    started = time.monotonic()
    assert check("a" * 60 + "!") in (None, False)
    assert time.monotonic() - started < 5


def test_a_checker_of_ones_own() -> None:
    @checker("test_of_ones_own")
    def _shouts(argument: str):  # type: ignore[no-untyped-def]  # noqa: ANN202
        return str.isupper

    assert Principle(id="loud", text="Shout.", checker="test_of_ones_own").check("HELLO") is True
    with pytest.raises(ValueError, match="already"):
        checker("test_of_ones_own")
    with pytest.raises(ValueError, match="small letters"):
        checker("Test-name")


def test_without_a_checker_there_is_no_verdict() -> None:
    assert Principle(id="calm", text="Stay calm.").check(LONG) is None
