"""`cai label`: a front to the recipe, and the tables of labels."""

import json
import re
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from cai.cli.command import ends_well
from cai.cli.label import label
from cai.cli.main import app
from cai.engines.scripted import ScriptedEngine
from cai.label import pipeline
from tests.label.test_pipeline import LengthJudge, reply


@pytest.fixture(autouse=True)
def _scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "build_engine", lambda config: ScriptedEngine(reply))
    monkeypatch.setattr(pipeline, "build_judge", lambda *args, **kwargs: LengthJudge())


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"Question {n}?"}) + "\n" for n in range(30)))
    return path


def run(*words: object) -> tuple[int, str, str]:
    app = typer.Typer()
    app.command()(ends_well(label))
    result = CliRunner(env={"COLUMNS": "80"}).invoke(app, list(map(str, words)))
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def made(prompts: Path, tmp_path: Path) -> Path:
    code, _, told = run(f"prompts=[{prompts}]", f"out={tmp_path / 'out'}", "principles_per_label=2")
    assert code == 0, told
    return tmp_path / "out"


def test_a_file_of_settings_and_words_over_it(prompts: Path, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f"prompts: [{prompts}]\nout: {tmp_path / 'a'}\npairs: {{kind: best_of, n: 3}}\n")
    code, _, told = run("--config", path, f"out={tmp_path / 'b'}", "pairs.n=4")
    assert code == 0, told
    assert not (tmp_path / "a").exists()
    assert len((tmp_path / "b/responses.jsonl").read_text().splitlines()) == 4 * 30
    assert json.loads((tmp_path / "b/config.json").read_text())["pairs"]["n"] == 4
    code, _, told = run("--config", path, "pairs.m=4")
    assert code == 2
    assert "pairs.m=4: unknown key 'm'" in told


def test_the_report_shows_the_labels_and_what_has_none(made: Path) -> None:
    code, said, _ = run("--report", made)
    assert code == 0
    assert max(map(len, said.splitlines())) <= 80
    summary = json.loads((made / "summary.json").read_text())
    assert f"{summary['labels']} labels by length, pairs of samples" in said
    assert re.search(r"the order decides 0.% of \d+: 20\.0 points on average to the one shown first", said)
    assert "disagree by 0.00 logits" in said
    for reason, n in summary["dropped"].items():
        assert f"{n} pair" in said
        assert reason.removeprefix("label: ") in said


def test_the_report_as_json_has_everything(made: Path) -> None:
    code, said, _ = run("--report", made, "--json")
    assert code == 0
    found = json.loads(said)
    summary = json.loads((made / "summary.json").read_text())
    assert found["labels"] == summary["labels"] == sum(found["sureness"])
    assert sum(drop["n"] for drop in found["dropped"]) == 30 - found["labels"]
    assert found["disagreement"] == {"labels": found["labels"], "mean": 0.0}
    assert sum(own["labels"] for own in found["by_principle"].values()) == 2 * found["labels"]


def test_a_folder_without_labels_is_told(tmp_path: Path) -> None:
    code, _, told = run("--report", tmp_path / "none")
    assert code == 2
    assert "no labels here; give the folder that out= of cai label named" in told


def test_shards_are_merged_by_the_command(prompts: Path, tmp_path: Path, made: Path) -> None:
    prompts.write_text(prompts.read_text() + "[]\n")
    for number in (1, 2):
        words = (f"prompts=[{prompts}]", f"out={tmp_path / 'parts'}", "principles_per_label=2")
        code, _, told = run(*words, "--shard", f"{number}/2", "--keep-going")
        assert code == 0, told
    result = CliRunner().invoke(app, ["data", "merge", str(tmp_path / "parts")])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"{tmp_path / 'parts'}: ")
    assert "labels" in result.stdout
    assert (tmp_path / "parts/pairs.jsonl").read_bytes() == (made / "pairs.jsonl").read_bytes()
    assert len((tmp_path / "parts/rejected.jsonl").read_text().splitlines()) == 1
