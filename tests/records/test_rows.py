import csv
import gzip
import json
from pathlib import Path

import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest

from cai.errors import InputError
from cai.records import rows
from cai.records.rows import BadRow, read_rows, scan_rows


def write(folder: Path, content: bytes, name: str = "a.jsonl") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def test_bad_rows_stand_in_their_place_among_the_good_ones(tmp_path: Path) -> None:
    path = write(tmp_path, b'{"a": 1}\n{\n\n\xff\n[]\n{"a": 2}\n')
    found = list(scan_rows(path))
    assert [(line, row) for line, row in found if not isinstance(row, BadRow)] == [(1, {"a": 1}), (6, {"a": 2})]
    bad = [row for _, row in found if isinstance(row, BadRow)]
    assert [(row.problem.line, row.raw) for row in bad] == [(2, "{"), (4, "\ufffd"), (5, "[]")]


def test_a_gzipped_file_is_read_as_the_plain_one(tmp_path: Path) -> None:
    content = b'\xef\xbb\xbf{"a": 1}\n{\n\n{"a": "caf\xc3\xa9"}\n'
    plain, packed = write(tmp_path, content), write(tmp_path, gzip.compress(content), "a.jsonl.GZ")
    found = [
        [(line, row.problem.problem if isinstance(row, BadRow) else row) for line, row in scan_rows(path)]
        for path in (plain, packed)
    ]
    assert found[0] == found[1]
    assert [line for line, _ in found[1]] == [1, 2, 4]
    with pytest.raises(InputError, match=r"a\.csv\.gz: not a file of rows; use one of \.jsonl, \.jsonl\.gz, "):
        list(scan_rows(write(tmp_path, gzip.compress(content), "a.csv.gz")))


def test_reading_raises_after_the_good_rows(tmp_path: Path) -> None:
    reader = read_rows(write(tmp_path, b'{"a": 1}\n{\n{"a": 2}\n'))
    assert [next(reader), next(reader)] == [(1, {"a": 1}), (3, {"a": 2})]
    with pytest.raises(InputError, match=r"a\.jsonl:2:2: bad JSON"):
        next(reader)


def test_a_line_without_end_is_never_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "MOST_ROW", 1 << 20)
    long = json.dumps({"prompt": "x" * (3 << 20)}).encode()
    path = write(tmp_path, b'{"a": 1}\n' + long + b'\n{"a": 2}\n' + long)
    found = list(scan_rows(path))
    assert [line for line, _ in found] == [1, 2, 3, 4]
    bad = found[1][1]
    assert isinstance(bad, BadRow)
    assert bad.problem.problem == "a line of more than 1 MiB"
    assert len(bad.raw) <= rows.MOST_SHOWN


def test_a_row_may_be_as_long_as_is_said(tmp_path: Path) -> None:
    row = json.dumps({"p": "x" * (rows.MOST_ROW - 10)}).encode() + b"\n"
    assert len(row) == rows.MOST_ROW
    assert [line for line, _ in read_rows(write(tmp_path, row))] == [1]


def test_a_small_file_of_huge_rows_is_refused_unread(tmp_path: Path) -> None:
    table = arrow.table({"prompt": ["x" * (20 << 20)] * 2})
    path = tmp_path / "bomb.parquet"
    parquet.write_table(table, path, compression="zstd", use_dictionary=False)
    assert path.stat().st_size < 1 << 20
    with pytest.raises(InputError, match=r"bomb\.parquet:1:1: rows of 20 MiB each; a row may have 8 MiB"):
        list(scan_rows(path))


def test_a_broken_table_tells_what_was_wrong_before_it_broke(tmp_path: Path) -> None:
    path = write(tmp_path, b'prompt\na,b\n"no end\n', "a.csv")
    with pytest.raises(InputError) as caught:
        list(read_rows(path))
    assert [problem.line for problem in caught.value.problems] == [2, 3]


def test_the_line_of_a_row_is_where_it_begins(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["prompt"], ["a\nb"], ["c"]])
    assert [(line, row) for line, row in read_rows(path)] == [(2, {"prompt": "a\nb"}), (4, {"prompt": "c"})]
