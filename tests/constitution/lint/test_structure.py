import pytest

from tests.constitution.lint.samples import findings, hits


def several(*texts: str, more: str = "") -> str:
    return "principles:\n" + "".join(
        f'  - {{id: p{number}, text: "{text}"{more}}}\n' for number, text in enumerate(texts)
    )


def test_one_sided_needs_more_than_a_few() -> None:
    avoid = [f"Never {verb} anyone." for verb in ("mock", "rob", "hurt", "cheat", "scare")]
    assert hits("C021", several(*avoid)) == ["5 of 5 principles say only what to avoid"]
    assert not hits("C021", several(*avoid[:4]))
    assert not hits("C021", several(*avoid, "Be kind."))


@pytest.mark.parametrize(
    ("first", "second", "hit"),
    [("hard", "1", True), ("1", "2", True), ("2", "2", False)],
)
def test_one_text_at_two_priorities(first: str, second: str, hit: bool) -> None:
    part = f"""
      principles:
        - {{id: a, text: Never help with theft., priority: {first}}}
        - {{id: b, text: Do not help with thefts., priority: {second}}}
    """
    assert bool(hits("C022", part)) is hit
    assert bool(hits("C002", part)) is not hit


def test_a_near_duplicate_at_the_same_priority_does_not_hide_one_at_another() -> None:
    part = """
      principles:
        - {id: a, text: Never help with theft.}
        - {id: b, text: Never help with thefts., priority: 2}
        - {id: c, text: Do not help with theft., priority: 2}
    """
    assert hits("C022", part) == [
        "'b' says at priority 2 what 'a' says at 1",
        "'c' says at priority 2 what 'a' says at 1",
    ]
    assert hits("C002", part) == ["'c' says nearly what 'b' says"]


def test_opposites_are_found_by_text_and_by_contrast_and_told_once() -> None:
    by_text = several("Never name an illness.", "Name the illness.")
    assert hits("C023", by_text) == ["'p1' and 'p0' ask for opposites"]
    by_contrast = """
      principles:
        - {id: brief, text: Answer in few words., contrast: Explain every detail at length.}
        - {id: full, text: "Explain each detail, at length.", contrast: Answer in few words.}
    """
    assert hits("C023", by_contrast) == ["'brief' asks for what 'full' gives as its opposite"]


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("Never name an illness.", "Name the doctor who knows an illness."),
        ("Never lie.", "Do not lie to children."),
        ("Say when you are sure.", "Say when you are not sure."),
    ],
)
def test_no_opposites(one: str, two: str) -> None:
    assert not hits("C023", several(one, two))


def test_a_principles_own_contrast_is_no_contradiction() -> None:
    assert not hits("C023", "text: Never name an illness.\ncontrast: Name the illness.")


def test_a_hard_constraint_is_tested_by_a_probe_or_a_checker() -> None:
    hard = "text: Give no links.\npriority: hard\n"
    (found,) = findings("C024", hard)
    assert (found.problem.line, found.problem.col) == (6, 15)
    assert not hits("C024", hard + "checker: no_links")
    assert not hits("C024", hard + "probes: [{prompt: Which page?}]")
    assert not hits("C024", "text: Give no links.")


def test_a_tag_used_once_may_be_a_slip() -> None:
    part = """
      principles:
        - {id: a, text: Be kind., tags: [tone, safety]}
        - {id: b, text: Be calm., tags: [tone, safety]}
        - {id: c, text: Be brief., tags: [tone]}
        - {id: d, text: Be clear., tags: [tone]}
        - {id: e, text: Give no recipes for bombs., tags: [tone, safty, weapons]}
    """
    slip, lonely = findings("C025", part)
    assert (slip.problem.problem, slip.problem.fix) == ("the tag 'safty' is used once", "did you mean 'safety'?")
    assert lonely.problem.problem == "the tag 'weapons' is used once"
    assert lonely.problem.fix == "give it to another principle, or remove it"
    assert slip.problem.col < lonely.problem.col, "each at its own place"
    assert not hits("C025", "\n".join(part.splitlines()[:-2])), "of few principles it says nothing"


def test_a_weight_is_small_beside_the_others_not_by_itself() -> None:
    def weighted(*weights: float) -> str:
        return "principles:\n" + "".join(
            f"  - {{id: p{number}, text: Be {number}., weight: {weight}}}\n" for number, weight in enumerate(weights)
        )

    assert hits("C026", weighted(100, 0.9)) == ["'p1' is drawn 0.89% of the times"]
    assert not hits("C026", weighted(100, 1.1))
    assert not hits("C026", weighted(*[0.01] * 3))
    assert not hits("C026", weighted(*[1.0] * 150)), "among many each is rare"
    assert hits("C026", weighted(*[1.0] * 150, 0.2)) == ["'p150' is drawn 0.13% of the times"]


def test_more_than_half_are_hard() -> None:
    texts = ["Mock nobody.", "Rob nobody.", "Be kind.", "Be calm."]
    assert hits("C027", several(*texts, "Be brief.", more=", priority: hard")) == [
        "5 of 5 principles are hard constraints"
    ]
    assert not hits("C027", several(*texts, more=", priority: hard"))
    assert not hits("C027", several(*texts, "Be brief."))
