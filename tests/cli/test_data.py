"""`cai data`: joining shards, and looking at rows before training."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cai.cli.main import app
from cai.engines.scripted import ScriptedEngine
from cai.generate import pipeline
from tests.generate.test_pipeline import prompts, reply
from tests.train.rig import chat, pair, write

__all__ = ["prompts"]


@pytest.fixture(autouse=True)
def _scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "build_engine", lambda config: ScriptedEngine(reply))


def run(*words: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(map(str, words)))
    return result.exit_code, result.stdout, result.stderr


def test_shards_are_made_and_joined(prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for number in (1, 2):
        assert run("generate", f"prompts=[{prompts}]", f"out={out}", "rounds=1", "--shard", f"{number}/2")[0] == 0
    code, said, told = run("data", "merge", out)
    assert code == 0, told
    assert said == f"{out}: 5 critiques, 9 drafts, 7 prompts, 5 revisions, 9 training rows\n"
    assert len((out / "sft.jsonl").read_text().splitlines()) == 9
    assert json.loads((out / "config.json").read_text())["shard"] is None


def test_what_cannot_be_joined_ends_with_2(prompts: Path, tmp_path: Path) -> None:
    assert run("data", "merge", tmp_path, tmp_path)[0] == 2
    code, _, told = run("data", "merge", tmp_path, "--out", tmp_path / "x")
    assert code == 2
    assert "no shard of a run is here" in told
    code, _, told = run("generate", f"prompts=[{prompts}]", f"out={tmp_path / 'out'}", "--shard", "3/2")
    assert code == 2
    assert "is no share of the work" in told


def test_pairs_are_inspected_for_people_and_as_json(tiny_model_dir: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [pair(number, chosen_prob=0.8) for number in range(5)])
    code, said, told = run("data", "inspect", path, "--model", tiny_model_dir)
    assert code == 0, told
    assert "5 pairs of 5 prompts" in said
    assert "Nothing wrong was found." in said
    write(path, [{**pair(number, chosen_prob=0.8), "chosen": "Same.", "rejected": "Same."} for number in range(5)])
    code, said, told = run("data", "inspect", path, "--model", tiny_model_dir, "--json")
    assert code == 2, told  # of no row anything can be learned
    figures = json.loads(said)
    assert figures["labels"] == [0, 0, 0, 0, 0, 0, 0, 0, 5, 0]
    assert [(each["id"], each["severity"]) for each in figures["findings"]] == [("equal-answers", "error")]


def test_rows_are_told_by_the_head_that_they_teach(tiny_model_dir: Path, tmp_path: Path) -> None:
    rows = [pair(number, kind="helpful" if number % 3 else "red_team") for number in range(6)]
    path, heads = write(tmp_path / "rows.jsonl", rows), ["--head", "harmless=red_team", "--head", "helpful=helpful"]
    code, said, told = run("data", "inspect", path, "--model", tiny_model_dir, *heads)
    assert code == 0, told
    assert "harmless 2, helpful 4" in said
    code, said, _ = run("data", "inspect", path, "--model", tiny_model_dir, "--json", *heads)
    assert (code, json.loads(said)["heads"]) == (0, {"harmless": 2, "helpful": 4})
    code, _, told = run("data", "inspect", path, "--model", tiny_model_dir, "--head", "harmless=red_team")
    assert code == 2
    assert f"{path}:2:1: no head learns from rows of the kind 'helpful'" in told
    code, _, told = run("data", "inspect", path, "--model", tiny_model_dir, *heads, "--head", "honest=legal")
    assert code == 2
    assert "heads.honest: no row teaches it" in told
    code, _, told = run("data", "inspect", path, "--model", tiny_model_dir, "--head", "harmless")
    assert code == 2
    assert "write it as harmless=red_team" in told
    chats = write(tmp_path / "chats.jsonl", [chat(0)])
    code, _, told = run("data", "inspect", chats, "--model", tiny_model_dir, *heads)
    assert code == 2
    assert "--head: the rows are chats" in told


def test_chats_are_told_by_their_field(tiny_model_dir: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "chats.jsonl", [chat(number) for number in range(3)])
    code, said, told = run("data", "inspect", path, "--model", tiny_model_dir)
    assert code == 0, told
    assert "3 chats of 3 prompts" in said


def test_rows_that_are_none_and_files_without_rows_end_with_2(tiny_model_dir: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [pair(1), {"x": 1}])
    code, _, told = run("data", "inspect", path, "--model", tiny_model_dir)
    assert code == 2
    assert f"{path}:2:1: no 'chosen' and 'rejected'" in told
    code, _, told = run("data", "inspect", write(tmp_path / "none.jsonl", []), "--model", tiny_model_dir)
    assert code == 2
    assert "no rows" in told
