"""Configs from files and words: every wrong key is named by its place."""

import math
from pathlib import Path

import pytest
from pydantic import Field

from cai.config import Config, load_config
from cai.errors import InputError
from cai.train.configs import DPOConfig, RewardConfig, SFTConfig
from cai.train.ppo.config import PPOConfig


class Inner(Config):
    rounds: int = Field(1, ge=0)
    factor: float | None = None
    loud: bool = False


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


@pytest.mark.parametrize("value", ["'nan'", "nan", "inf", "-inf", ".nan", ".inf", "1e999"])
@pytest.mark.parametrize("key", ["rate", "inner.factor"])
def test_numbers_that_are_not_finite_are_refused(file: Path, key: str, value: str) -> None:
    assert [line.split(": ")[0] for line in refused(file, f"{key}={value}")] == [f"{key}={value}"]


@pytest.mark.parametrize("cls", [SFTConfig, DPOConfig, RewardConfig, PPOConfig])
@pytest.mark.parametrize("rate", [math.nan, math.inf, 0.0, -1e-5])
def test_every_trainer_refuses_a_learning_rate_that_is_none(cls: type[Config], rate: float) -> None:
    with pytest.raises(ValueError, match="learning_rate"):
        cls.model_validate({"learning_rate": rate})


@pytest.mark.parametrize("key", ["rate", "inner.rounds", "inner.factor"])
def test_true_is_no_number(file: Path, key: str) -> None:
    said = f"{key}=true: {key}: true or false, where a number belongs; write the number"
    assert refused(file, f"{key}=true") == [said]
    assert load_config(Outer, file, ["inner.loud=true"]).inner.loud


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("place: 3\n", "c.yaml:1:8: place: "),
        ("place: x\nrate: fast\n", "c.yaml:2:7: rate: Input should be a valid number"),
        ("place: x\nrate: 1.5\n", "c.yaml:2:7: rate: Input should be less than 1"),
        ("place: x\nnames: [a, 3]\n", "c.yaml:2:12: names.1: "),
        ("place: x\nnames: a\n", "c.yaml:2:8: names: Input should be a valid list; write a list"),
        ("place: x\ninner:\n  rounds: -1\n", "c.yaml:3:11: inner.rounds: Input should be greater than or equal to 0"),
        ("place: x\ninner: 3\n", "c.yaml:2:8: inner: "),
        ("place: x\nrate: 0.1\nrate: 0.2\n", "c.yaml:3:1: the key 'rate' is there already, in line 2"),
    ],
)
def test_a_bad_value_in_a_file_is_named_by_its_place(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    (found,) = refused(path)
    assert found.startswith(f"{tmp_path}/{said}"), found


@pytest.mark.parametrize(
    ("words", "blamed"),
    [
        (["rate=[1"], "rate=[1: bad YAML"),
        (["rate=&x 1"], "rate=&x 1: an anchor"),
        (["inner.ronds=1"], "inner.ronds=1: unknown key 'ronds'; did you mean 'rounds'?"),
        (["iner.rounds=1"], "iner.rounds=1: unknown key 'iner'; did you mean 'inner'?"),
        (["a..b=1"], "a..b=1: unknown key 'a'"),
        (["names=[a, {}]"], "names=[a, {}]: names.1"),
        (["rate=2", "rate=3"], "rate=3: "),
        (["inner={rounds: 1}", "inner.rounds=-1"], "inner.rounds=-1: "),
        (["inner.rounds=-1", "inner={rounds: -2}"], "inner={rounds: -2}: "),
        (["inner={rounds: -2}", "inner.loud=true"], "inner={rounds: -2}: "),
    ],
)
def test_the_word_that_is_to_blame_is_named(file: Path, words: list[str], blamed: str) -> None:
    (found,) = refused(file, *words)
    assert found.startswith(blamed), found


def test_of_two_words_for_one_key_the_last_wins(file: Path) -> None:
    assert load_config(Outer, file, ["rate=0.3", "rate=0.4"]).rate == 0.4


def test_a_good_word_mends_a_bad_file(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("rate: 7\n")
    assert load_config(Outer, path, ["rate=0.5", "place=x"]).rate == 0.5


def test_without_a_file_what_is_missing_is_missing_in_the_command_line() -> None:
    assert refused(None) == ["command line: 'place' is missing; add it"]
    assert refused(None, "rate=0.5") == ["command line: 'place' is missing; add it"]


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
