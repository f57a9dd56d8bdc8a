import pytest

from tests.constitution.lint.samples import findings, hits

PROBED = """
principles:
  - id: a
    text: Be kind.
    probes:
      - {prompt: Mock him., twin: Praise him.}
      - {prompt: Insult her.}
  - id: b
    text: Be brief.
    probes:
      - {prompt: Tell me everything., twin: praise him}
"""


def example(**said: str) -> str:
    usual = {
        "prompt": "Is it far?",
        "response": "Well, I should say that it is rather far.",
        "critique_request": "Where is it too long?",
        "critique": "It says more than was asked.",
        "revision_request": "Make it short.",
        "revision": "Rather far.",
    }
    rows = "".join(f"      {name}: {value}\n" for name, value in {**usual, **said}.items())
    return f"text: Answer in at most five words.\nchecker: max_words:5\nfew_shots:\n    -\n{rows}"


def test_probes_are_owed_by_principles_that_are_not_hard() -> None:
    assert hits("C031", "text: Be kind.") == ["'one' has no probes"]
    assert not hits("C031", "text: Be kind.\npriority: hard")
    assert not hits("C031", PROBED)


def test_one_twin_is_enough() -> None:
    assert not hits("C032", PROBED)
    assert hits("C032", PROBED.replace(", twin: Praise him.", "")) == ["no probe of 'a' has a twin"]
    assert not hits("C032", "text: Be kind.")


def test_a_prompt_counts_once() -> None:
    (found,) = findings("C033", PROBED)
    assert found.problem.problem == "'praise him' is a twin of 'a' already"
    assert found.problem.line == 12
    assert not hits("C033", PROBED.replace("praise him", "Praise her."))


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ({"revision": "It is rather far from here to there."}, "it fails the checker 'max_words:5' of 'one'"),
        ({"revision": "Well, I should say that it is rather far!"}, "is the same as the worse one"),
        ({"critique": "There is nothing wrong with it."}, "the critique finds nothing"),
        ({"critique": "The assistant's last answer is fine."}, "the critique finds nothing"),
        ({"critique": "I can't find any problem, it is short."}, "the critique finds nothing"),
    ],
)
def test_examples_that_break_what_they_show(said: dict[str, str], problem: str) -> None:
    (found,) = hits("C034", example(**said))
    assert problem in found


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"critique": "The answer is fine in its facts, but it says too much."},
        {"critique": "There is no reason to say so much."},
        {"critique": "No warmth is in it, and it is long."},
        {"critique": "There is nothing wrong with it.", "response": "Rather far."},
        {"critique": "The assistant answered correctly and briefly.", "response": "Rather far."},
    ],
)
def test_examples_that_are_fair(said: dict[str, str]) -> None:
    assert not hits("C034", example(**said))


def test_examples_of_the_constitution_and_of_comparisons() -> None:
    shots = """
      principles: [{id: one, text: Be kind., checker: "max_words:3"}]
      comparison_shots:
        - {prompt: Who?, chosen: It is not for me to say., rejected: it is not for me to say}
        - {prompt: Who?, chosen: It is not for me to say., rejected: Him.}
    """
    (found,) = findings("C034", shots)
    assert found.problem.line == 5
    assert found.problem.problem == "chosen: the answer that is better is the same as the worse one"


def test_the_first_answer_of_an_example_breaks_the_checker() -> None:
    assert hits("C035", example(response="Far.")) == ["response: it passes the checker 'max_words:5' of 'one'"]
    assert not hits("C035", example())
    assert not hits("C035", example(response="Far.", critique="There is nothing wrong with it.", revision="Far."))
    assert not hits("C035", example(response="Far.").replace("checker: max_words:5\n", ""))


@pytest.mark.parametrize(
    ("text", "checker"),
    [
        ("Answer in at most 50 words.", "max_words:80"),
        ("Answer in at least 50 words.", "max_words:50"),
        ("Answer in at most 50 words.", "min_words:50"),
        ("Decline in a sentence or two.", "max_sentences:3"),
        ("Write no more than two hundred words.", "max_words:100"),
    ],
)
def test_numbers_that_differ(text: str, checker: str) -> None:
    assert hits("C036", f"text: {text}\nchecker: {checker}")


@pytest.mark.parametrize(
    ("text", "checker"),
    [
        ("Answer in at most 50 words.", "max_words:50"),
        ("Answer in fewer than 50 words.", "max_words:49"),
        ("Decline in a sentence or two.", "max_sentences:2"),
        ("Decline in one or two short sentences.", "max_sentences:2"),
        ("Write no more than two hundred words.", "max_words:200"),
        ("Write a hundred words at most.", "max_words:100"),
        ("Answer briefly, in few words.", "max_words:80"),
        ("Name three sources in at most 50 words.", "max_words:50"),
        ("Give two sentences of at most 50 words.", "max_words:50"),
        ("Give no links in 50 words.", "no_links"),
    ],
)
def test_numbers_that_agree(text: str, checker: str) -> None:
    assert not hits("C036", f"text: {text}\nchecker: {checker}")
