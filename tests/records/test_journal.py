import errno
import json
import os
from pathlib import Path

import pytest

from cai.errors import StorageError
from cai.records.journal import Journal, of_type, rank_path, read_journal, read_ranks
from cai.records.schema import Draft, Dropped, Record
from cai.storage import canonical_json
from tests.records.samples import draft, one_of_each, preference


def write(path: Path, *records: Record) -> bytes:
    with Journal(path) as journal:
        for record in records:
            journal.append(record)
    return path.read_bytes()


def test_what_is_appended_is_read_back_in_its_order(tmp_path: Path) -> None:
    records = one_of_each()
    write(tmp_path / "new" / "a.jsonl", *records)
    assert list(read_journal(tmp_path / "new" / "a.jsonl")) == records
    with Journal(tmp_path / "new" / "a.jsonl") as journal:
        assert list(journal.records.values()) == records
        assert all(record.key in journal for record in records)


def test_a_journal_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert list(read_journal(tmp_path / "none.jsonl")) == []
    assert not (tmp_path / "none.jsonl").exists(), "reading makes nothing"


def test_a_key_is_written_once_and_the_first_record_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    other = draft(0).model_copy(update={"text": "another answer"})
    once = write(path, draft(0))
    assert write(path, draft(0), other) == once
    with Journal(path) as journal:
        assert journal.records[draft(0).key] == draft(0)


def test_a_last_line_torn_at_any_byte_is_owed_again_and_the_file_ends_as_if_nothing_had_happened(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.jsonl"
    before = write(path, draft(0), draft(1))
    whole = write(path, draft(2))
    for length in range(len(before), len(whole)):
        path.write_bytes(whole[:length])
        assert [record.key for record in read_journal(path)] == [draft(0).key, draft(1).key]
        with Journal(path) as journal:
            assert draft(2).key not in journal
            assert path.read_bytes() == before
            journal.append(draft(2))
        assert path.read_bytes() == whole


def test_reading_a_torn_journal_does_not_change_it(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    torn = write(path, draft(0), draft(1))[:-5]
    path.write_bytes(torn)
    list(read_journal(path))
    assert path.read_bytes() == torn


def relabelled(line: bytes) -> bytes:
    """The line with a character of its text changed, and its id kept."""
    row = json.loads(line)
    return canonical_json({**row, "text": row["text"] + "!"}) + b"\n"


def schema_2(line: bytes) -> bytes:
    return canonical_json({**json.loads(line), "schema": 2}) + b"\n"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (relabelled, "the content hashes to"),
        (schema_2, "a record of schema 2"),
        (lambda line: b"\n", "Expecting value"),
        (lambda line: line[:40] + b"\n", "Invalid control character"),
        (lambda line: b"\0" * (len(line) - 1) + b"\n", "Expecting value"),
        (lambda line: b"\xff" + line, "can't decode"),
        (lambda line: b"[" * 100_000 + b"\n", "recursion"),
        (lambda line: b"[1]\n", "indices"),
        (lambda line: b'{"key": "k"}\n', "no field 'type'"),
        (lambda line: b'{"type": "draught"}\n', "no record is called 'draught'"),
        (lambda line: b'{"type": ["draft"]}\n', "unhashable"),
        (lambda line: line.replace(b'"draft"', b'"critique"'), "validation errors"),
    ],
)
def test_damage_in_the_middle_is_named_by_path_and_line_and_the_file_is_left_alone(
    tmp_path: Path, damage: object, said: str
) -> None:
    assert callable(damage)
    path = tmp_path / "a.jsonl"
    write(path, *[draft(number) for number in range(4)])
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = damage(lines[2])
    path.write_bytes(b"".join(lines))
    for read in (lambda: list(read_journal(path)), lambda: Journal(path)):
        with pytest.raises(StorageError) as caught:
            read()
        assert str(caught.value).startswith(f"{path}:3:1: damaged record (")
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)
    assert path.read_bytes() == b"".join(lines)


def test_work_that_is_there_twice_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    content = write(path, draft(0), draft(1))
    path.write_bytes(content + content.splitlines(keepends=True)[0])
    with pytest.raises(StorageError, match=r"a\.jsonl:3:1: damaged record \(the same key as line 1\)"):
        Journal(path)


def no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_record_counts_only_when_it_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jsonl"
    with Journal(path) as journal:
        journal.append(draft(0))
        before = path.read_bytes()
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", no_space)
            with pytest.raises(StorageError, match=r"a\.jsonl: cannot write: No space left"):
                journal.append(draft(1))
        assert draft(1).key not in journal
    assert path.read_bytes() == before
    assert write(path, draft(1)) == write(tmp_path / "undisturbed.jsonl", draft(0), draft(1))


def test_the_disk_is_asked_before_the_record_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    with Journal(tmp_path / "a.jsonl") as journal:
        fsync = os.fsync

        def watching(descriptor: int) -> None:
            seen.append(draft(0).key in journal)
            assert (tmp_path / "a.jsonl").read_bytes().endswith(b"\n"), "the whole line is written by now"
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", watching)
        journal.append(draft(0))
    assert seen == [False]


def test_after_a_line_that_the_disk_cut_off_the_next_one_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jsonl"
    write_bytes, room = os.write, [20]

    def short(descriptor: int, data: bytes) -> int:
        if not room[0]:
            no_space()
        written = write_bytes(descriptor, data[: room[0]])
        room[0] -= written
        return written

    with Journal(path) as journal:
        with monkeypatch.context() as patched:
            patched.setattr(os, "write", short)
            with pytest.raises(StorageError, match="No space left"):
                journal.append(draft(0))
        journal.append(draft(1))
        journal.append(draft(0))
    assert [record.key for record in read_journal(path)] == [draft(1).key, draft(0).key]


def test_half_a_line_that_cannot_be_cut_off_is_never_written_on_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jsonl"
    with Journal(path) as journal:
        journal.append(draft(0))
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", no_space)
            patched.setattr(os, "ftruncate", no_space)
            with pytest.raises(StorageError, match="No space left"):
                journal.append(draft(1))
        with pytest.raises(StorageError, match="kept half a record"):
            journal.append(draft(2))
        assert list(journal.records) == [draft(0).key]


def test_two_writers_of_one_journal_are_noticed(tmp_path: Path) -> None:
    with Journal(tmp_path / "a.jsonl") as one, Journal(tmp_path / "a.jsonl") as two:
        one.append(draft(0))
        with pytest.raises(StorageError, match="another process writes here"):
            two.append(draft(1))
    assert [record.key for record in read_journal(tmp_path / "a.jsonl")] == [draft(0).key]


def test_a_journal_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").mkdir()
    with pytest.raises(StorageError, match=r"a\.jsonl: can't be read: Is a directory"):
        Journal(tmp_path / "a.jsonl")
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"file/a\.jsonl: can"):
        Journal(tmp_path / "file" / "a.jsonl")


def test_ranks_write_apart_and_are_read_together(tmp_path: Path) -> None:
    for rank in range(12):
        write(rank_path(tmp_path, "drafts", rank), draft(rank))
    write(rank_path(tmp_path, "critiques", 0), draft(99))
    assert [path.name for path in (rank_path(tmp_path, "drafts", 0), rank_path(tmp_path, "drafts", 1))] == [
        "drafts.jsonl",
        "drafts.rank1.jsonl",
    ]
    assert list(read_ranks(tmp_path, "drafts")) == [draft(rank).key for rank in range(12)]


def test_what_two_ranks_have_done_is_read_once(tmp_path: Path) -> None:
    write(rank_path(tmp_path, "drafts", 1), draft(0).model_copy(update={"text": "later"}), draft(1))
    write(rank_path(tmp_path, "drafts", 0), draft(0))
    assert list(read_ranks(tmp_path, "drafts").values()) == [draft(0), draft(1)]


def test_ranks_can_be_read_before_the_first_has_written(tmp_path: Path) -> None:
    assert read_ranks(tmp_path, "drafts") == {}


def test_records_are_told_apart_by_type() -> None:
    records = one_of_each()
    assert of_type([*records, preference(0.5)], Draft) == [draft(0)]
    assert len(of_type(records, Dropped)) == 1
