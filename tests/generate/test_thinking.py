import pytest

from cai.generate.thinking import KNOWN, ThinkingConfig, cut, join_thinking, split_thinking

PLAIN, OPENED = ThinkingConfig(), ThinkingConfig(opened=True)


@pytest.mark.parametrize("marks", KNOWN)
def test_the_common_marks_are_known(marks: tuple[str, str]) -> None:
    before, after = marks
    assert split_thinking(f"\n{before}\nHe is angry.\n{after}\n\nPlease don't.", PLAIN) == (
        "He is angry.",
        "Please don't.",
    )


def test_a_model_may_have_marks_of_its_own() -> None:
    config = ThinkingConfig(marks=[("<inner>", "</inner>")])
    assert split_thinking("<inner>Hm.</inner>No.", config) == ("Hm.", "No.")
    assert split_thinking("<inner>Hm.</inner>No.", PLAIN) == ("", "<inner>Hm.</inner>No.")


def test_a_text_without_marks_is_an_answer() -> None:
    assert split_thinking(" Please don't. ", PLAIN) == ("", "Please don't.")
    quoted = "In HTML, <think> and </think> mean nothing."
    assert split_thinking(quoted, PLAIN) == ("", quoted)
    assert split_thinking("The mark `</think>` ends it.", PLAIN) == ("", "The mark `</think>` ends it.")


def test_an_empty_thought_leaves_the_answer() -> None:
    assert split_thinking("<think>\n\n</think>\n\nPlease don't.", PLAIN) == ("", "Please don't.")


def test_thinking_that_never_ends_leaves_no_answer() -> None:
    assert split_thinking("<think>First, he", PLAIN) == ("First, he", None)
    assert split_thinking("First, he", OPENED) == ("First, he", None)
    assert split_thinking("<think>a</think>b<think>c", PLAIN) == ("a\n\nc", None)
    assert split_thinking("<think>a</think>", PLAIN) == ("a", "")


def test_the_template_may_have_opened_it() -> None:
    assert split_thinking("He is angry.\n</think>\n\nPlease don't.", PLAIN) == ("He is angry.", "Please don't.")
    assert split_thinking("He is angry.</think>Please don't.", OPENED) == ("He is angry.", "Please don't.")
    assert split_thinking("<think>Twice.</think>Please don't.", OPENED) == ("Twice.", "Please don't.")


def test_thinking_on_the_way_is_thinking_too() -> None:
    text = "<think>a</think>One. <think>b</think>Two."
    assert split_thinking(text, PLAIN) == ("a\n\nb", "One.\n\nTwo.")


@pytest.mark.parametrize("config", [PLAIN, OPENED, ThinkingConfig(marks=[("<a>", "</a>")])])
def test_what_is_joined_can_be_told_apart_again(config: ThinkingConfig) -> None:
    joined = join_thinking("He is angry.", "Please don't.", config)
    assert split_thinking(joined, config) == ("He is angry.", "Please don't.")
    assert joined.startswith("He") == config.opened
    assert join_thinking("", "Please don't.", config) == "Please don't."


def test_an_answer_is_cut_before_the_first_stop() -> None:
    assert cut("Please don't. \nHuman: Why?\nCritique: x", ("\nCritique:", "\nHuman:")) == "Please don't."
    assert cut(" all ", ()) == "all"
