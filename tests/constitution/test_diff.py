"""What counts as which change, that nothing is missed, and which prompts follow from it."""

import json
import time
from itertools import combinations, pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cai.constitution import Constitution, Principle
from cai.constitution.ask import comparison_request, critique_request, revision_request
from cai.constitution.diff import STAGES, Changed, Relisted, Reworded, diff, to_plain, word_edits
from cai.types import Message

SHOT = dict.fromkeys(("prompt", "response", "critique_request", "critique", "revision_request", "revision"), "x")
COMPARED = {"prompt": "x", "chosen": "good", "rejected": "bad"}


def made(*principles: Any, **fields: Any) -> Constitution:
    """Return a constitution of principles; a word stands for a principle of that id and text."""
    items = [{"id": item, "text": f"Be {item}."} if isinstance(item, str) else item for item in principles]
    return Constitution.model_validate({"name": "small", "version": "1", **fields, "principles": items})


def one(**fields: Any) -> Constitution:
    return made({"id": "calm", "text": "Stay calm.", **fields})


def edits(old: str, new: str) -> str:
    marks = {"same": "{}", "removed": "[-{}-]", "added": "{{+{}+}}"}
    return "".join(marks[edit.kind].format(edit.text) for edit in word_edits(old, new))


def prompts(a: Constitution, b: Constitution) -> dict[str, str]:
    """Return the causes by ``principle/stage``."""
    return {f"{item.principle}/{item.stage}": ", ".join(item.causes) for item in diff(a, b).prompts}


def test_added_and_removed() -> None:
    found = diff(made("calm", "brief"), made("calm", "kind", "wise"))
    assert [item.id for item in found.added] == ["kind", "wise"]
    assert [item.id for item in found.removed] == ["brief"]
    assert (found.principles, found.prompts, found.same_digest) == ((), (), False)


def test_a_new_id_with_the_old_text_is_a_new_name() -> None:
    found = diff(made("calm", "brief"), made({"id": "quiet", "text": "Be calm.", "weight": 2}, "brief"))
    assert (found.added, found.removed) == ((), ())
    (item,) = found.principles
    assert (item.id, item.old_id, item.renamed, item.moved) == ("quiet", "calm", True, False)
    assert item.changes == (Changed("weight", 1.0, 2.0),), "a title made from the id is no change of its own"
    assert found.prompts == (), "no prompt has an id in it"


def test_a_principle_is_known_by_its_id_before_its_text() -> None:
    found = diff(made("calm"), made({"id": "calm", "text": "Be brief."}, {"id": "quiet", "text": "Be calm."}))
    assert [item.id for item in found.added] == ["quiet"]
    assert [item.id for item in found.principles] == ["calm"]


def test_new_names_of_the_same_text_are_given_in_their_order() -> None:
    same = {"text": "Be calm."}
    found = diff(made({"id": "a", **same}, {"id": "b", **same}), made({"id": "x", **same}, {"id": "y", **same}))
    assert [(item.old_id, item.id, item.moved) for item in found.principles] == [("a", "x", False), ("b", "y", False)]


@pytest.mark.parametrize(
    ("before", "after", "moved"),
    [
        ("abcdef", "bcdefa", "a"),
        ("abcdef", "fabcde", "f"),
        ("abcdef", "aebcdf", "e"),
        ("abc", "xaybzc", ""),
        ("abcdef", "bdf", ""),
        ("abcd", "cdab", 2),
        ("abcd", "dcba", 3),
    ],
)
def test_moved_are_the_fewest(before: str, after: str, moved: str | int) -> None:
    found = [item.id for item in diff(made(*before), made(*after)).principles if item.moved]
    assert found == list(moved) if isinstance(moved, str) else len(found) == moved


@given(st.permutations("abcdef"))
@settings(deadline=None)
def test_without_the_moved_ones_the_order_is_the_old_one_and_fewer_would_not_do(after: list[str]) -> None:
    moved = {item.id for item in diff(made(*"abcdef"), made(*after)).principles if item.moved}
    assert [item for item in after if item not in moved] == [item for item in "abcdef" if item not in moved]
    longest = max(size for size in range(1, 7) for kept in combinations(after, size) if list(kept) == sorted(kept))
    assert len(moved) == 6 - longest


def test_places_of_what_moved_count_from_one() -> None:
    (item,) = diff(made(*"abc"), made(*"cab")).principles
    assert (item.id, item.old_place, item.new_place) == ("c", 3, 1)


@pytest.mark.parametrize(
    ("field", "old", "new"),
    [
        ("weight", 1.0, 2.5),
        ("tags", ("a", "b"), ("b", "c")),
        ("tags", ("a", "b"), ("b", "a")),
        ("priority", 1, "hard"),
        ("priority", 1, 2),
        ("framing", "do", "avoid"),
        ("checker", "", "max_words:9"),
        ("checker", "max_words:9", "max_words:8"),
        ("gate_margin", 0.0, 0.1),
        ("path", (), ("Top",)),
    ],
)
def test_values_that_changed(field: str, old: Any, new: Any) -> None:
    plain = [list(value) if isinstance(value, tuple) else value for value in (old, new)]
    found = diff(one(**{field: plain[0]}), one(**{field: plain[1]}))
    assert [item.changes for item in found.principles] == [(Changed(field, old, new),)]
    assert not found.same_digest
    assert found.prompts == ()


@pytest.mark.parametrize("field", ["title", "critique", "revision", "comparison", "contrast", "source"])
def test_texts_that_changed(field: str) -> None:
    found = diff(one(**{field: "Said one way."}), one(**{field: "Said another way."}))
    (item,) = found.principles
    assert item.changes == (Reworded(field, "Said one way.", "Said another way."),)
    assert [edit.kind for edit in item.changes[0].edits] == ["same", "removed", "added", "same"]


def test_what_the_text_makes_is_told_by_the_text_alone() -> None:
    found = diff(one(), one(text="Stay calm, always."))
    assert [change.field for change in found.principles[0].changes] == ["text"]
    assert {item.stage: item.causes for item in found.prompts} == dict.fromkeys(STAGES, ("text",))


def test_a_wording_given_in_place_of_a_derived_one_and_back() -> None:
    there = diff(one(), one(critique="What is not calm?"))
    back = diff(one(critique="What is not calm?"), one())
    (change,), (undone,) = there.principles[0].changes, back.principles[0].changes
    assert isinstance(change, Reworded)
    assert isinstance(undone, Reworded)
    assert (change.field, change.old_derived, change.new_derived) == ("critique", True, False)
    assert (undone.old_derived, undone.new_derived, undone.old) == (False, True, "What is not calm?")


def test_fields_of_the_constitution() -> None:
    a = made("calm", description="Old words.", licence="MIT")
    b = made("calm", name="other", version="2", description="New words.", licence="CC0-1.0")
    assert diff(a, b).changes == (
        Changed("name", "small", "other"),
        Changed("version", "1", "2"),
        Changed("licence", "MIT", "CC0-1.0"),
        Reworded("description", "Old words.", "New words."),
    )


def test_a_template_that_no_principle_uses_changes_no_digest() -> None:
    whole = dict.fromkeys(STAGES, "Given.")
    a = made({"id": "calm", "text": "Be calm.", **whole})
    b = made({"id": "calm", "text": "Be calm.", **whole}, wordings={"critique": "See: {text}"})
    found = diff(a, b)
    assert [change.field for change in found.changes] == ["wordings.critique"]
    assert found
    assert found.same_digest
    assert found.prompts == ()


def test_probes_and_examples() -> None:
    old = [{"prompt": "one"}, {"prompt": "two", "twin": "Be nice."}, {"prompt": "three"}]
    new = [{"prompt": "two", "twin": "Be very nice."}, {"prompt": "one"}, {"prompt": "four"}]
    (change,) = diff(one(probes=old), one(probes=new)).principles[0].changes
    assert isinstance(change, Relisted)
    assert [item.prompt for item in change.added] == ["four"]
    assert [item.prompt for item in change.removed] == ["three"]
    assert change.changed == (("two", (Reworded("twin", "Be nice.", "Be very nice."),)),)
    assert change.moved == 1


def test_an_example_that_is_there_twice_is_counted_twice() -> None:
    found = diff(made("calm", few_shots=[SHOT, SHOT]), made("calm", few_shots=[SHOT]))
    (change,) = found.changes
    assert isinstance(change, Relisted)
    assert (len(change.added), len(change.removed), change.changed) == (0, 1, ())


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ({"critique": "A?"}, {"critique": "B?"}, {"calm/critique": "wording"}),
        ({}, {"revision": "Mend it."}, {"calm/revision": "wording"}),
        ({"contrast": "A"}, {"contrast": "B"}, {"calm/contrast": "wording"}),
        ({"few_shots": []}, {"few_shots": [SHOT]}, {"calm/critique": "own examples", "calm/revision": "own examples"}),
        ({}, {"comparison_shots": [COMPARED]}, {"calm/comparison": "own examples"}),
        ({"weight": 1}, {"weight": 2}, {}),
        (
            {"few_shots": [SHOT], "critique": "A?", "contrast": "A"},
            {"few_shots": [{**SHOT, "revision": "y"}], "critique": "B?", "contrast": "B"},
            {"calm/critique": "wording", "calm/revision": "own examples", "calm/contrast": "wording"},
        ),
        (
            {"few_shots": [SHOT]},
            {"text": "Be still."},
            {f"calm/{stage}": "text, own examples" if stage in STAGES[:2] else "text" for stage in STAGES},
        ),
    ],
)
def test_prompts_that_change_with_a_principle(a: dict[str, Any], b: dict[str, Any], expected: dict[str, str]) -> None:
    before, after = ({"id": "calm", "text": "Be calm.", **fields} for fields in (a, b))
    assert prompts(made(before, "brief"), made(after, "brief")) == expected


def test_prompts_that_change_with_the_text_where_wordings_are_given() -> None:
    whole = dict.fromkeys(STAGES, "Given.")
    assert prompts(one(**whole), one(**whole, text="Stay very calm.")) == {"calm/contrast": "text"}


def test_prompts_that_change_with_what_all_share() -> None:
    own = {"id": "own", "text": "Own.", "revision": "Mend it."}
    assert prompts(made("calm", own), made("calm", own, wordings={"revision": "Do: {text}"})) == {
        "calm/revision": "template"
    }
    shared = prompts(made("calm", own), made("calm", own, few_shots=[SHOT], comparison_shots=[COMPARED]))
    assert shared == {
        f"{item}/{stage}": "shared examples"
        for item in ("calm", "own")
        for stage in ("critique", "revision", "comparison")
    }


def test_only_the_stages_that_see_what_changed_in_an_example() -> None:
    changed = {**SHOT, "revision": "y"}
    assert prompts(made("calm", few_shots=[SHOT]), made("calm", few_shots=[changed])) == {
        "calm/revision": "shared examples"
    }


def test_an_example_that_becomes_everyones_changes_nothing_for_its_principle() -> None:
    a, b = one(few_shots=[SHOT]), made({"id": "calm", "text": "Stay calm."}, few_shots=[SHOT])
    found = diff(a, b)
    assert found
    assert found.prompts == ()


def test_two_causes() -> None:
    a = made("calm")
    b = made({"id": "calm", "text": "Be quiet."}, wordings={"critique": "See: {text}"}, few_shots=[SHOT])
    found = prompts(a, b)
    assert found["calm/critique"] == "template, text, shared examples"
    assert found["calm/revision"] == "text, shared examples"


@pytest.mark.parametrize(
    ("old", "new", "shown"),
    [
        ("Stay calm.", "Stay very calm.", "Stay{+ very+} calm."),
        ("Please stay calm.", "stay calm.", "[-Please -]stay calm."),
        ("Stay calm and be kind to all.", "Stay still and be nice to all.",
         "Stay [-calm-]{+still+} and be [-kind-]{+nice+} to all."),
        ("a b c d e f g", "a b x y e f g", "a b [-c d-]{+x y+} e f g"),
        ("one\ntwo", "one two", "one[-\n-]{+ +}two"),
        ("Don't do it.", "Do it.", "[-Don't do-]{+Do+} it."),
        ("", "New.", "{+New.+}"),
        ("Never help to hurt a person.", "Say where the facts of a story come from.",
         "[-Never help to hurt a person.-]{+Say where the facts of a story come from.+}"),
    ],
)  # fmt: skip
def test_word_edits(old: str, new: str, shown: str) -> None:
    assert edits(old, new) == shown


WORDS = st.lists(st.sampled_from(["a", "b", "the", ",", " ", "\n", "Ä", "-", "x'y"]), max_size=30).map("".join)


@given(WORDS, WORDS)
def test_word_edits_make_up_both_texts(old: str, new: str) -> None:
    found = word_edits(old, new)
    assert "".join(edit.text for edit in found if edit.kind != "added") == old
    assert "".join(edit.text for edit in found if edit.kind != "removed") == new
    assert all(first.kind != second.kind for first, second in pairwise(found))
    assert all(edit.text for edit in found)
    assert (old == new) == all(edit.kind == "same" for edit in found)


def test_long_texts_of_the_same_words_take_no_time() -> None:
    start = time.perf_counter()
    for old, new in (("a " * 4000, "a " * 3900 + "b"), ("a b " * 2000, "b c a " * 1300), ("." * 8000, "," * 8000)):
        word_edits(old, new)
    assert time.perf_counter() - start < 2


TEXT = st.sampled_from(["Be calm.", "Be calm and brief.", "Never lie."])
SHOTS = st.lists(st.fixed_dictionaries({name: st.sampled_from(["x", "y"]) for name in SHOT}), max_size=2)
COMPARISONS = st.lists(st.fixed_dictionaries({name: st.sampled_from(["x", "y"]) for name in COMPARED}), max_size=2)
PRINCIPLE = st.fixed_dictionaries(
    {"text": TEXT},
    optional={
        "title": TEXT,
        "critique": TEXT,
        "comparison": TEXT,
        "contrast": TEXT,
        "weight": st.sampled_from([1, 2]),
        "tags": st.lists(st.sampled_from(["a", "b"]), unique=True),
        "priority": st.sampled_from([1, 2, "hard"]),
        "framing": st.sampled_from(["do", "avoid"]),
        "checker": st.sampled_from(["", "json"]),
        "gate_margin": st.sampled_from([0, 0.1]),
        "source": st.sampled_from(["", "there"]),
        "path": st.lists(TEXT, max_size=1),
        "probes": st.lists(st.fixed_dictionaries({"prompt": TEXT, "twin": TEXT}), max_size=2),
        "few_shots": SHOTS,
        "comparison_shots": COMPARISONS,
    },
)
CONSTITUTIONS = st.builds(
    lambda ids, items, fields: made(*({"id": key, **item} for key, item in zip(ids, items, strict=False)), **fields),
    st.permutations("abcd"),
    st.lists(PRINCIPLE, min_size=1, max_size=4),
    st.fixed_dictionaries(
        {},
        optional={
            "description": TEXT,
            "licence": st.sampled_from(["", "MIT"]),
            "wordings": st.fixed_dictionaries({}, optional={"critique": st.just("See: {text}")}),
            "few_shots": SHOTS,
            "comparison_shots": COMPARISONS,
        },
    ),
)


@given(CONSTITUTIONS, CONSTITUTIONS)
@settings(max_examples=200, deadline=None)
def test_digests_differ_where_a_change_is_told_and_nowhere_else(a: Constitution, b: Constitution) -> None:
    found = diff(a, b)
    templates = [change for change in found.changes if change.field.startswith("wordings.")]
    only_templates = len(templates) == len(found.changes) and not (found.added or found.removed or found.principles)
    assert not (found.same_digest and not only_templates)
    if not found.same_digest and only_templates:
        assert found.prompts, "a template changes the digest through the prompts that it makes"
    assert (bool(diff(a, a)), diff(a, a).same_digest, diff(a, a).prompts) == (False, True, ())


def asked(constitution: Constitution, principle: Principle) -> dict[str, object]:
    prompt = (Message("user", "Can I?"), Message("assistant", "Why?"), Message("user", "Because."))
    return {
        "critique": critique_request(constitution, principle, prompt, "No.")[0],
        "revision": revision_request(constitution, principle, prompt, "No.", "Rude.")[0],
        "comparison": comparison_request(constitution.comparison_shots, principle, prompt, "No.", "Yes.")[0],
        "contrast": (principle.text, principle.contrast),
    }


@given(CONSTITUTIONS, CONSTITUTIONS)
@settings(max_examples=200, deadline=None)
def test_the_prompts_that_change_are_those_that_a_model_sees_differ(a: Constitution, b: Constitution) -> None:
    found = diff(a, b)
    gone = {item.id for item in found.removed}
    old_id = {item.id: item.old_id for item in found.principles}
    told = {(item.principle, item.stage) for item in found.prompts}
    assert all(item.causes for item in found.prompts)
    for principle in b.principles:
        if principle in found.added:
            continue
        before = a[old_id.get(principle.id, principle.id)]
        assert before.id not in gone
        old, new = asked(a, before), asked(b, principle)
        assert {stage for stage in STAGES if old[stage] != new[stage]} == {
            stage for stage in STAGES if (principle.id, stage) in told
        }


@given(CONSTITUTIONS, CONSTITUTIONS)
@settings(max_examples=50, deadline=None)
def test_plain_values_say_the_same(a: Constitution, b: Constitution) -> None:
    found = diff(a, b)
    plain = json.loads(json.dumps(to_plain(found)))
    assert plain["same_digest"] == (plain["a"]["digest"] == plain["b"]["digest"])
    assert [item["id"] for item in plain["added"]] == [item.id for item in found.added]
    assert [item["id"] for item in plain["principles"]] == [item.id for item in found.principles]
    assert len(plain["prompts"]) == len(found.prompts)


def test_plain_values_have_the_edits() -> None:
    plain = to_plain(diff(one(probes=[{"prompt": "p", "twin": "old"}]), one(text="Stay very calm.", probes=[])))
    first, second = plain["principles"][0]["changes"]
    assert first["edits"] == [["same", "Stay"], ["added", " very"], ["same", " calm."]]
    assert second["removed"] == [{"prompt": "p", "twin": "old"}]


def test_a_thousand_reworded_principles_take_a_second_or_two() -> None:
    def many(word: str) -> Constitution:
        items = [{"id": f"p{n}", "text": f"Do thing {n} {word} in the way that is best for all."} for n in range(1000)]
        return made(*items, few_shots=[SHOT] * 8)

    a, b = many("now"), many("later")
    start = time.perf_counter()
    assert len(diff(a, b).prompts) == 4000
    assert time.perf_counter() - start < 3
