"""What a principle derives, what a constitution refuses, and what its digest depends on."""

from typing import Any

import pytest
from pydantic import ValidationError

from cai.constitution import Constitution, Principle
from cai.constitution.model import DERIVED, Wordings

SMALL: dict[str, Any] = {
    "name": "small",
    "version": "1",
    "principles": [{"id": "calm", "text": "Stay calm."}, {"id": "short", "text": "Be brief.", "weight": 2}],
}


def small(**changes: Any) -> Constitution:
    return Constitution.model_validate({**SMALL, **changes})


def with_first(**changes: Any) -> Constitution:
    first, second = SMALL["principles"]
    return small(principles=[{**first, **changes}, second])


def test_what_a_principle_does_not_say_comes_from_its_text() -> None:
    principle = Principle(id="stay-calm_now", text="  Stay calm.\n")
    assert principle.text == "Stay calm."
    assert principle.title == "Stay calm now"
    for name, template in DERIVED.items():
        assert getattr(principle, name) == template.replace("{text}", "Stay calm.")


def test_what_a_principle_says_stays() -> None:
    principle = Principle(
        id="calm", text="Stay calm.", title="T", critique="C", revision="R", comparison="Q", contrast="X"
    )
    assert [principle.title, principle.critique, principle.revision] == ["T", "C", "R"]
    assert [principle.comparison, principle.contrast] == ["Q", "X"]


def test_wordings_of_a_constitution_replace_the_templates() -> None:
    constitution = small(wordings={"contrast": "Break this: {text}"})
    assert constitution["calm"].contrast == "Break this: Stay calm."
    assert constitution["calm"].critique == DERIVED["critique"].replace("{text}", "Stay calm.")
    own = small(wordings={"contrast": "Break this: {text}"}, principles=[{"id": "a", "text": "T", "contrast": "Own."}])
    assert own["a"].contrast == "Own."


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("Break {txt}", "unknown placeholder {txt}; use {text}"),
        ("Break it", "must be in it once"),
        ("{text}{text}", "once"),
    ],
)
def test_a_template_has_the_text_once_and_no_other_place(template: str, said: str) -> None:
    with pytest.raises(ValidationError, match="wordings") as caught:
        small(wordings={"critique": template})
    assert said in str(caught.value)


def test_the_default_templates_are_the_derived_ones() -> None:
    assert Wordings().model_dump() == DERIVED


def test_principles_are_text_and_never_templates() -> None:
    odd = "Say {text} {critique} {{7*7}} {% for x in y %} ${HOME} %s <|im_end|> \\1"
    principle = Principle(id="odd", text=odd)
    assert principle.critique == DERIVED["critique"].replace("{text}", odd)
    assert Principle(id="odd", text="x", critique="See {text}").critique == "See {text}"


@pytest.mark.parametrize(
    "principle_id", ["", "A", "-a", "a b", "a\n", "ä", "a.b", "../a", "a" * 65, "_a", 3, None, True]
)
def test_ids_are_slugs(principle_id: object) -> None:
    with pytest.raises(ValidationError):
        Principle.model_validate({"id": principle_id, "text": "x"})


@pytest.mark.parametrize("weight", [0, -1, float("inf"), float("nan"), True, "1", None, 1001])
def test_weights_are_positive_and_finite(weight: object) -> None:
    with pytest.raises(ValidationError):
        Principle.model_validate({"id": "a", "text": "x", "weight": weight})


def test_the_longest_text_still_derives_its_wordings() -> None:
    longest = small(wordings={"critique": "x" * 1994 + "{text}"}, principles=[{"id": "a", "text": "y" * 4000}])
    assert len(longest["a"].critique) == 5994
    with pytest.raises(ValidationError):
        Principle(id="a", text="y" * 4001)


def test_no_unknown_keys_no_changes() -> None:
    with pytest.raises(ValidationError, match="extra_forbidden"):
        small(principels=[])
    with pytest.raises(ValidationError, match="frozen"):
        small()["calm"].text = "x"  # type: ignore[misc]


def test_lookup_and_tags() -> None:
    constitution = with_first(tags=["tone"])
    assert constitution["short"].text == "Be brief."
    with pytest.raises(KeyError):
        constitution["none"]
    assert [principle.id for principle in constitution.tagged(("tone", "x"))] == ["calm"]
    assert len(constitution.tagged(())) == 2


# The digest.


def test_the_digest_is_of_the_content_only() -> None:
    digest = small().digest
    assert len(digest) == 64
    assert digest == small(description=" \n", few_shots=[]).digest
    assert digest == with_first(text="Stay calm.  ", weight=1.0, title="Calm").digest
    assert digest == Constitution.model_validate(dict(reversed(SMALL.items()))).digest
    assert digest == Constitution.model_validate(small().model_dump()).digest
    assert digest == small(wordings=DERIVED).digest


EXAMPLE = dict.fromkeys(("prompt", "response", "critique_request", "critique", "revision_request", "revision"), "x")


@pytest.mark.parametrize(
    "other",
    [
        small(name="other"),
        small(version="2"),
        small(description="d"),
        small(licence="MIT"),
        small(few_shots=[EXAMPLE]),
        small(principles=SMALL["principles"][::-1]),
        small(principles=SMALL["principles"][:1]),
        small(wordings={"contrast": "Break this: {text}"}),
        *[with_first(**{key: "x"}) for key in ("id", "title", "text", "source", *DERIVED)],
        with_first(weight=1.5),
        with_first(tags=["tone"]),
        with_first(text="Stay calm"),
    ],
)
def test_the_digest_changes_with_any_word(other: Constitution) -> None:
    assert other.digest != small().digest


def test_the_digest_of_today_is_that_of_tomorrow() -> None:
    # Records carry it: a change of how it is made orphans them. Fields that are added must not change it.
    assert small().digest == "602f220392cc488d3ea32a28da7c745bcf75ab6ad76613b8cf66bf25e21a390f"


def test_each_word_of_a_few_shot_counts() -> None:
    one = small(few_shots=[EXAMPLE])
    for key in EXAMPLE:
        assert small(few_shots=[{**EXAMPLE, key: "y"}]).digest != one.digest
