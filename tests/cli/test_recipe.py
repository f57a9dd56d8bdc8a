"""How recipes are started."""

import sys
from pathlib import Path

import pytest
from pydantic import Field

from cai.cli.recipe import run_recipe
from cai.config import Config


class Settings(Config):
    rate: float = Field(0.1, gt=0)
    """How fast, per step."""
    out: Path


def start(monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, list[Settings]]:
    seen: list[Settings] = []
    monkeypatch.setattr("sys.argv", ["recipe.py", *words])
    monkeypatch.setattr("cai.cli.recipe.leave", sys.exit)
    with pytest.raises(SystemExit) as ended:
        run_recipe(Settings, seen.append, about="A recipe.")
    return int(ended.value.code or 0), seen


def test_words_become_a_config(monkeypatch: pytest.MonkeyPatch) -> None:
    assert start(monkeypatch, "out=there", "rate=0.5") == (0, [Settings(out=Path("there"), rate=0.5)])


def test_a_file_and_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("out: here\nrate: 2\n")
    code, seen = start(monkeypatch, "--config", str(tmp_path / "c.yaml"), "rate=3")
    assert (code, seen[0].rate, seen[0].out) == (0, 3.0, Path("here"))


def test_a_wrong_setting_ends_with_2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert start(monkeypatch, "out=there", "raet=1") == (2, [])
    assert capsys.readouterr().err.strip() == "raet=1: unknown key 'raet'; did you mean 'rate'?"


def test_a_wrong_key_in_the_file_is_named_by_its_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("out: here\nraet: 2\n")
    assert start(monkeypatch, "--config", str(path)) == (2, [])
    assert capsys.readouterr().err == f"{path}:2:1: unknown key 'raet'; did you mean 'rate'?\n"


def test_a_file_that_is_not_there_ends_with_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(monkeypatch, "--config", "nowhere.yaml", "out=x") == (2, [])
    assert capsys.readouterr().err.startswith("nowhere.yaml: can't be read")


def test_an_option_that_is_none_ends_with_2(monkeypatch: pytest.MonkeyPatch) -> None:
    assert start(monkeypatch, "out=x", "--rate", "3") == (2, [])


def test_help_lists_the_settings(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert start(monkeypatch, "--help") == (0, [])
    shown = capsys.readouterr().out
    assert "rate  (0.1)" in shown
    assert "How fast, per step." in shown
    assert "out  (required)" in shown
