from pathlib import Path

import pytest

from cai.errors import InputError
from cai.records.journal import Journal, read_journal
from cai.records.loaders import PromptSet
from cai.records.merge import Windows, join_files, shard_folders
from cai.records.schema import Dropped, Prompt
from cai.types import Message

PROMPTS = [Prompt.of((Message("user", str(number)),), kind="red_team") for number in range(4)]


def write(folder: Path, *records: tuple[int, str]) -> Path:
    with Journal(folder / "answers.jsonl") as journal:
        for number, text in records:
            key = f"{number} {text} {folder.name}"
            journal.append(Dropped(key=key, stage="s", prompt=PROMPTS[number].id, reason="r", text=text))
    return folder


def joined(tmp_path: Path, *folders: Path, in_turns: tuple[str, ...] = ()) -> list[str]:
    windows = Windows(folders, ("answers",), PromptSet(PROMPTS), lambda position: position.place // 2)
    windows.write(tmp_path, in_turns=in_turns)
    return [getattr(record, "text", "") for record in read_journal(tmp_path / "answers.jsonl")]


def test_windows_come_in_their_order_and_turns_before_them(tmp_path: Path) -> None:
    late = write(tmp_path / "late", (2, "c"), (3, "d"), (2, "C"), (3, "D"))
    early = write(tmp_path / "early", (1, "b"), (0, "a"), (1, "B"), (0, "A"))
    assert "".join(joined(tmp_path, late, early)) == "baBAcdCD"
    assert "".join(joined(tmp_path, late, early, in_turns=("answers",))) == "bacdBACD"


def test_the_fuller_of_two_windows_is_taken_whole(tmp_path: Path) -> None:
    half = write(tmp_path / "half", (0, "x"))
    full = write(tmp_path / "full", (0, "a"), (1, "b"))
    same = write(tmp_path / "same", (0, "y"), (1, "z"))
    assert "".join(joined(tmp_path, half, full, same)) == "ab"
    assert "".join(joined(tmp_path, half, full, same, in_turns=("answers",))) == "ab"


def test_folders_and_files_are_found(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no shard of a run is here"):
        shard_folders([tmp_path])
    for number in (2, 1):
        folder = tmp_path / f"shard-{number}-of-2"
        folder.mkdir()
        (folder / "costs.jsonl").write_text(f"{number}\n")
    (tmp_path / "shard-x-of-y").mkdir()
    found = shard_folders([tmp_path])
    assert [path.name for path in found] == ["shard-1-of-2", "shard-2-of-2"]
    join_files(found, "costs", tmp_path)
    assert (tmp_path / "costs.jsonl").read_text() == "1\n2\n"
