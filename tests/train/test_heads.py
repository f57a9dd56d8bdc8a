"""Which head a row teaches, and what is refused before a model is loaded."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoConfig

from cai.config import load_config
from cai.errors import InputError
from cai.train.configs import RewardConfig
from cai.train.estimate import _counted
from cai.train.heads import check_start, count_heads, head_of, parse_heads
from tests.judges.test_preference_model import classifier
from tests.train import rig

HEADS = {"harmless": ["red_team", "benign"], "helpful": ["helpful", "data/people.jsonl"]}


@pytest.mark.parametrize(
    ("place", "row", "head"),
    [
        ("pairs.jsonl:3", {"kind": "red_team"}, 0),
        ("pairs.jsonl:3", {"kind": "benign"}, 0),
        ("pairs.jsonl:3", {"kind": "helpful"}, 1),
        ("data/people.jsonl:3", {}, 1),
        ("data/people.jsonl:3", {"kind": "red_team"}, 1),
        ("./data/people.jsonl:3", {}, 1),
    ],
)
def test_the_file_decides_and_then_the_kind(place: str, row: dict[str, Any], head: int) -> None:
    assert head_of(place, row, HEADS) == head


def test_a_row_of_no_head_is_a_problem_with_a_fix() -> None:
    with pytest.raises(ValueError, match=r"no 'kind' to tell by which head \(harmless, helpful\) it teaches; add it"):
        head_of("other/people.jsonl:1", {}, HEADS)
    with pytest.raises(ValueError, match="no head learns from rows of the kind 'legal'; name it under one of 'heads'"):
        head_of("pairs.jsonl:1", {"kind": "legal"}, HEADS)


def test_a_head_without_rows_is_refused() -> None:
    rows: list[Any] = [SimpleNamespace(head=0)] * 3
    with pytest.raises(InputError, match=r"heads.helpful: no row teaches it; give it some, or leave the head out"):
        count_heads(rows, HEADS)
    assert count_heads([*rows, SimpleNamespace(head=1)], HEADS) == {"harmless": 3, "helpful": 1}
    assert count_heads(rows, {}) == {}


def test_training_goes_on_from_the_same_heads_alone(tiny_model_dir: Path, tmp_path: Path) -> None:
    two = classifier(tiny_model_dir, tmp_path / "two", heads=list(HEADS))
    one = classifier(tiny_model_dir, tmp_path / "one")
    check_start("two", str(two), HEADS)
    check_start("one", str(one), {})
    check_start("named", str(classifier(tiny_model_dir, tmp_path / "named", heads=["reward"])), {})
    check_start("tiny", str(tiny_model_dir), HEADS)
    for heads in ({}, dict(reversed(HEADS.items())), {**HEADS, "honest": ["x"]}):
        with pytest.raises(InputError, match="the 2 scores of two have harmless, helpful; give 'heads' those names in"):
            check_start("two", str(two), heads)
    with pytest.raises(InputError, match="the 1 scores of one have no names"):
        check_start("one", str(one), HEADS)
    three = classifier(tiny_model_dir, tmp_path / "three", outputs=3)
    with pytest.raises(InputError, match="the 3 scores of three have no names"):
        check_start("three", str(three), {})


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("heads={Harmless: [red_team]}", "Harmless"),
        ("heads={harmless: []}", "at least 1"),
        ("heads={harmless: [red_team], helpful: [red_team]}", "two heads learn from 'red_team'; name it under one"),
    ],
)
def test_heads_that_make_no_sense_are_refused_by_the_config(word: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        load_config(RewardConfig, None, ["data=[a.jsonl]", "out=x", word])


@pytest.mark.parametrize("words", [["harmless"], ["harmless=a", "harmless=b"], ["a=x", "b=x"], ["A b=x"]])
def test_words_that_make_no_sense_are_refused(words: list[str]) -> None:
    with pytest.raises(InputError, match="--head"):
        parse_heads(words)


def made(tmp_path: Path, model: Path, rows: list[dict[str, Any]], **changes: Any) -> Any:
    data = [rig.write(tmp_path / "rows.jsonl", rows)]
    return rig.settings("reward", tmp_path, model, data=data, **{"heads": HEADS, **changes})


def test_rows_are_refused_by_their_lines_before_a_model_is_loaded(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cai.train.reward.load_with_head", None)
    good = [rig.pair(0, kind="red_team"), rig.pair(1, kind="helpful")]
    bad = [*good, rig.pair(2), rig.pair(3, kind="legal")]
    with pytest.raises(InputError) as refused:
        rig.train("reward", made(tmp_path, tiny_model_dir, bad))
    lines = [str(each) for each in refused.value.problems]
    assert len(lines) == 2
    assert lines[0].startswith(f"{tmp_path / 'rows.jsonl'}:3:1: no 'kind' to tell by which head")
    assert lines[1].startswith(f"{tmp_path / 'rows.jsonl'}:4:1: no head learns from rows of the kind 'legal'")
    held = rig.write(tmp_path / "held.jsonl", [rig.pair(9)])
    with pytest.raises(InputError, match=r"held.jsonl:1:1: no 'kind' to tell by which head"):
        rig.train("reward", made(tmp_path, tiny_model_dir, good, eval_data=[held]))
    with pytest.raises(InputError, match=r"heads.helpful: no row teaches it"):
        rig.train("reward", made(tmp_path, tiny_model_dir, good[:1]))
    start = classifier(tiny_model_dir, tmp_path / "start")
    with pytest.raises(InputError, match=r"heads: the 1 scores of .* have no names"):
        rig.train("reward", made(tmp_path, start, good))


def test_the_estimate_counts_every_head(tiny_model_dir: Path, tmp_path: Path) -> None:
    settings = [made(tmp_path, tiny_model_dir, [rig.pair(0)], heads=heads) for heads in ({}, HEADS)]
    one, two = (_counted(config, str(tiny_model_dir))[0].all for config in settings)
    assert two - one == AutoConfig.from_pretrained(tiny_model_dir).hidden_size
