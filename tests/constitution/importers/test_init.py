from pathlib import Path

import pytest

from cai.constitution.importers import import_constitution
from cai.errors import InputError
from tests.constitution.importers.samples import SWARM, loads_again, write


def test_a_list_in_plain_text(tmp_path: Path) -> None:
    text = "# ours\n\nWhat we hold to:\n\n- Be kind.\n* Be calm\n  at all times.\n3. Be *bold*: {text}\n(4) Be kind.\n"
    constitution = import_constitution(write(tmp_path, "List of ours.txt", text))
    assert constitution.name == "list-of-ours"
    assert constitution.description == "What we hold to:"
    assert {item.id: item.text for item in constitution.principles} == {
        "be-kind": "Be kind.",
        "be-calm-at-all-times": "Be calm at all times.",
        "be-bold-text": "Be *bold*: {text}",
        "be-kind-2": "Be kind.",
    }
    loads_again(constitution)


def test_several_files_make_one_constitution_named_after_the_first(tmp_path: Path) -> None:
    first, second = write(tmp_path, "one.txt", "Be kind.\n"), write(tmp_path, "two.json", SWARM)
    constitution = import_constitution([first, second])
    assert constitution.name == "one"
    assert [item.source for item in constitution.principles] == ["one.txt", "two.json"]
    folder = tmp_path / "Folder of ours"
    folder.mkdir()
    write(folder, "a.txt", "Be kind.\n")
    write(folder, "notes.md", "not read")
    assert import_constitution(folder).name == "folder-of-ours"


def test_all_files_are_read_before_any_is_complained_of(tmp_path: Path) -> None:
    write(tmp_path, "a.json", "[")
    write(tmp_path, "b.txt", "x" * 4001)
    with pytest.raises(InputError, match=r"(?s)a\.json:1:2: bad JSON.*b\.txt:1:1: text: .*4000"):
        import_constitution(tmp_path)


def test_bad_paths_and_formats(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="can't be read"):
        import_constitution(tmp_path / "none.json")
    with pytest.raises(InputError, match="nothing to import"):
        import_constitution(tmp_path)
    with pytest.raises(InputError, match="did you mean 'paper'"):
        import_constitution(tmp_path, format="papers")
    path = tmp_path / "latin.txt"
    path.write_bytes(b"caf\xe9")
    with pytest.raises(InputError, match="not UTF-8"):
        import_constitution(path)
    with pytest.raises(InputError, match=r"a\.txt: no principle here"):
        import_constitution(write(tmp_path, "a.txt", "# nothing\n"))
