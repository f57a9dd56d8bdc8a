import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.errors import StorageError
from cai.storage import (
    FolderLock,
    append_whole,
    atomic_write,
    atomic_write_json,
    canonical_json,
    digest,
    hash_file,
    seed_from,
    storing,
)


def test_the_canonical_form_is_pinned() -> None:
    # A change here renames every record, run and constitution that was ever hashed.
    assert canonical_json({"b": [1, 2.5, None], "a": "é\n"}) == '{"a":"é\\n","b":[1,2.5,null]}'.encode()
    assert digest({"a": 1}) == "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"
    assert seed_from(0, "draft") == 5715502307118437162


def test_the_order_of_keys_does_not_count_and_that_of_items_does() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest([1, 2]) != digest([2, 1])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800"])
def test_what_is_not_json_is_refused(value: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  (the words are the standard library's)
        digest({"a": value})


@given(st.lists(st.one_of(st.integers(), st.text(st.characters(codec="utf-8"))), max_size=4))
def test_a_seed_fits_every_generator(parts: list[str | int]) -> None:
    assert 0 <= seed_from(*parts) < 2**63


def test_a_seed_depends_on_every_part_and_on_where_it_ends() -> None:
    seeds = {seed_from(*parts) for parts in [(0, "a", 0), (1, "a", 0), (0, "b", 0), (0, "a", 1), (0, "a"), ("0a", 0)]}
    assert len(seeds) == 6


def test_a_file_is_hashed_by_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert hash_file(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_an_atomic_write_leaves_the_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    atomic_write_json(path, {"b": 1, "a": "é"})
    assert path.read_text("utf-8") == '{\n  "a": "é",\n  "b": 1\n}\n'
    assert [item.name for item in path.parent.iterdir()] == ["a.json"]


@pytest.mark.parametrize("function", ["fsync", "replace", "chmod"])
def test_a_write_that_fails_anywhere_leaves_the_old_content_and_no_rubbish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    path = tmp_path / "a"
    atomic_write(path, b"old")

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, function, refuse)
        with pytest.raises(StorageError, match=r"a: cannot write: No space left on device"):
            atomic_write(path, b"new")
    assert path.read_bytes() == b"old"
    assert [item.name for item in tmp_path.iterdir()] == ["a"]


def test_content_is_on_the_disk_before_its_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Renaming first can leave an empty file under the right name after a power cut.
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor: int) -> None:
        done.append("fsync")
        fsync(descriptor)

    def noted_replace(old: str, new: Path) -> None:
        done.append("replace")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    atomic_write(tmp_path / "a", b"x")
    assert done == ["fsync", "replace", "fsync"]


def test_a_path_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"file/inside: cannot write: .*; what was written before is kept"):
        atomic_write(tmp_path / "file" / "inside", b"x")


def test_only_the_systems_errors_are_turned_into_storage_errors(tmp_path: Path) -> None:
    with pytest.raises(KeyError), storing(tmp_path):
        raise KeyError("a bug")


def test_an_append_goes_on_after_a_write_that_took_only_a_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:3]))
    with (tmp_path / "a").open("ab", buffering=0) as file:
        append_whole(file, b"0123456789")
    assert (tmp_path / "a").read_bytes() == b"0123456789"


@pytest.mark.parametrize("after", range(10))
def test_an_append_that_the_disk_cuts_off_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    write, room = os.write, [after]

    def short(descriptor: int, data: bytes) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = write(descriptor, data[: room[0]])
        room[0] -= written
        return written

    with (tmp_path / "a").open("ab", buffering=0) as file:
        append_whole(file, b"first\n")
        with monkeypatch.context() as patched:
            patched.setattr(os, "write", short)
            with pytest.raises(OSError, match="No space left"):
                append_whole(file, b"0123456789\n")
        append_whole(file, b"second\n")
    assert (tmp_path / "a").read_bytes() == b"first\nsecond\n"


def test_a_folder_is_locked_until_it_is_given_back(tmp_path: Path) -> None:
    with FolderLock(tmp_path / "run"), pytest.raises(StorageError, match="another process works in this folder"):
        FolderLock(tmp_path / "run")
    with FolderLock(tmp_path / "run") as lock:
        assert lock.fileno() > 2


def test_a_process_that_is_killed_gives_its_lock_back(tmp_path: Path) -> None:
    code = "import sys, time; from pathlib import Path; from cai.storage import FolderLock\n"
    code += "lock = FolderLock(Path(sys.argv[1])); print('locked', flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout
    try:
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(StorageError, match="another process"):
            FolderLock(tmp_path)
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    FolderLock(tmp_path).__exit__()


def test_a_child_with_the_descriptor_keeps_the_lock_when_its_parent_is_gone(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    child = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE, pass_fds=(lock.fileno(),)
    )
    lock.__exit__()
    try:
        with pytest.raises(StorageError, match="another process"):
            FolderLock(tmp_path)
    finally:
        child.communicate()
    FolderLock(tmp_path).__exit__()


def test_a_file_system_without_locks_is_not_told_as_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(StorageError, match="No locks available"):
        FolderLock(tmp_path)
