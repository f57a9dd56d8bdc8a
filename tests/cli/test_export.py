"""`cai data export`, and `--push-to-hub`."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cai.cli.main import app
from cai.engines.scripted import ScriptedEngine
from cai.generate import pipeline
from tests.generate.answers import reply
from tests.generate.test_pipeline import prompts

__all__ = ["prompts"]


@pytest.fixture(autouse=True)
def _scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "build_engine", lambda config: ScriptedEngine(reply))


def run(*words: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(map(str, words)))
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_a_run_is_made_a_data_set(prompts: Path, tmp_path: Path, form: str) -> None:
    out = tmp_path / "out"
    assert run("generate", f"prompts=[{prompts}]", f"out={out}", "rounds=1")[0] == 0
    code, said, told = run("data", "export", out, "--format", form)
    assert code == 0, told
    assert said == f"{out / 'dataset'}: 9 rows\n"
    assert (out / f"dataset/data/train-00000-of-00001.{form}").is_file()
    assert "# out\n" in (out / "dataset/README.md").read_text()


def test_what_cannot_be_exported_ends_with_2(tmp_path: Path) -> None:
    for words in ((tmp_path,), (tmp_path, "--format", "csv"), (tmp_path, "--push-to-hub", "a/b/c")):
        assert run("data", "export", *words)[0] == 2


def test_a_run_is_uploaded(prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pushed: list[tuple[Path, str, bool]] = []

    def push(folder: Path, name: str, *, private: bool) -> str:
        pushed.append((folder, name, private))
        return "https://hub/mine"

    monkeypatch.setattr("cai.records.hub.push_dataset", push)
    out = tmp_path / "out"
    code, said, told = run("generate", f"prompts=[{prompts}]", f"out={out}", "rounds=1", "--push-to-hub", "me/mine")
    assert code == 0, told
    assert said.splitlines()[-1] == "https://hub/mine"
    assert "# mine\n" in (out / "dataset/README.md").read_text()
    assert run("data", "export", out, "--push-to-hub", "me/other", "--private")[0] == 0
    assert pushed == [(out / "dataset", "me/mine", False), (out / "dataset", "me/other", True)]


def test_no_name_is_told_before_the_work(prompts: Path, tmp_path: Path) -> None:
    words = ("generate", f"prompts=[{prompts}]", f"out={tmp_path / 'out'}")
    assert run(*words, "--push-to-hub", "a/b/c")[0] == 2
    assert run(*words, "--push-to-hub", "a/b", "--shard", "1/2")[0] == 2
    assert not (tmp_path / "out").exists()
