"""Shards of a labelling run: run apart, joined, and the same bytes as a run that was never divided."""

import json
from pathlib import Path
from typing import Any

import pytest

from cai.engines.base import GenerateRequest
from cai.engines.scripted import ScriptedEngine
from cai.errors import InputError
from cai.label import pipeline
from cai.label.merge import merge_labels
from cai.label.pipeline import run_label
from tests.label.test_pipeline import LengthJudge, judge, reply, settings

__all__ = ["judge"]

MADE = ("responses.jsonl", "preferences.jsonl", "pairs.jsonl", "summary.json", "result.json")


def content(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in MADE}


def divided(tmp_path: Path, **more: object) -> Path:
    for number in (2, 1):
        run_label(settings(tmp_path, "parts", shard=f"{number}/2", **more))
    return tmp_path / "parts"


@pytest.mark.parametrize("pairs", [{"kind": "samples"}, {"kind": "models", "other": {"model": "b"}}])
def test_shards_joined_are_the_run_that_was_never_divided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, judge: LengthJudge, pairs: dict[str, Any]
) -> None:
    monkeypatch.setattr(pipeline, "build_engine", lambda config: ScriptedEngine(reply, model=config.model))
    run_label(settings(tmp_path, "whole", pairs=pairs))
    parts = divided(tmp_path, pairs=pairs)
    keys = [
        json.loads(line)["key"] for path in parts.glob("*/responses.jsonl") for line in path.read_text().splitlines()
    ]
    assert len(keys) == len(set(keys)) == 2 * 12, "no shard does another's work"
    for folders, out in (([parts], parts), (sorted(parts.glob("shard-*"), reverse=True), tmp_path / "elsewhere")):
        merge_labels(folders, out)
        assert content(out) == content(tmp_path / "whole")
    run_label(settings(tmp_path, "elsewhere", pairs=pairs))
    assert content(tmp_path / "elsewhere") == content(tmp_path / "whole"), "the whole is a run like any other"


def test_a_shard_that_was_run_twice_is_taken_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, judge: LengthJudge
) -> None:
    run_label(settings(tmp_path, "whole"))
    parts = divided(tmp_path)

    def other(request: GenerateRequest, seed: int) -> str:
        return "other " + reply(request, seed)

    monkeypatch.setattr(pipeline, "build_engine", lambda config: ScriptedEngine(other))
    run_label(settings(tmp_path, "again", shard="2/2"))
    merge_labels([parts, tmp_path / "again"], tmp_path / "out")
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_bad_rows_are_set_aside_and_counted_as_in_the_whole(tmp_path: Path, judge: LengthJudge) -> None:
    config = settings(tmp_path, "whole", keep_going=True)
    (path,) = config.prompts
    path.write_text(path.read_text() + '{"prompt": ""}\n')
    run_label(config)
    for number in (1, 2):
        run_label(config.model_copy(update={"out": tmp_path / "parts", "shard": f"{number}/2"}))
    merge_labels([tmp_path / "parts"], tmp_path / "parts")
    assert content(tmp_path / "parts") == content(tmp_path / "whole")
    assert json.loads((tmp_path / "parts/result.json").read_text())["rows"]["rejected"] == 1
    (bad,) = map(json.loads, (tmp_path / "parts/rejected.jsonl").read_text().splitlines())
    assert bad["line"] == 13


def test_what_is_no_whole_run_is_refused(tmp_path: Path, judge: LengthJudge) -> None:
    parts = divided(tmp_path)
    with pytest.raises(InputError, match="1 shards are missing: 1/2"):
        merge_labels([parts / "shard-2-of-2"], tmp_path / "out")
    run_label(settings(tmp_path, "seed", shard="1/2", seed=1))
    with pytest.raises(InputError, match="made with other settings or prompts than"):
        merge_labels([parts, tmp_path / "seed"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
