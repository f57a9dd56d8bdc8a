"""`cai generate` and `cai grow`: fronts to the recipes, and the table of rounds."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from cai.cli.command import ends_well
from cai.cli.generate import generate, grow
from cai.engines.base import GenerateRequest
from cai.engines.scripted import ScriptedEngine
from cai.generate import grow as growing
from cai.generate import pipeline
from tests.generate.test_grow import likes_all, writer
from tests.generate.test_pipeline import reply
from tests.label.test_pipeline import LengthJudge


def loud(request: GenerateRequest, seed: int) -> str:
    """Answer in eight words of different length."""
    return reply(request, seed) + "!" * (seed % 50)


@pytest.fixture(autouse=True)
def _scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "build_engine", lambda config: ScriptedEngine(loud))
    monkeypatch.setattr(growing, "build_engine", lambda config: ScriptedEngine(writer, likes_all))
    monkeypatch.setattr("cai.judges.build.build_judge", lambda *args, **kwargs: LengthJudge())


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    rows = [{"prompt": f"Bad question {n}?", "category": "fraud"} for n in range(5)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(*words: object) -> tuple[int, str, str]:
    app = typer.Typer()
    app.command()(ends_well(generate))
    app.command()(ends_well(grow))
    result = CliRunner(env={"COLUMNS": "80"}).invoke(app, list(map(str, words)))
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def made(prompts: Path, tmp_path: Path) -> Path:
    code, _, told = run("generate", f"prompts=[{prompts}]", f"out={tmp_path / 'out'}", "rounds=2")
    assert code == 0, told
    return tmp_path / "out"


def test_generate_makes_what_the_recipe_makes(made: Path) -> None:
    assert len((made / "sft.jsonl").read_text().splitlines()) == 10
    assert json.loads((made / "config.json").read_text())["rounds"] == 2


def test_a_file_of_settings_and_words_over_it(prompts: Path, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f"prompts: [{prompts}]\nout: {tmp_path / 'a'}\nrounds: 3\n")
    assert run("generate", "--config", path, f"out={tmp_path / 'b'}", "rounds=1")[0] == 0
    assert not (tmp_path / "a").exists()
    assert len((tmp_path / "b/sft.jsonl").read_text().splitlines()) == 5
    code, _, told = run("generate", "--config", path, "ronds=1")
    assert code == 2
    assert "unknown key 'ronds'; did you mean 'rounds'?" in told


def test_the_report_has_a_line_for_each_round(made: Path) -> None:
    code, said, _ = run("generate", "--report", made)
    assert code == 0
    assert max(map(len, said.splitlines())) <= 80
    lines = [line.split() for line in said.splitlines()]
    assert ["draft", "5", "0", "8.0", "0%"] in lines
    assert ["2", "5", "5", "8.0", "0%"] in lines
    assert "beats" not in said


def test_the_report_with_a_judge_has_intervals(made: Path) -> None:
    code, said, _ = run("generate", "--report", made, "--judge", "pairwise")
    assert code == 0
    assert max(map(len, said.splitlines())) <= 80
    assert "beats the draft" in said
    code, said, _ = run("generate", "--report", made, "--judge", "pairwise", "--limit", 3, "--json")
    found = json.loads(said)
    assert found["judge"] == "pairwise"
    assert [row["chains"] for row in found["rounds"]] == [3, 3, 3]
    rate, low, high = found["rounds"][1]["wins"]
    assert low - 1e-9 <= rate <= high + 1e-9


def test_what_the_report_lacks_is_told(made: Path, tmp_path: Path) -> None:
    code, _, told = run("generate", "--report", tmp_path / "none")
    assert code == 2
    assert "no chains of critique and revision" in told
    assert run("generate", "--report", made, "--judge", "oracle")[0] == 2
    (made / "config.json").unlink()
    assert run("generate", "--report", made)[0] == 0
    code, _, told = run("generate", "--report", made, "--judge", "pairwise")
    assert code == 2
    assert "nobody knows the prompts" in told


def test_grow_writes_a_prompt_file(prompts: Path, tmp_path: Path) -> None:
    code, _, told = run("grow", f"prompts=[{prompts}]", f"out={tmp_path / 'grown'}", "per_category=3")
    assert code == 0, told
    assert len((tmp_path / "grown/prompts.jsonl").read_text().splitlines()) == 3
    assert run("grow", f"prompts=[{prompts}]", f"out={tmp_path / 'grown'}", "shots=0")[0] == 2
