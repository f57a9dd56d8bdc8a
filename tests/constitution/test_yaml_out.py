import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cai.constitution import Constitution, load_constitution
from cai.constitution.parse import read_constitution, shipped
from cai.constitution.yaml_out import to_yaml
from cai.errors import InputError
from cai.strict_yaml import load

ODD = (
    "a\tb",
    "one\ntwo\n\n  three",
    "no",
    "007",
    "1e3",
    "null",
    "- item",
    "key: value",
    "a #b",
    "# heading",
    "{{7*7}} {text",
    "ends with:",
    "'quoted' and \"quoted\"",
    "*alias &anchor !tag",
    "---",
    "%TAG",
    "word " * 60,
    "two  spaces " * 20,
    "long: " + "word " * 60,
    "trailing  \nspaces",
    "émile ☃ 😀",
    "\\n is two characters",
)


def again(constitution: Constitution) -> Constitution:
    return read_constitution(load(to_yaml(constitution)))


def made(text: str, **more: object) -> Constitution:
    return Constitution.model_validate(
        {"name": "c", "version": "1", "principles": [{"id": "one", "text": text}], **more}
    )


@pytest.mark.parametrize("name", sorted(shipped()))
def test_a_shipped_constitution_keeps_its_digest(name: str) -> None:
    constitution = load_constitution(name)
    assert again(constitution).digest == constitution.digest
    assert to_yaml(again(constitution)) == to_yaml(constitution)


@pytest.mark.parametrize("text", ODD)
def test_any_text_comes_back_as_it_was(text: str) -> None:
    constitution = made(text, description=text, licence=text)
    read = again(constitution)
    assert read.principles[0].text == text.strip()
    assert read.digest == constitution.digest


@settings(max_examples=150, deadline=None)
@given(
    st.text(
        st.characters(exclude_categories=("Cc", "Cs", "Co", "Cn", "Zl", "Zp")) | st.sampled_from("\n\t :#-"), min_size=1
    )
)
def test_generated_texts_come_back(text: str) -> None:
    if not text.strip() or "\ufeff" in text:
        return
    constitution = made(text)
    assert again(constitution) == constitution


def test_words_that_yaml_takes_for_others_are_quoted() -> None:
    principle = {"id": "on", "title": "Yes", "text": "no", "tags": ["no", "007", "y"], "weight": 1e-05}
    constitution = Constitution.model_validate({"name": "off", "version": "1.0", "principles": [principle]})
    assert again(constitution) == constitution


def test_what_is_derived_is_left_out_and_comes_back() -> None:
    constitution = made("Be kind.", wordings={"critique": "Where is it unlike this? {text}"})
    text = to_yaml(constitution)
    assert text.count("Be kind.") == 1
    assert "title" not in text
    assert "revision" not in text
    assert again(constitution) == constitution


def test_what_a_file_cannot_hold_is_refused() -> None:
    with pytest.raises(InputError, match=r"U\+0007"):
        to_yaml(made("ring \x07"))


def test_a_long_text_is_folded_and_lines_stay_lines() -> None:
    text = to_yaml(made("word " * 80))
    assert "text: >-" in text
    assert max(map(len, text.splitlines())) <= 120
    assert "text: |-\n      a\n      b\n" in to_yaml(made("a\nb"))


@pytest.mark.parametrize("framing", ["do", "avoid", None])
@pytest.mark.parametrize("text", ["Never lie.", "Be kind."])
def test_a_framing_is_written_when_the_text_does_not_say_it(text: str, framing: str | None) -> None:
    principle = {"id": "one", "text": text, **({"framing": framing} if framing else {})}
    constitution = Constitution.model_validate({"name": "c", "version": "1", "principles": [principle]})
    assert again(constitution) == constitution
    assert ("framing" in to_yaml(constitution)) is ((framing or "") == {"N": "do", "B": "avoid"}[text[0]])
