from pathlib import Path

import pytest

from cai.errors import InputError, StorageError
from cai.records import inputs
from cai.records.inputs import check_unchanged, file_hashes, hold_inputs, noted_inputs

MADE = {"seed": 0, "prompts": ["a" * 64]}


def test_the_first_start_notes_and_the_next_must_be_like_it(tmp_path: Path) -> None:
    assert noted_inputs(tmp_path) is None
    hold_inputs(tmp_path, MADE)
    hold_inputs(tmp_path, dict(MADE))
    assert noted_inputs(tmp_path) == MADE
    with pytest.raises(InputError, match=r"made with another seed \(0, and now 1\); restore it, or name another"):
        hold_inputs(tmp_path, {**MADE, "seed": 1})
    with pytest.raises(InputError, match="made with another prompts;"):
        hold_inputs(tmp_path, {**MADE, "prompts": ["b" * 64]})
    assert noted_inputs(tmp_path) == MADE


def test_one_process_notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "is_main", lambda: False)
    hold_inputs(tmp_path, MADE)
    assert noted_inputs(tmp_path) is None


@pytest.mark.parametrize("content", ["", "[]", "{"])
def test_a_damaged_note_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / inputs.NAME).write_text(content)
    with pytest.raises(StorageError, match=r"inputs\.json"):
        hold_inputs(tmp_path, MADE)


def test_a_file_that_changes_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("one")
    before = file_hashes([path])
    check_unchanged([path], before)
    path.write_text("two")
    with pytest.raises(InputError, match=r"a\.jsonl: the file has changed during the work"):
        check_unchanged([path], before)
    path.unlink()
    with pytest.raises(InputError, match=r"a\.jsonl: no such file"):
        check_unchanged([path], before)
