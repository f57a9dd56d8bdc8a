import json
import os
import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from cai.records.schema import SCHEMA, TYPES, Draft, EvalResult, Preference, Prompt, Provenance, Record, short
from cai.types import Message
from tests.records.samples import asked, draft, one_of_each, preference


@pytest.mark.parametrize("record", one_of_each(), ids=lambda record: record.kind_name)
def test_a_record_survives_its_journal_form(record: Record) -> None:
    row = json.loads(json.dumps(record.to_json()))
    again = TYPES[row["type"]].from_json(row)
    assert again == record
    assert again.id == record.id


def test_every_type_of_record_is_known_by_its_name() -> None:
    assert {record.kind_name for record in one_of_each()} == set(TYPES)


def changed(value: Any) -> Any:
    """Return another value of the same form."""
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1 if isinstance(value, int) else value / 2
        case str():
            return {"stop": "length", "length": "stop", "red_team": "helpful", "helpful": "benign"}.get(
                value, value + "x"
            )
        case None:
            return "x"
        case list() if value and isinstance(value[0], list):
            return [[value[0][0], value[0][1] + "x"], *value[1:]]
        case list():
            return [changed(value[0]), *value[1:]] if value else ["x"]
        case dict():
            return {name: changed(item) for name, item in value.items()} or {"x": 1}
    raise AssertionError(value)


@pytest.mark.parametrize("record", one_of_each(), ids=lambda record: record.kind_name)
def test_every_field_is_part_of_the_id(record: Record) -> None:
    # A row with one field changed and its id kept is damage, whatever the field.
    row = json.loads(json.dumps(record.to_json()))
    for name in type(record).model_fields:
        other = {**row, name: {"x": [1.0, 2.0]} if name == "scores" else changed(row.get(name, ""))}
        assert other[name] != row.get(name, "")
        with pytest.raises(ValueError, match=r"the id says|validation error"):
            type(record).from_json(other)


def test_every_field_moves_the_id() -> None:
    base = draft(0)
    others = [
        base.model_copy(update=update)
        for update in (
            {"key": "k"},
            {"prompt": "q"},
            {"sample": 1},
            {"text": "x"},
            {"finish_reason": "length"},
            {"provenance": base.provenance.model_copy(update={"seed": 8})},
        )
    ]
    assert len({record.id for record in [base, *others]}) == 7


def test_the_id_of_a_changed_copy_is_its_own() -> None:
    base = draft(0)
    before = base.id
    assert base.model_copy(update={"text": "other"}).id != before


def test_ids_are_pinned() -> None:
    # A change here makes every journal of the same schema unreadable: raise SCHEMA instead.
    assert SCHEMA == 1
    assert [record.id[:8] for record in one_of_each()] == PINNED


PINNED = ["28683fb2", "bcc07a52", "007a0b67", "cfec767d", "aa7a9428", "8d900737", "833930e4"]


@pytest.mark.parametrize("hash_seed", ["0", "1", "random"])
def test_ids_are_the_same_in_every_process(hash_seed: str) -> None:
    code = "from tests.records.samples import one_of_each; print(*[record.id for record in one_of_each()])"
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], check=True, env=environment, capture_output=True, text=True)
    assert done.stdout.split() == [record.id for record in one_of_each()]


def test_an_unknown_field_is_refused() -> None:
    row = draft(0).to_json()
    with pytest.raises(ValidationError, match="Extra inputs"):
        Draft.from_json({**row, "sampel": 1})


def test_a_missing_field_is_refused() -> None:
    row = draft(0).to_json()
    del row["text"]
    with pytest.raises(ValidationError, match="Field required"):
        Draft.from_json(row)


def test_records_of_another_schema_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="a record of schema 2; this version of cai reads schema 1"):
        Draft.from_json({**draft(0).to_json(), "schema": 2})


def test_records_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        draft(0).text = "x"  # type: ignore[misc]


@pytest.mark.parametrize("value", [1.5, -0.1, float("nan")])
def test_a_probability_is_one(value: float) -> None:
    with pytest.raises(ValidationError):
        preference(value)


def test_numbers_that_are_not_finite_are_refused_where_they_come_in_not_when_they_are_written() -> None:
    given = next(record for record in one_of_each() if isinstance(record, EvalResult)).model_dump()
    with pytest.raises(ValidationError, match="finite"):
        EvalResult.model_validate({**given, "scores": {"words": (float("nan"), 1.0)}})


def test_nothing_is_converted_in_silence() -> None:
    given = {**preference(0.5).model_dump(), "prob_a": "0.5"}
    with pytest.raises(ValidationError, match="valid number"):
        Preference.model_validate(given)


def test_a_prompts_key_is_that_of_its_dialogue_alone() -> None:
    one = Prompt.of(asked("Hi"), kind="helpful", category="a", source="x.jsonl")
    two = Prompt.of(asked("Hi"), kind="red_team")
    assert one.key == two.key
    assert one.id != two.id
    assert one.key != Prompt.of(asked("Hi!"), kind="helpful").key
    assert one.key != Prompt.of((Message("system", "Be brief"), *asked("Hi")), kind="helpful").key


def test_a_prompt_with_anothers_key_is_refused() -> None:
    row = Prompt.of(asked("Hi"), kind="helpful").model_dump()
    with pytest.raises(ValidationError, match="the messages hash to the key"):
        Prompt.model_validate({**row, "messages": (Message("user", "Ho"),)})


@pytest.mark.parametrize("messages", [(), (Message("user", "Hi"), Message("assistant", "Hello"))])
def test_a_prompt_ends_with_the_turn_of_a_person(messages: tuple[Message, ...]) -> None:
    with pytest.raises(ValidationError, match="ends with the turn of a person"):
        Prompt.of(messages, kind="helpful")


def test_the_text_of_a_prompt_is_what_was_said_last() -> None:
    messages = (Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "Bye"))
    assert Prompt.of(messages, kind="helpful").text == "Bye"


def test_a_text_without_thinking_has_the_id_it_always_had() -> None:
    draft = Draft(
        key="k",
        prompt="p",
        sample=0,
        text="No.",
        finish_reason="stop",
        provenance=Provenance(engine="scripted", model="script", seed=0),
    )
    fields = {"key": "k", "prompt": "p", "sample": 0, "text": "No.", "finish_reason": "stop"}
    made_by = {"engine": "scripted", "model": "script", "seed": 0, "sampling": {}, "constitution": None}
    assert draft.id == short(["draft", SCHEMA, {**fields, "provenance": made_by}])
    thought = draft.model_copy(update={"thinking": "They want it."})
    assert thought.to_json()["thinking"] == "They want it."
    assert thought.id != draft.id
    assert Draft.from_json(thought.to_json()) == thought
