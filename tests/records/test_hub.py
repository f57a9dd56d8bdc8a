from collections.abc import Iterator
from pathlib import Path

import pytest

from cai.errors import InputError, StorageError
from cai.records.hub import check_repo, push_dataset
from tests.records.hub_server import Hub, serving


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    with serving() as hub:
        yield hub


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "README.md").write_text("---\nconfigs: []\n---\n# Mine\n")
    (tmp_path / "data/train-00000-of-00001.jsonl").write_bytes(b'{"messages": []}\n')
    (tmp_path / "notes.txt").write_text("not for others")
    return tmp_path


def test_the_card_and_the_data_are_one_commit_and_nothing_else_is(folder: Path, hub: Hub) -> None:
    hub.files["data/train-00000-of-00002.jsonl"] = b"of an earlier upload"
    where = push_dataset(folder, "me/mine", private=True, endpoint=hub.url)
    assert where.startswith(hub.url)
    assert sum("/commit/" in call for call in hub.calls) == 1
    assert hub.repos[0]["type"] == "dataset"
    assert hub.repos[0].get("private") is True or hub.repos[0].get("visibility") == "private"
    assert hub.files == {
        name: (folder / name).read_bytes() for name in ("README.md", "data/train-00000-of-00001.jsonl")
    }


@pytest.mark.parametrize("status", [401, 403])
def test_a_hub_that_refuses_is_told_and_nothing_is_lost(folder: Path, hub: Hub, status: int) -> None:
    hub.refuse = status
    with pytest.raises(StorageError, match=r"the hub did not take me/mine: .* is whole") as caught:
        push_dataset(folder, "me/mine", private=False, endpoint=hub.url)
    assert "hf_of_nobody" not in str(caught.value)
    assert (folder / "README.md").exists()


def test_no_hub_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(StorageError, match="the hub did not take me/mine"):
        push_dataset(folder, "me/mine", private=False, endpoint="http://127.0.0.1:9")


@pytest.mark.parametrize("name", ["", "a/b/c", "me/", "me/ mine", "../etc"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"--push-to-hub: .* is no name .*; write owner/name"):
        check_repo(name)
    check_repo("me/mine")
