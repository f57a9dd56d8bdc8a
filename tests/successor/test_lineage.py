import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from cai.constitution import load_constitution
from cai.errors import InputError, StorageError
from cai.storage import canonical_json, digest
from cai.successor.lineage import Ledger, describe_run, head_path, open_run, read_ledger
from cai.successor.plan import RunConfig

LINES = 12


@pytest.fixture
def path(tmp_path: Path) -> Path:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    for number in range(LINES):
        ledger.append("finished", f"gen-1/stage-{number}", seconds=number / 2, made={"a": "é"})
    return ledger.path


def lines_of(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def broken_at(path: Path, line: int) -> None:
    for read in (read_ledger, Ledger):
        before = path.read_bytes()
        with pytest.raises(StorageError, match=rf"ledger\.jsonl:{line}:1: the ledger's chain is broken here"):
            read(path)
        assert path.read_bytes() == before, "the evidence is left as it is"


def test_a_ledger_is_read_back_and_goes_on(path: Path) -> None:
    ledger = Ledger(path)
    assert [line["stage"] for line in ledger.lines] == [f"gen-1/stage-{number}" for number in range(LINES)]
    ledger.append("started", "gen-2/prompts")
    lines = read_ledger(path)
    assert [line["n"] for line in lines] == list(range(1, LINES + 2))
    assert lines[-1]["previous"] == digest(lines[-2])
    assert lines[0]["previous"] == ""
    assert lines[0]["time"].endswith("Z")


def test_a_ledger_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert read_ledger(tmp_path / "ledger.jsonl") == []
    assert Ledger(tmp_path / "ledger.jsonl").lines == []


@pytest.mark.parametrize("number", range(1, LINES + 1))
def test_an_edited_line_is_found(path: Path, number: int) -> None:
    lines = lines_of(path)
    row = json.loads(lines[number - 1])
    lines[number - 1] = canonical_json({**row, "seconds": 99}) + b"\n"
    path.write_bytes(b"".join(lines))
    # The next line's hash tells; for the last one, the head does.
    broken_at(path, min(number + 1, LINES))


@pytest.mark.parametrize("number", range(1, LINES + 1))
def test_a_deleted_line_is_found(path: Path, number: int) -> None:
    lines = lines_of(path)
    del lines[number - 1]
    path.write_bytes(b"".join(lines))
    broken_at(path, number)


@pytest.mark.parametrize("number", range(1, LINES))
def test_two_lines_that_changed_places_are_found(path: Path, number: int) -> None:
    lines = lines_of(path)
    lines[number - 1], lines[number] = lines[number], lines[number - 1]
    path.write_bytes(b"".join(lines))
    broken_at(path, number)


@pytest.mark.parametrize("number", range(1, LINES + 1))
def test_a_doubled_line_is_found(path: Path, number: int) -> None:
    lines = lines_of(path)
    lines.insert(number, lines[number - 1])
    path.write_bytes(b"".join(lines))
    broken_at(path, number + 1)


@pytest.mark.parametrize("left", range(LINES))
def test_an_end_that_was_cut_off_is_found(path: Path, left: int) -> None:
    path.write_bytes(b"".join(lines_of(path)[:left]))
    broken_at(path, left + 1)


def test_a_ledger_that_was_removed_is_missed(path: Path) -> None:
    path.unlink()
    with pytest.raises(StorageError, match=r"ledger\.jsonl:1:1"):
        Ledger(path)


@pytest.mark.parametrize(
    "harm",
    [
        lambda line: line.replace(b'"n":5', b'"n": 5'),
        lambda line: line.replace(b'{"event"', b'{"n":5,"event"'),
        lambda line: line[:-1] + b" \n",
        lambda line: b"{}\n",
        lambda line: b"[]\n",
        lambda line: b"\xff\n",
        lambda line: line[:-1] + b"\r",
    ],
)
def test_a_line_that_is_not_as_it_was_written_is_found(path: Path, harm: Any) -> None:
    lines = lines_of(path)
    lines[4] = harm(lines[4])
    path.write_bytes(b"".join(lines))
    broken_at(path, 5)


def test_an_append_that_was_torn_at_any_byte_is_cut_off_and_done_again(path: Path) -> None:
    before, head = path.read_bytes(), head_path(path).read_bytes()
    Ledger(path).append("started", "gen-2/prompts")
    whole = path.read_bytes()
    for length in range(len(before), len(whole)):
        path.write_bytes(whole[:length])
        head_path(path).write_bytes(head)
        assert len(read_ledger(path)) == LINES
        assert path.read_bytes() == whole[:length], "reading changes nothing"
        ledger = Ledger(path)
        assert path.read_bytes() == before
    ledger.append("started", "gen-2/prompts")
    assert len(read_ledger(path)) == LINES + 1


def test_a_kill_between_the_line_and_the_head_is_no_damage(path: Path) -> None:
    head = head_path(path).read_bytes()
    Ledger(path).append("started", "gen-2/prompts")
    head_path(path).write_bytes(head)
    ledger = Ledger(path)
    assert len(ledger.lines) == LINES + 1
    ledger.append("finished", "gen-2/prompts")
    assert len(read_ledger(path)) == LINES + 2


def test_a_kill_before_the_first_head_is_no_damage(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.append("started", "gen-1/prompts")
    head_path(ledger.path).unlink()
    Ledger(ledger.path).append("finished", "gen-1/prompts")
    assert len(read_ledger(ledger.path)) == 2


@pytest.mark.parametrize("content", [None, b"", b"{}", b"[]", b'{"n": 0, "digest": ""}', b'{"n": "x", "digest": ""}'])
def test_a_head_that_is_lost_or_damaged_is_named(path: Path, content: bytes | None) -> None:
    if content is None:
        head_path(path).unlink()
    else:
        head_path(path).write_bytes(content)
    with pytest.raises(StorageError, match=r"ledger\.head\.json: .*; restore it from a copy"):
        Ledger(path)


def test_a_line_that_the_disk_refused_leaves_the_ledger_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()
    ledger = Ledger(path)

    def refuse(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", refuse)
        with pytest.raises(StorageError, match="No space left"):
            ledger.append("stopped", "gen-1/sft")
    assert path.read_bytes() == before
    ledger.append("stopped", "gen-1/sft")
    assert len(read_ledger(path)) == LINES + 1


def test_what_an_event_says_cannot_pass_for_the_chain(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.append("finished", "gen-1/sft", **{"n": 7, "previous": "x"})
    assert read_ledger(ledger.path)[0]["n"] == 1


# run.json


def about(**changed: Any) -> dict[str, Any]:
    found = describe_run(RunConfig(), load_constitution("harmless"), "m" * 64)
    return {**found, **changed}


def test_a_run_says_what_it_is_made_from() -> None:
    found = about()
    constitution = load_constitution("harmless")
    assert found["constitution"]["digest"] == constitution.digest
    assert [item["id"] for item in found["constitution"]["principles"]] == [item.id for item in constitution.principles]
    assert found["model"] == {"name": "embedded", "digest": "m" * 64}
    assert {"cai", "python", "torch", "numpy"} <= set(found["versions"])
    assert found["machine"]["cores"] >= 1
    assert json.loads(json.dumps(found)) == found


def test_the_same_run_can_be_opened_again_with_other_sizes(tmp_path: Path) -> None:
    open_run(tmp_path, about())
    open_run(tmp_path, about(config=RunConfig(size="full").to_plain()))
    assert json.loads((tmp_path / "run.json").read_text())["config"]["size"] == "full"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"model": {"name": "embedded", "digest": "n" * 64}}, "another model;"),
        ({"constitution": {"digest": "d"}}, "another constitution;"),
        ({"seed": 1}, "another seed;"),
        ({"seed": 1, "model": {"name": "x", "digest": "n"}}, "another model and another seed;"),
    ],
)
def test_another_run_in_the_same_folder_is_refused_and_the_folder_left_alone(
    tmp_path: Path, changed: dict[str, Any], said: str
) -> None:
    open_run(tmp_path, about())
    before = (tmp_path / "run.json").read_bytes()
    with pytest.raises(InputError, match=f"{tmp_path}: this folder holds a run with {said} give another --out"):
        open_run(tmp_path, about(**changed))
    assert (tmp_path / "run.json").read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"model": 3}', b"\xff"])
def test_a_damaged_run_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(StorageError, match=r"run\.json: can't be read .*; restore it"):
        open_run(tmp_path, about())
