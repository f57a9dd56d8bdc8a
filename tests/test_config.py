"""Configs from files and words: every wrong key is named by its place."""

from pathlib import Path

import pytest
from pydantic import Field

from cai.config import Config, load_config
from cai.errors import InputError


class Inner(Config):
    rounds: int = Field(1, ge=0)


class Outer(Config):
    rate: float = Field(0.1, gt=0, lt=1)
    names: list[str] = Field(default_factory=list)
    inner: Inner = Inner()
    place: Path


def refused(path: Path | None, *words: str) -> list[str]:
    with pytest.raises(InputError) as caught:
        load_config(Outer, path, words)
    return str(caught.value).splitlines()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "c.yaml"
    path.write_text("place: here\nrate: 0.2\ninner:\n  rounds: 3\n")
    return path


def test_words_win_over_the_file(file: Path) -> None:
    config = load_config(Outer, file, ["rate=2e-3", "names=[a, b]", "inner.rounds=5"])
    assert (config.rate, config.names, config.inner.rounds, config.place) == (2e-3, ["a", "b"], 5, Path("here"))


def test_an_unknown_key_is_named_by_its_place_and_the_nearest_is_offered(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("place: here\ninner:\n  ronds: 3\nraet: 1\n")
    assert refused(path) == [
        f"{path}:3:3: unknown key 'ronds'; did you mean 'rounds'?",
        f"{path}:4:1: unknown key 'raet'; did you mean 'rate'?",
    ]


@pytest.mark.parametrize("word", ["rate=2", "rate=-1", "inner.rounds=-1", "names=3", "rate=fast"])
def test_a_bad_value_names_its_word(file: Path, word: str) -> None:
    assert [line.split(": ")[0] for line in refused(file, word)] == [word]


@pytest.mark.parametrize("word", ["rate", "=3", "place.x=3"])
def test_a_word_that_is_no_setting_is_refused(file: Path, word: str) -> None:
    assert word.split("=")[-1] in refused(file, word)[0]


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("rate: 0.2\n")
    assert "'place' is missing; add it" in refused(path)[0]


def test_a_file_that_is_no_mapping_a_folder_or_nowhere_is_refused(tmp_path: Path) -> None:
    listed = tmp_path / "list.yaml"
    listed.write_text("- a\n")
    assert "not a mapping" in refused(listed)[0]
    assert "folder" in refused(tmp_path)[0]
    assert "nowhere.yaml" in refused(tmp_path / "nowhere.yaml")[0]


def test_the_digest_covers_every_setting(file: Path) -> None:
    one, other = load_config(Outer, file), load_config(Outer, file, ["inner.rounds=4"])
    assert one.digest != other.digest
    assert one.digest == load_config(Outer, file).digest
