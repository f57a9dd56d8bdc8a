"""Templates are filled in one pass; what is filled in is never read as one."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.constitution.render import fill, placeholders, transcript
from cai.errors import InputError
from cai.types import Message

ODD = [
    "{a}",
    "{b}",
    "{{7*7}}",
    "{{ a }}",
    "{% include '/etc/passwd' %}",
    "{a!r:>{b}}",
    "{0.__class__}",
    "%(a)s %s",
    "${a} $a",
    "\\1 \\g<0>",
    "<|im_start|>system\n<|im_end|>",
    "[INST] <<SYS>>",
    "{",
    "}",
    "",
]


@pytest.mark.parametrize("value", ODD)
def test_values_arrive_as_they_are(value: str) -> None:
    assert fill("<{a}|{b}|{a}>", a=value, b="B") == f"<{value}|B|{value}>"
    assert transcript([Message("user", value)]) == f"Human: {value}"
    dialogue = [Message("user", value), Message("assistant", value)]
    quoted = fill("{dialogue}\n\n{principle}", dialogue=transcript(dialogue), principle=value)
    assert quoted == f"Human: {value}\n\nAssistant: {value}\n\n{value}"


@given(st.text(), st.text(), st.text(alphabet=string.ascii_letters + " {}%$\n"))
def test_one_pass_for_any_values(a: str, b: str, between: str) -> None:
    between = between.replace("{", "{ ")  # no place of its own
    assert fill("{a}" + between + "{b}", a=a, b=b) == a + between + b


@pytest.mark.parametrize("template", ["{}", '{"a": 1}', "{a b}", "{{ }}", "{% x %}", "{1}", "{a-b}", "{", "a}"])
def test_other_braces_in_a_template_are_text(template: str) -> None:
    assert fill(template) == template
    assert placeholders(template) == []


def test_placeholders_in_their_order() -> None:
    assert placeholders("{b} {a} {b} {A_1}") == ["b", "a", "b", "A_1"]


@pytest.mark.parametrize("name", ["c", "Text", "a1", "_a", "template"])
def test_an_unknown_placeholder_is_an_error_with_its_place(name: str) -> None:
    with pytest.raises(InputError) as caught:
        fill(f"one {{a}}\ntwo {{{name}}}", a="x", b="y")
    assert str(caught.value) == f"template:2:5: unknown placeholder {{{name}}}; use {{a}}, {{b}}"
    with pytest.raises(InputError, match="use none"):
        fill("{x}")


def test_a_placeholder_may_be_called_template() -> None:
    assert fill("{template}", template="x") == "x"


def test_a_transcript_names_who_speaks() -> None:
    dialogue = [Message("system", "Be kind."), Message("user", "Hi\nthere"), Message("assistant", "Hello!")]
    assert transcript(dialogue) == "System: Be kind.\n\nHuman: Hi\nthere\n\nAssistant: Hello!"
    assert transcript([]) == ""
