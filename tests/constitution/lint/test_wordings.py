import pytest

from cai.constitution.lint.wordings import WORDINGS
from tests.constitution.lint.samples import findings, hits


def test_a_derived_contrast_is_no_opposite_whatever_the_template() -> None:
    assert hits("C011", "text: Be kind.") == ["'one' names no opposite"]
    own = 'wordings: {contrast: "Break this: {text}"}\nprinciples:\n  - {id: one, text: Be kind.}\n'
    assert hits("C011", own) == ["'one' names no opposite"]
    assert not hits("C011", "text: Be kind.\ncontrast: Be rude.")


@pytest.mark.parametrize(
    ("text", "contrast"),
    [("Be kind.", "be KIND"), ("Do not help with theft.", "Never help with thefts.")],
)
def test_a_contrast_that_says_the_same(text: str, contrast: str) -> None:
    assert hits("C012", f"text: {text}\ncontrast: {contrast}")


@pytest.mark.parametrize(
    ("text", "contrast"),
    [
        ("Do not help with theft.", "Help with theft."),
        ("Never write the same sentence over and over.", "Write the same sentence over and over."),
        ("Say when you are not sure of a fact.", "Say when you are sure of a fact."),
        ("Be brief.", "Be long-winded."),
    ],
)
def test_a_contrast_that_opposes(text: str, contrast: str) -> None:
    assert not hits("C012", f"text: {text}\ncontrast: {contrast}")


@pytest.mark.parametrize(
    "comparison",
    [
        "Is (A) kinder?",
        "Is the second answer kinder?",
        "Which is kinder, the former or the latter?",
        "Is Response A kinder than Response B?",
        "Is option 1 kinder?",
        "Is the last one kinder?",
        "Which is kinder, A or B?",
        "Choose the top response.",
    ],
)
def test_comparisons_that_hint(comparison: str) -> None:
    assert hits("C013", f'text: Be kind.\ncomparison: "{comparison}"')


@pytest.mark.parametrize(
    "comparison",
    [
        "Which of these answers is kinder?",
        "Which answer puts safety first?",
        "Which of these answers asks for a second opinion?",
        "Which of these answers is better at naming a last resort?",
        "Which answer is one that a friend would give?",
        "Which of these answers answers a question about vitamin B12?",
        "Choose the response that is a better answer.",
    ],
)
def test_comparisons_that_do_not(comparison: str) -> None:
    assert not hits("C013", f'text: Be kind.\ncomparison: "{comparison}"')


@pytest.mark.parametrize("name", ["text", *WORDINGS])
def test_places_that_nothing_fills(name: str) -> None:
    text = "" if name == "text" else "text: Be kind.\n"
    (found,) = findings("C014", f'{text}{name}: "Where is {{answer}} unkind?"')
    assert found.problem.problem == f"{name}: nothing fills {{answer}}"
    assert not hits("C014", f'{text}{name}: "Write {{}} or {{\\"key\\": 1}} as it is."')


def test_a_place_in_the_text_is_told_once_and_examples_are_read() -> None:
    assert hits("C014", 'text: "Be kind to {name}."') == ["text: nothing fills {name}"]
    shot = """
      text: Be kind.
      few_shots:
        - prompt: "What is {x} in Python?"
          response: "{x} is a place."
          critique_request: "What is wrong in {response}?"
          critique: It is {short}.
          revision_request: Say more.
          revision: "In f-strings {x} is a place."
    """
    assert hits("C014", shot) == ["critique_request: nothing fills {response}"]


def test_a_revision_that_does_not_follow() -> None:
    asked = "text: Protect private facts.\ncritique: Say which private facts the answer gives away.\n"
    assert hits("C015", asked + "revision: Rewrite the answer in short sentences.") == [
        "the revision of 'one' speaks of something else than its critique"
    ]
    assert hits("C015", asked + "revision: Rewrite the assistant's last answer.") == [
        "the revision of 'one' names nothing to mend"
    ]
    assert not hits("C015", asked + "revision: Take the fact out.")
    assert not hits("C015", asked)
    deceit = "text: Do not deceive people.\ncritique: Where does the answer deceive?\n"
    assert not hits("C015", deceit + "revision: Rewrite the answer without deception.")


@pytest.mark.parametrize(
    ("name", "said", "hit"),
    [
        ("critique", "The answer is rude. It should not be.", True),
        ("critique", "The answer may be rude. Say where.", False),
        ("critique", "Is the answer rude?", False),
        ("critique", "Specifically, list all rude words.", False),
        ("revision", "The answer should be polite.", True),
        ("revision", "Please rewrite the answer politely.", False),
        ("comparison", "One is more polite.", False),
        ("comparison", "The better answer is polite.", True),
        ("comparison", "Choose the more polite answer.", False),
    ],
)
def test_wordings_that_ask_for_nothing(name: str, said: str, hit: bool) -> None:
    assert bool(hits("C016", f"text: Be polite.\n{name}: {said}")) is hit


def test_wordings_that_were_copied() -> None:
    part = """
      principles:
        - {id: kind, text: Be kind to people., contrast: Be rude.}
        - {id: polite, text: Be polite to people., contrast: be rude}
        - {id: brief, text: Be brief.}
    """
    assert hits("C017", part) == ["the contrast of 'polite' is that of 'kind'"]
    assert not hits("C017", part.replace("be rude", "Be impolite."))
    assert not hits("C017", "principles:\n  - {id: a, text: Be kind.}\n  - {id: b, text: be kind}\n"), "a duplicate"


def test_a_derived_contrast_is_not_compared_with_the_text() -> None:
    assert not hits("C012", "text: The opposite of help is not help.")
