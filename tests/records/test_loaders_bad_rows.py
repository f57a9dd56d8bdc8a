"""What is wrong with a file of prompts is named by its place, all of it at once, and never ends in a traceback."""

import contextlib
import json
from pathlib import Path

import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cai.errors import InputError
from cai.records.loaders import load_prompts
from tests.records.samples import one_of_each

GOOD = b'{"prompt": "How do I boil an egg?", "category": "cooking", "kind": "helpful"}\n'


def file(folder: Path, content: bytes | str, name: str = "p.jsonl") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def complaints(path: Path) -> list[str]:
    """What loading says, a line each, with the path taken off."""
    with pytest.raises(InputError) as caught:
        load_prompts([path])
    lines = str(caught.value).splitlines()
    assert all(line.startswith(str(path)) or line.startswith("and ") for line in lines)
    assert all("; " in line and not line.endswith("; ") for line in lines if not line.startswith("and ")), "a fix each"
    return [line.removeprefix(str(path)) for line in lines]


BAD: dict[str, tuple[bytes, str]] = {
    "torn last line": (GOOD + GOOD[:30], ":2:12: bad JSON: Unterminated string"),
    "bad JSON": (GOOD * 70 + b'{"prompt": }\n' + GOOD, ":71:12: bad JSON: Expecting value"),
    "two objects": (GOOD[:-1] + GOOD, ":1:78: bad JSON: Extra data"),
    "NaN": (GOOD + b'{"prompt": "x", "score": NaN}\n', ":2:1: bad JSON: NaN is not JSON"),
    "Infinity": (b'{"prompt": -Infinity}\n', ":1:1: bad JSON: -Infinity is not JSON"),
    "half of a surrogate pair": (b'{"prompt": "a \\ud83d b"}\n', ":1:1: the text holds half of a surrogate pair"),
    "surrogate in a category": (
        b'{"prompt": "a", "category": "\\udc00"}\n',
        ":1:1: the text holds half of a surrogate",
    ),
    "surrogate in a source": (b'{"prompt": "a", "source": "\\udc00"}\n', ":1:1: the text holds half of a surrogate"),
    "huge integer": (b'{"prompt": "a", "n": ' + b"9" * 5000 + b"}\n", ":1:1: bad JSON: Exceeds the limit"),
    "deep nesting": (b"[" * 200_000 + b"\n", ":1:1: bad JSON: nested too deep"),
    "missing field": (GOOD + b'{"promt": "x", "id": 3}\n', ":2:1: no 'prompt' and no 'messages' (fields: id, promt)"),
    "empty object": (b"{}\n", ":1:1: no 'prompt' and no 'messages' (fields: none)"),
    "prompt is a number": (b'{"prompt": 3}\n', ":1:1: 'prompt' is a int"),
    "prompt is null": (b'{"prompt": null}\n', ":1:1: no 'prompt'"),
    "prompt is an object": (b'{"prompt": {"text": "x"}}\n', ":1:1: 'prompt' is a dict"),
    "prompt is blank": (b'{"prompt": " \\n\\t"}\n', ":1:1: the prompt is empty"),
    "blank transcript": (b'{"prompt": "\\n\\nHuman: \\n\\nAssistant:"}\n', ":1:1: the prompt is empty"),
    "transcript with an empty turn": (
        b'{"prompt": "\\n\\nHuman: a\\n\\nAssistant: \\n\\nHuman: b"}\n',
        ":1:1: turn 2 is empty",
    ),
    "answered": (b'{"prompt": "\\n\\nHuman: a\\n\\nAssistant: b"}\n', ":1:1: the dialogue ends with the assistant's"),
    "category is a list": (b'{"prompt": "a", "category": ["x"]}\n', ":1:1: 'category' is a list"),
    "unknown kind": (b'{"prompt": "a", "kind": "harmfull"}\n', ":1:1: unknown kind 'harmfull'"),
    "kind is a list": (b'{"prompt": "a", "kind": ["helpful"]}\n', ":1:1: unknown kind ['helpful']"),
    "messages is a text": (b'{"messages": "Hi"}\n', ":1:1: 'messages' is a text"),
    "messages is empty": (b'{"messages": []}\n', ":1:1: 'messages' is empty"),
    "message without a role": (b'{"messages": [{"content": "Hi"}]}\n', ":1:1: message 1 is not a role"),
    "message of another role": (
        b'{"messages": [{"role": "tool", "content": "Hi"}]}\n',
        ":1:1: message 1 is not a role",
    ),
    "message without a text": (b'{"messages": [{"role": "user", "content": null}]}\n', ":1:1: message 1 is not a role"),
    "message is a text": (b'{"messages": ["Hi"]}\n', ":1:1: message 1 is not a role"),
    "list": (b'[{"prompt": "a"}]\n', ":1:1: not a JSON object"),
    "text": (b'"Hi"\n', ":1:1: not a JSON object"),
    "not UTF-8": (GOOD + b'{"prompt": "caf\xe9"}\n', ":2:16: not UTF-8"),
    "UTF-16": ('{"prompt": "Hi"}\n'.encode("utf-16"), ":1:1: not UTF-8"),
    "record of another type": (json.dumps(one_of_each()[1].to_json()).encode(), ":1:1: a record of the type 'draft'; "),
    "record with a list as messages": (b'{"type": "prompt", "id": "x", "schema": 1, "messages": 5}', ":1:1: a damaged"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_row_is_named_by_its_place(tmp_path: Path, name: str) -> None:
    content, said = BAD[name]
    assert complaints(file(tmp_path, content))[0].startswith(said)


def roles(*names: str) -> bytes:
    return json.dumps({"messages": [{"role": name, "content": f"{name}!"} for name in names]}).encode()


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (roles("user", "user"), "turn 2 is the user's, not the assistant's"),
        (roles("assistant", "user"), "turn 1 is the assistant's, not the user's"),
        (roles("system"), "there is no turn of the person"),
        (roles("user", "system", "user"), "turn 2 is the system's, not the assistant's"),
        (roles("system", "system", "user"), "turn 2 is the system's, not the user's"),
        (roles("system", "assistant", "user"), "turn 2 is the assistant's, not the user's"),
        (roles("user", "assistant"), "the dialogue ends with the assistant's turn"),
    ],
)
def test_turns_out_of_order_are_refused(tmp_path: Path, row: bytes, said: str) -> None:
    assert complaints(file(tmp_path, row))[0].startswith(f":1:1: {said}")


def test_all_bad_rows_are_named_whatever_is_wrong_with_them(tmp_path: Path) -> None:
    rows = [GOOD, b'{"prompt": 3}\n', b"{\n", GOOD, b"\xff\n", b'{"a": 1}\n', b"[]\n"]
    places = [said.split(": ")[0] for said in complaints(file(tmp_path, b"".join(rows)))]
    assert places == [":2:1", ":3:2", ":5:1", ":6:1", ":7:1"]


def test_of_many_bad_rows_twenty_are_shown_and_the_rest_is_counted(tmp_path: Path) -> None:
    said = complaints(file(tmp_path, (GOOD + b"{}\n") * 33))
    assert len(said) == 21
    assert said[0].startswith(":2:1: ")
    assert said[19].startswith(":40:1: ")
    assert said[20] == "and 13 more problems"


def test_bad_rows_of_several_files_are_told_together(tmp_path: Path) -> None:
    paths = [file(tmp_path, b"{}\n", "a.jsonl"), tmp_path / "none.jsonl", file(tmp_path, b"{\n", "z.csv")]
    with pytest.raises(InputError) as caught:
        load_prompts(paths)
    assert [Path(problem.path).name for problem in caught.value.problems] == ["a.jsonl", "none.jsonl", "z.csv"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"text,category\nHi,x\nHo,y\n", ":1:1: no 'prompt' and no 'messages' (fields: category, text)"),
        (b"prompt;category\nHi;x\n", ":1:1: no 'prompt' and no 'messages' (fields: prompt;category)"),
        (b"prompt,category\nHi, you,x\n", ":2:1: more fields than the header names"),
        (b"prompt,category\n,x\n", ":2:1: the prompt is empty"),
        (b'prompt\nHi\n"caf\xe9"\n', ":3:5: not UTF-8"),
        (b'prompt\nHi\n"no end\n', ":3:1: bad CSV: unexpected end of data"),
        (b'prompt\n"a"b\n', ":2:1: bad CSV: "),
        (b"prompt\n" + b"x" * 200_000 + b"\n", ":2:1: bad CSV: field larger than field limit"),
        (b'messages\n"[{""role"": ""user""}]"\n', ":2:1: 'messages' is a text"),
        ("prompt\nHi\n".encode("utf-16"), ":1:1: not UTF-8"),
    ],
)
def test_a_bad_table_is_named_by_its_place(tmp_path: Path, content: bytes, said: str) -> None:
    assert complaints(file(tmp_path, content, "p.csv"))[0].startswith(said)


def test_a_table_without_the_column_says_so_once(tmp_path: Path) -> None:
    parquet.write_table(arrow.table({"text": ["a"] * 3000}), tmp_path / "p.parquet")
    (said,) = complaints(tmp_path / "p.parquet")
    assert said.startswith(":1:1: no 'prompt' and no 'messages' (fields: text); add one of them")


@pytest.mark.parametrize("content", [b"", b"PAR1", b"no parquet at all" * 10])
def test_a_file_that_only_says_it_is_parquet_is_refused(tmp_path: Path, content: bytes) -> None:
    (said,) = complaints(file(tmp_path, content, "p.parquet"))
    assert said.startswith(":1:1: bad Parquet: ")


def test_parquet_with_bytes_for_texts_is_refused_by_row(tmp_path: Path) -> None:
    parquet.write_table(arrow.table({"prompt": arrow.array([b"a", b"\xff"], arrow.binary())}), tmp_path / "p.parquet")
    assert [said.split(": ")[0] for said in complaints(tmp_path / "p.parquet")] == [":1:1", ":2:1"]


@pytest.mark.parametrize(
    ("name", "content"), [("p.jsonl", b""), ("p.jsonl", b"\n \n"), ("p.csv", b""), ("p.csv", b"prompt\n")]
)
def test_a_file_with_nothing_in_it_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (said,) = complaints(file(tmp_path, content, name))
    assert said.startswith(": no prompts; ")


def test_what_is_no_file_of_rows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    assert complaints(tmp_path / "folder.jsonl")[0].startswith(": this is a folder; ")
    assert complaints(tmp_path / "none.jsonl")[0].startswith(": no such file; ")
    assert (
        complaints(file(tmp_path, GOOD, "p.txt"))[0]
        == ": not a file of rows; use one of .jsonl, .jsonl.gz, .csv, .parquet"
    )


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = file(tmp_path, GOOD, f"p.{suffix}")
    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(parquet, "ParquetFile", refuse)
    assert complaints(path)[0].startswith(": can't be read: Permission denied; ")


def mutated(content: bytes, where: int, how: int, byte: int) -> bytes:
    place = where % len(content)
    return [
        content[:place],
        content[:place] + bytes([byte]) + content[place:],
        content[:place] + bytes([byte]) + content[place + 1 :],
        content[:place] + content[place + 7 :],
    ][how]


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 3), st.integers(0, 255)), min_size=1, max_size=4))
def test_no_damage_to_a_file_ends_in_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int, int]]
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    made: list[tuple[str, bytes]] = [
        ("p.jsonl", GOOD + roles("system", "user") + b"\n" + json.dumps(one_of_each()[0].to_json()).encode()),
        ("p.csv", b'prompt,kind\n"Hi, you",helpful\n"a ""b""\nc",red_team\n'),
    ]
    for name, content in made:
        for where, how, byte in steps:
            content = mutated(content or b"x", where, how, byte)
        with contextlib.suppress(InputError):
            assert load_prompts([file(folder, content, name)])
