from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from cai.train.rewards.config import (
    CheckerReward,
    EnsembleReward,
    HttpReward,
    ModelReward,
    RewardEntry,
    check_sum,
    folders_of,
    names_of,
)

ADAPTER: TypeAdapter[Any] = TypeAdapter(RewardEntry)


def entry(**given: Any) -> Any:
    return ADAPTER.validate_python(given)


def test_entries_are_told_apart_by_kind() -> None:
    assert isinstance(entry(kind="model", path="pm"), ModelReward)
    assert isinstance(entry(kind="ensemble", paths=["a", "b"]), EnsembleReward)
    assert entry(kind="checker", rule="max_words:3", weight=0.5).weight == 0.5


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"kind": "modle", "path": "pm"}, "kind"),
        ({"kind": "ensemble", "paths": ["one"]}, "at least 2"),
        ({"kind": "ensemble", "paths": ["one"], "heads": ["harmless"]}, "at least 2"),
        ({"kind": "model", "path": "pm", "principle": " "}, "principle"),
        ({"kind": "checker", "rule": "max_wrods:3"}, "max_words"),
        ({"kind": "function", "function": "no_colon"}, "function"),
        ({"kind": "http", "url": "127.0.0.1:5000"}, "write it like"),
        ({"kind": "http", "url": "http://h/r", "api_key_env": "sk-123"}, "environment variable"),
        ({"kind": "model", "path": "pm", "name": "Two words"}, "name"),
        ({"kind": "model", "path": "pm", "weight": float("nan")}, "weight"),
    ],
)
def test_what_is_wrong_is_named(given: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        entry(**given)


@pytest.mark.parametrize(
    ("url", "base", "endpoint"),
    [
        ("http://127.0.0.1:5000/get_reward", "http://127.0.0.1:5000", "get_reward"),
        ("http://host/a/b", "http://host/a", "b"),
        ("http://host", "http://host", ""),
    ],
)
def test_where_a_server_is_asked(url: str, base: str, endpoint: str) -> None:
    made = HttpReward(kind="http", url=url)
    assert (made.server().base_url, made.endpoint) == (base, endpoint)


def test_names_are_the_kinds_unless_given() -> None:
    rules = [CheckerReward(kind="checker", rule="json"), CheckerReward(kind="checker", rule="json", name="form")]
    assert names_of([*rules, rules[0]]) == ["checker", "form", "checker_2"]


def test_a_head_names_its_reward() -> None:
    given = {"kind": "model", "path": "pm"}
    assert names_of([entry(**given, head="helpful"), entry(**given, head="harmless", name="own")]) == ["helpful", "own"]


def test_an_ensemble_asks_each_head_of_each_model() -> None:
    both = entry(kind="ensemble", paths=["a", "b"], heads=["x", "y"], principle="Be kind.")
    assert both.asked == [(Path(path), head, "Be kind.") for path in "ab" for head in "xy"]
    one = entry(kind="ensemble", paths=["a"], heads=["x", "y"])
    assert one.asked == [(Path("a"), "x", None), (Path("a"), "y", None)]


def test_a_sum_needs_a_weight_and_names_of_their_own() -> None:
    read = entry(kind="checker", rule="json", weight=0)
    with pytest.raises(ValueError, match="every reward has weight 0"):
        check_sum([read])
    named = entry(kind="checker", rule="json", name="form")
    with pytest.raises(ValueError, match="'form'"):
        check_sum([named, named])
    check_sum([])
    check_sum([read, named])


def test_folders_are_those_of_preference_models() -> None:
    entries = [
        entry(kind="model", path="a"),
        entry(kind="ensemble", paths=["b", "c"]),
        entry(kind="checker", rule="json"),
    ]
    assert folders_of(entries) == [Path("a"), Path("b"), Path("c")]
