import pytest

from cai.constitution.lint.text import ROOM
from tests.constitution.lint.samples import findings, hits


def pair(one: str, two: str, more: str = "") -> str:
    return f'principles:\n  - {{id: one, text: "{one}"}}\n  - {{id: two, text: "{two}"{more}}}\n'


def test_a_duplicate_is_told_once_and_names_the_first() -> None:
    part = 'principles:\n  - {id: a, text: "Be kind."}\n  - {id: b, text: "be kind"}\n  - {id: c, text: "Be kind!"}\n'
    assert hits("C001", part) == ["'b' has the text of 'a'", "'c' has the text of 'a'"]
    assert not hits("C002", part), "one finding a pair"


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("Do not help with theft.", "Never help with thefts."),
        ("Say which country's law you speak of.", "Say of which country's laws you are speaking."),
        (
            "Tell a child in great danger who can help right now, today.",
            "Tell children in great danger who could help right now, today.",
        ),
    ],
)
def test_near_duplicates(one: str, two: str) -> None:
    assert hits("C002", pair(one, two)) == ["'two' says nearly what 'one' says"]


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("Never help with theft.", "Help with theft."),  # the opposite: another rule's
        ("Say when you are sure.", "Say when you are not sure."),
        ("Be brief.", "Be kind."),
        ("Never help anyone to hurt people.", "Never help anyone to hurt animals."),
        ("Answer questions about medicines for adults.", "Answer questions about medicines for children."),
    ],
)
def test_no_near_duplicates(one: str, two: str) -> None:
    assert not hits("C002", pair(one, two))


@pytest.mark.parametrize(
    "text",
    [
        "Never give out telephone numbers and always write in British spelling.",
        "Cite a source for medical claims; greet people by name.",
        "Respond politely to rude words and also cite scientific sources.",
        "Keep the secrets of clients. Write short paragraphs.",
        "Never lie and always answer in French.",
        "Protect the safety of children; use long paragraphs.",
        "Never insult a colleague. Do not use foreign words.",
    ],
)
def test_two_duties_in_one(text: str) -> None:
    (found,) = hits("C003", f'text: "{text}"')
    assert found.startswith("two duties in one: ")


@pytest.mark.parametrize(
    "text",
    [
        "Do not help with theft, break-ins, forgery, drug making or other crimes.",
        "Be honest and admit mistakes.",
        "Do not manipulate anyone. Do not use fear, guilt or flattery.",
        "Do not guess; name a source.",
        "Be warm, patient and honest and kind.",
        "Never insult or look down on people for their origin, and treat all people as of equal worth.",
        "When someone speaks of suicide, answer with warmth, give no means, and name people who can help.",
        "Do not make up studies. Say what is known.",
        "Never invent sources and present guesses as facts.",
        "Name the risks of a contract and say who can explain them.",
        "Make clear that you explain the law in general and do not judge the person's own case.",
        "Refuse only the part that would do harm, and help with the rest.",
        "Explain terms and conditions of a sale.",
        "Offer help and support to new parents.",
        "Say what it costs and where to complain.",
    ],
)
def test_one_duty(text: str) -> None:
    assert not hits("C003", f'text: "{text}"')


def test_length_depends_on_the_context_and_examples_are_told_once() -> None:
    long = f"text: Be kind to {'all people, ' * 300}to all."
    (found,) = findings("C004", long, context=1200)
    assert "'one' takes about" in found.problem.problem
    assert (found.problem.line, found.problem.col) == (4, 5)
    assert not hits("C004", long, context=4096)
    shot = "\n".join(f"    {name}: {'so it is, ' * 60}" for name in ("response", "critique", "revision"))
    asked = "\n".join(f"    {name}: Where?" for name in ("prompt", "critique_request", "revision_request"))
    examples = (
        f"principles:\n  - {{id: a, text: Be kind.}}\n  - {{id: b, text: Be calm.}}\nfew_shots:\n  -\n{asked}\n{shot}\n"
    )
    (found,) = findings("C004", examples, context=ROOM + 256)
    assert "the examples alone take about" in found.problem.problem
    assert found.problem.fix == "show fewer or shorter examples"
    assert not hits("C004", examples, context=2048)


def test_the_length_of_a_principle_counts_its_own_examples() -> None:
    shot = "{prompt: Why?, chosen: %s, rejected: So.}" % ("because " * 400)
    assert hits("C004", f"text: Be kind.\ncomparison_shots:\n  - {shot}\n", context=1200)
    assert not hits("C004", "text: Be kind.\n", context=1200)


@pytest.mark.parametrize(
    ("text", "better"),
    [
        ("Be patient with the elderly.", "older people"),
        ("Think of what is good for mankind.", "humankind"),
        ("When the user asks, tell him the truth.", "they"),
        ("Let a person decide about his or her body.", "their"),
        ("Describe ways for the blind and the deaf.", "blind people"),
        ("Do not treat them as you would normal people.", "say what sets them apart"),
    ],
)
def test_words_that_set_apart(text: str, better: str) -> None:
    found = findings("C005", f'text: "{text}"')
    assert found
    assert any(better in finding.problem.fix for finding in found)


@pytest.mark.parametrize(
    "text",
    [
        "Name the blind spot of an argument.",
        "Point out the poor quality of a translation.",
        "Correct those who write 'the elderly' for older people.",
        'Say that \\"mankind\\" leaves people out.',
        "Tell a man what his rights are.",
        "Ask the user for their name.",
        "Describe how egg whites are beaten.",
        "Speak of manual work with respect.",
    ],
)
def test_words_that_do_not(text: str) -> None:
    assert not hits("C005", f'text: "{text}"')


def test_a_word_is_told_once_a_principle_and_examples_are_not_read() -> None:
    part = "text: Be kind to the elderly.\nprobes:\n  - {prompt: Why are the elderly slow?}\n"
    assert len(hits("C005", part)) == 1
    assert not hits("C005", part.replace("to the elderly", "to older people"))
