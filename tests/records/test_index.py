import json
from pathlib import Path

import pytest

from cai.errors import StorageError
from cai.records.index import Place, Records, line_at, open_table, read_at
from cai.records.schema import Record
from cai.storage import canonical_json
from tests.records.samples import draft, one_of_each


def write(path: Path, *records: Record) -> Path:
    path.write_bytes(b"".join(canonical_json(record.to_json()) + b"\n" for record in records))
    return path


def test_records_are_read_from_their_files_when_asked_for(tmp_path: Path) -> None:
    records = one_of_each()
    found = Records([write(tmp_path / "a.jsonl", *records[:3]), write(tmp_path / "b.jsonl", *records[3:])])
    assert list(found) == [record.key for record in records]
    assert list(found.values()) == records
    assert len(found) == len(records)
    assert records[4].key in found
    assert "none" not in found
    with pytest.raises(KeyError):
        found["none"]
    # Nothing is held: what the file says now is what comes.
    changed = (tmp_path / "a.jsonl").read_bytes().replace(b"egg", b"ham")
    (tmp_path / "a.jsonl").write_bytes(changed)
    with pytest.raises(StorageError, match=r"a\.jsonl:1:1: damaged record"):
        found[records[0].key]


def test_of_a_key_in_two_files_the_first_file_counts(tmp_path: Path) -> None:
    other = draft(0).model_copy(update={"text": "another answer"})
    found = Records()
    paths = [write(tmp_path / "a.jsonl", draft(0)), write(tmp_path / "b.jsonl", other, draft(1))]
    seen = [record for path in paths for record, _ in found.scan(path)]
    assert seen == [draft(0), draft(1)]
    assert list(found.values()) == seen


def test_a_place_leads_back_to_the_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", *[draft(number) for number in range(3)])
    places = [place for _, place in Records().scan(path)]
    assert [place.line for place in places] == [1, 2, 3]
    assert b"".join(line_at(place) for place in places) == path.read_bytes()
    assert read_at(places[2]) == draft(2)
    path.unlink()
    with pytest.raises(StorageError, match=r"a\.jsonl: can't be read: No such file"):
        read_at(places[0])


def test_the_same_key_twice_in_a_file_is_damage(tmp_path: Path) -> None:
    found = Records()
    found.add("k", Place(tmp_path / "a", 1, 0, 10))
    with pytest.raises(StorageError, match=r"a:2:1: damaged record \(the same key as line 1\)"):
        found.add("k", Place(tmp_path / "a", 2, 10, 10))


def test_a_table_is_no_file_that_anybody_sees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A process that is killed must leave nothing behind, and one that is not must hold little.
    monkeypatch.setenv("SQLITE_TMPDIR", str(tmp_path))
    table = open_table("CREATE TABLE t (k TEXT PRIMARY KEY, v TEXT) WITHOUT ROWID")
    for number in range(30_000):
        table.execute("INSERT INTO t VALUES (?, ?)", (str(number), json.dumps("x" * 400)))
    assert table.execute("SELECT COUNT(*) FROM t").fetchone() == (30_000,)
    assert list(tmp_path.iterdir()) == []
    table.close()
