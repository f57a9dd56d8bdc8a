from pathlib import Path

import pytest

from cai.report.files import RunFiles, count, leaves, mapping, number, text


@pytest.mark.parametrize("value", [float("nan"), float("inf"), True, "1", None, [], 10**400])
def test_what_is_no_number(value: object) -> None:
    assert number(value) is None
    assert count(value) == 0


def test_plain_values() -> None:
    assert count(3.7) == 3
    assert count(-1) == 0
    assert mapping([1]) == {}
    assert text({"a": [1, None, True]}) == "a: 1, , yes"
    assert list(leaves({"a": {}, "b": {"c": 1.5}})) == [("a", ""), ("b.c", "1.5")]


def test_a_torn_last_line_is_no_problem_and_damage_before_it_is(tmp_path: Path) -> None:
    files = RunFiles(tmp_path)
    (tmp_path / "torn.jsonl").write_text('{"step": 1}\n\n[1]\n{"step": 2')
    assert files.rows("torn.jsonl") == [{"step": 1}]
    assert files.problems == []
    (tmp_path / "bad.jsonl").write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    assert files.rows("bad.jsonl") == [{"step": 1}]
    assert "bad.jsonl:2:1" in files.problems[0]


def test_deep_nesting_is_a_problem_and_no_crash(tmp_path: Path) -> None:
    files = RunFiles(tmp_path)
    (tmp_path / "deep.json").write_text("[" * 100_000)
    assert files.object("deep.json") == {}
    assert len(files.problems) == 1
