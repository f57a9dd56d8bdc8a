"""The strict reader: what it gives, what it refuses and where, and that nothing but InputError comes out of it."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from cai.errors import InputError, Problem
from cai.strict_yaml import MAX_BYTES, MAX_DEPTH, MAX_PARTS, MAX_PROBLEMS, load, scalar, validate

MOST_SECONDS = 1.0


class Judge(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    kind: Literal["pairwise", "contrastive"] = "pairwise"
    temperature: float = 1.0


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    name: str
    steps: int = 1
    judge: Judge | None = None
    judges: list[Judge] = []


def refused(source: str | Path) -> InputError:
    start = time.perf_counter()
    with pytest.raises(InputError) as caught:
        load(source, name="x.yaml")
    assert time.perf_counter() - start < MOST_SECONDS
    assert caught.value.exit_code == 2
    return caught.value


# What it gives.


def test_plain_data_with_the_place_of_every_key_and_value() -> None:
    tree = load("a: 1\nb:\n  - x\n  - {c: 'no', d: [true, ~]}\n", name="x.yaml")
    assert tree.data == {"a": 1, "b": ["x", {"c": "no", "d": [True, None]}]}
    assert tree.values[("a",)] == (1, 4)
    assert tree.keys[("b",)] == (2, 1)
    assert tree.values[("b", 0)] == (3, 5)
    assert tree.keys[("b", 1, "d")] == (4, 15)
    assert tree.values[("b", 1, "d", 1)] == (4, 25)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("-0", 0),
        ("12345678901234567890", 12345678901234567890),
        ("2e-5", 2e-5),
        (".5", 0.5),
        ("5.", 5.0),
        ("TRUE", True),
        ("False", False),
        ("Null", None),
        ("1.0.0", "1.0.0"),
        ("1_000", "1_000"),
        ("2026-01-01", "2026-01-01"),
        ("12:30", "12:30"),
        ("tRuE", "tRuE"),
        ("e5", "e5"),
        (".", "."),
    ],
)
def test_unquoted_words_are_read_by_the_core_schema_of_yaml_1_2(text: str, value: object) -> None:
    found = scalar(text)
    assert found == value
    assert type(found) is type(value)


def test_quoted_words_are_texts() -> None:
    assert load("a: 'no'\nb: \"007\"\nc: '1'\n").data == {"a": "no", "b": "007", "c": "1"}


def test_a_utf8_byte_order_mark_and_windows_line_ends_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: \xc3\xa9\r\n")
    tree = load(path)
    assert tree.data == {"a": 1, "b": "é"}
    assert tree.keys[("b",)] == (2, 1)


def test_depth_up_to_the_limit() -> None:
    assert load("[" * MAX_DEPTH + "]" * MAX_DEPTH).data is not None


# What it refuses. Each line: the text, the place of the first problem, a part of its message.

BAD = {
    "anchor": ("a: 1\nb: &x 2\n", 2, 4, "an anchor (&x)"),
    "alias": ("a: 1\nb: *x\n", 2, 4, "an alias (*x)"),
    "alias bomb": ("a: &a [l, l]\nb: &b [*a, *a]\nc: &c [*b, *b]\n", 1, 4, "an anchor (&a)"),
    "merge key": ("a: 1\n<<: {b: 2}\n", 2, 1, "a merge key"),
    "merge bomb": ("b:\n  <<: [{c: 1}, {c: 2}]\n", 2, 3, "a merge key"),
    "python tag": ("a: 1\nb: !!python/object/apply:os.system [ls]\n", 2, 4, "python/object/apply:os.system"),
    "standard tag": ("a: !!str 1\n", 1, 4, "a tag"),
    "own tag": ("a: !x 1\n", 1, 4, "a tag"),
    "bare tag": ("a: ! 1\n", 1, 4, "a tag"),
    "duplicate key": ("a: 1\nb: 2\na: 3\n", 3, 1, "the key 'a' is there already, in line 1"),
    "duplicate key, nested": ("x:\n- a: 1\n  b: 2\n  'a': 3\n", 4, 3, "in line 2"),
    "duplicate key, in braces": ("x: {a: 1,\n    a: 2}\n", 2, 5, "in line 1"),
    "tab as indentation": ("a:\n\tb: 1\n", 2, 1, "a tab"),
    "tab after a colon": ("a: 1\nb:\t1\n", 2, 3, "a tab"),
    "tab in a text": ("a: |\n  x\ty\n", 2, 4, "a tab"),
    "NUL": ("a: 1\nb: x\x00y\n", 2, 5, "U+0000"),
    "NUL, escaped": ('a: 1\nb: "x\\0y"\n', 2, 4, "U+0000"),
    "escape character": ("a: \x1b[31m\n", 1, 4, "U+001B"),
    "half a character, as it is": ("a: 1\nb: x\ud800\n", 2, 5, "U+D800"),
    "half a character": ('a: "\\ud800"\n', 1, 4, "U+D800"),
    "no character": ('a: 1\nb: "\\U99999999"\n', 2, 1, "bad YAML"),
    "byte order mark inside": ("a: 1\n\ufeffb: 2\n", 2, 1, "U+FEFF"),
    "line separator": ("a: x\u2028y\n", 1, 5, "U+2028"),
    "two documents": ("a: 1\n---\nb: 2\n", 2, 1, "a second document"),
    "version directive": ("%YAML 1.1\n---\na: 1\n", 1, 1, "a directive"),
    "tag directive": ("# hi\n%TAG !e! tag:e,2000:\n---\na: 1\n", 2, 1, "a directive"),
    "empty": ("", 1, 1, "the file is empty"),
    "only a comment": ("# nothing\n\n", 1, 1, "the file is empty"),
    "only a document's start": ("---\n", 1, 1, "the file is empty"),
    "deep lists": ("a: " + "[" * 3000, 1, 4 + MAX_DEPTH - 1, "nested more than 32 deep"),
    "deep mappings": ("".join(" " * i + "a:\n" for i in range(300)), 33, 33, "nested more than 32 deep"),
    "deep dashes": ("- " * 3000, 1, 65, "nested more than 32 deep"),
    "unquoted no": ("a: 1\nb: no\n", 2, 4, "an unquoted 'no'"),
    "unquoted Yes": ("a: Yes\n", 1, 4, "an unquoted 'Yes'"),
    "unquoted off": ("a: [off]\n", 1, 5, "an unquoted 'off'"),
    "unquoted y": ("- y\n", 1, 3, "an unquoted 'y'"),
    "octal or not": ("a: 007\n", 1, 4, "an unquoted '007'"),
    "hexadecimal": ("a: 0x1F\n", 1, 4, "an unquoted '0x1F'"),
    "infinity": ("a: -.inf\n", 1, 4, "an unquoted '-.inf'"),
    "not a number": ("a: .NaN\n", 1, 4, "an unquoted '.NaN'"),
    "too large a number": ("a: 123e456\n", 1, 4, "too large"),
    "a list as a key": ("a: 1\n? [b]\n: c\n", 2, 3, "a key that is not a word"),
    "a quote left open": ('a: 1\nb: "x\nc: 2\n', 4, 1, "it begins in line 2"),
    "a bracket left open": ("a: 1\nb: [x\nc: 2\n", 3, 2, "bad YAML"),
    "a brace left open": ("a: {b: 1\n", 2, 1, "bad YAML"),
    "a bracket too many": ("a: 1\nb: x]\nc: ]\n", 3, 4, "bad YAML"),
    "bad indentation": ("a:\n   b: 1\n  c: 2\n", 3, 3, "bad YAML"),
    "a colon in a text": ("a: 1\nb: x: y\n", 2, 5, "bad YAML"),
    "a backtick": ("a: 1\nb: `x`\n", 2, 4, "bad YAML"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_text_is_refused_at_its_place(case: str) -> None:
    text, line, col, said = BAD[case]
    problem = refused(text).problems[0]
    assert (problem.line, problem.col) == (line, col), problem
    assert said in problem.problem
    assert problem.fix


@pytest.mark.parametrize(
    ("raw", "line", "col", "said"),
    [
        ("a: é\n".encode("utf-16"), 1, 1, "UTF-16"),
        ("a: 1\n".encode("utf-16-be"), 1, 1, "U+0000"),
        (b"\xfe\xff" + "a: 1\n".encode("utf-16-be"), 1, 1, "UTF-16"),
        (b"\x00\x00\xfe\xff" + "a: 1\n".encode("utf-32-be"), 1, 3, "not UTF-8"),
        ("a: 1\nb: é\n".encode("latin-1"), 2, 4, "not UTF-8"),
        (b"a: 1\nb: \xed\xa0\x80\n", 2, 4, "not UTF-8"),
        (b"\x1f\x8b\x08\x00", 1, 2, "not UTF-8"),
        (b"", 1, 1, "empty"),
        (b"a: x\n" * (MAX_BYTES // 5 + 1), 0, 0, "larger than 1 MiB"),
    ],
)
def test_bad_bytes_are_refused_at_their_place(tmp_path: Path, raw: bytes, line: int, col: int, said: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(raw)
    problem = refused(path).problems[0]
    assert (problem.line, problem.col) == (line, col), problem
    assert said in problem.problem


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    assert "a folder" in str(refused(tmp_path))
    assert "No such file" in str(refused(tmp_path / "none.yaml"))
    assert "too long" in str(refused(tmp_path / ("x" * 300)))
    assert "can't be read" in str(refused(Path("a\x00b")))


def test_a_text_has_the_same_limit_as_a_file() -> None:
    assert "larger than 1 MiB" in str(refused("a" * (MAX_BYTES + 1)))


def test_all_problems_are_told_at_once() -> None:
    problems = refused("a: no\nb: 1\nb: 2\nc: 007\n").problems
    assert [problem.line for problem in problems] == [1, 3, 4]
    # Those before a mistake in the grammar are told along with it.
    assert [problem.line for problem in refused("a: no\nb: &x 1\n").problems] == [1, 2]


def test_a_flood_of_problems_ends() -> None:
    assert len(refused("- no\n" * 20_000).problems) == MAX_PROBLEMS


def test_a_file_of_crumbs_ends() -> None:
    with pytest.raises(InputError) as caught:
        load("- x\n" * 200_000, name="x.yaml")
    # The list itself is the first part.
    assert str(caught.value).startswith(f"x.yaml:{MAX_PARTS}:3: more than {MAX_PARTS} keys and values")


def test_a_large_good_file_is_quick() -> None:
    text = "principles:\n" + "".join(f"  - id: p{i}\n    text: Be kind to person {i}.\n" for i in range(1000))
    start = time.perf_counter()
    assert len(load(text).data["principles"]) == 1000
    assert time.perf_counter() - start < MOST_SECONDS


SYNTAX = st.text(alphabet=st.sampled_from("ab01 \n\t:-?[]{},#&*!|>'\"%@`\\.~<=x\r\x00é"), max_size=60)


@given(SYNTAX | st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    problems: list[Problem] = []
    try:
        load(text)
    except InputError as error:
        problems = error.problems
    lines = text.count("\n") + text.count("\r") + 1
    assert all(1 <= problem.line <= lines and problem.col >= 1 for problem in problems)


# From a tree to a model.


def complaints(text: str) -> list[str]:
    with pytest.raises(InputError) as caught:
        validate(Settings, load(text, name="x.yaml"))
    return [str(problem) for problem in caught.value.problems]


def test_a_good_tree_becomes_the_model() -> None:
    text = "name: a\njudge: {temperature: 0.5}\njudges:\n- kind: contrastive\n"
    settings = validate(Settings, load(text))
    assert settings == Settings(name="a", judge=Judge(temperature=0.5), judges=[Judge(kind="contrastive")])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("steps: 2\n", "x.yaml:1:1: 'name' is missing; add it"),
        ("name: a\nstesp: 2\n", "x.yaml:2:1: unknown key 'stesp'; did you mean 'steps'?"),
        ("name: a\nqqq: 2\n", "x.yaml:2:1: unknown key 'qqq'; use one of name, steps, judge, judges"),
        ("name: a\njudge:\n  knid: b\n", "x.yaml:3:3: unknown key 'knid'; did you mean 'kind'?"),
        ("name: a\njudges:\n- {}\n- tempreature: 1\n", "x.yaml:4:3: unknown key 'tempreature'; did you mean"),
        ("name: 3\n", "x.yaml:1:7: name"),
        ("name:\n", "x.yaml:1:1: name"),
        ("name: a\nsteps: two\n", "x.yaml:2:8: steps"),
        ("name: a\njudge: 3\n", "x.yaml:2:8: judge"),
        ("name: a\njudges: {}\n", "x.yaml:2:9: judges: Input should be a valid list; write a list"),
        ("name: a\njudge: {kind: pairwize}\n", "x.yaml:2:15: judge.kind"),
        ("- a\n", "x.yaml:1:1: the file"),
    ],
)
def test_what_does_not_fit_the_model_is_named_by_its_place(text: str, said: str) -> None:
    found = complaints(text)
    assert len(found) == 1
    assert found[0].startswith(said), found


def test_a_wrong_choice_gets_the_nearest_right_one() -> None:
    assert complaints("name: a\njudge:\n  kind: pairwize\n")[0].endswith("did you mean 'pairwise'?")


def test_all_that_does_not_fit_is_told_at_once() -> None:
    found = complaints("steps: two\njudge:\n  knid: 3\n  temperature: hot\nxyz: 1\n")
    assert [line.split(":")[1] for line in found] == ["1", "1", "3", "4", "5"]


def test_reading_loads_no_pydantic() -> None:
    code = "import sys, cai.strict_yaml as s; s.load('a: 1'); assert 'pydantic' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])
