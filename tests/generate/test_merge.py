"""Shards: run apart, joined, and the same bytes as a run that was never divided."""

import json
import shutil
from pathlib import Path

import pytest

from cai.engines.scripted import ScriptedEngine
from cai.errors import InputError
from cai.generate import pipeline
from cai.generate.merge import merge_shards
from cai.generate.pipeline import GenerateConfig, run_generate
from cai.records.journal import Journal, read_journal
from tests.generate.test_pipeline import prompts, reply, settings

__all__ = ["prompts"]

MADE = ("drafts.jsonl", "critiques.jsonl", "revisions.jsonl", "sft.jsonl", "left_out.jsonl", "result.json")


@pytest.fixture(autouse=True)
def _scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "build_engine", lambda config: ScriptedEngine(reply))


def config(prompts: Path, out: Path, **more: object) -> GenerateConfig:
    return settings(prompts, out, rounds=1, **more)


def content(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in MADE}


@pytest.fixture
def shards(prompts: Path, tmp_path: Path) -> Path:
    """Three shards of a run of five windows, made in some order."""
    for number in (3, 1, 2):
        run_generate(config(prompts, tmp_path / "parts", shard=f"{number}/3"))
    return tmp_path / "parts"


def test_shards_joined_are_the_run_that_was_never_divided(prompts: Path, tmp_path: Path, shards: Path) -> None:
    run_generate(config(prompts, tmp_path / "whole"))
    assert sorted(path.name for path in shards.iterdir()) == [f"shard-{number}-of-3" for number in (1, 2, 3)]
    merge_shards([shards], shards)
    assert content(shards) == content(tmp_path / "whole")
    merge_shards([shards / f"shard-{number}-of-3" for number in (2, 3, 1)], tmp_path / "elsewhere")
    assert content(tmp_path / "elsewhere") == content(tmp_path / "whole")
    merge_shards([shards], shards)
    assert content(shards) == content(tmp_path / "whole"), "joining again changes nothing"


def test_no_shard_does_anothers_work(shards: Path) -> None:
    keys = [record.key for path in sorted(shards.glob("*/drafts.jsonl")) for record in read_journal(path)]
    assert len(keys) == len(set(keys)) == 5 + 2 * 2
    assert all((folder / "sft.jsonl").stat().st_size for folder in shards.iterdir())


def test_a_shard_that_was_run_twice_is_taken_once_and_chains_are_not_mixed(
    prompts: Path, tmp_path: Path, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An engine whose bytes are not the same twice: the same keys for drafts, other texts, other chains.
    monkeypatch.setattr(pipeline, "build_engine", lambda config: ScriptedEngine(lambda r, s: f"other {reply(r, s)}"))
    run_generate(config(prompts, tmp_path / "again", shard="2/3"))
    merge_shards([shards], tmp_path / "once")
    first = tmp_path / "again" / "shard-2-of-3"
    merge_shards([first, *sorted(shards.iterdir())], tmp_path / "twice")
    rows = [json.loads(line) for line in (tmp_path / "twice/sft.jsonl").read_text().splitlines()]
    assert len(rows) == len((tmp_path / "once/sft.jsonl").read_text().splitlines())
    others = {row["record"] for row in rows if row["messages"][-1]["content"].startswith("other")}
    own = {json.loads(line)["record"] for line in (first / "sft.jsonl").read_text().splitlines()}
    assert others == own


def test_the_fuller_of_two_windows_is_taken(prompts: Path, tmp_path: Path, shards: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(shards / "shard-1-of-3", copy)
    (copy / "revisions.jsonl").write_bytes(b"")
    merge_shards([copy, *sorted(shards.iterdir())], tmp_path / "out")
    run_generate(config(prompts, tmp_path / "whole"))
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_what_is_no_whole_run_is_refused(prompts: Path, tmp_path: Path, shards: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(InputError, match="no shard of a run is here"):
        merge_shards([tmp_path], out)
    with pytest.raises(InputError, match="1 shards are missing: 2/3; run them, then merge"):
        merge_shards([shards / "shard-1-of-3", shards / "shard-3-of-3"], out)
    run_generate(config(prompts, tmp_path / "other", shard="1/2"))
    with pytest.raises(InputError, match="shares of 2 and of 3"):
        merge_shards([shards, tmp_path / "other"], out)
    run_generate(config(prompts, tmp_path / "seed", shard="2/3", seed=1))
    with pytest.raises(InputError, match="made with other settings or prompts than"):
        merge_shards([shards, tmp_path / "seed"], out)
    run_generate(config(prompts, tmp_path / "whole"))
    with pytest.raises(InputError, match="this is a whole run, not a shard"):
        merge_shards([shards, tmp_path / "whole"], out)
    (shards / "shard-2-of-3" / "result.json").unlink()
    with pytest.raises(InputError, match="this shard is not finished; give its command again"):
        merge_shards([shards], out)
    assert not out.exists()


def test_prompts_that_are_others_now_are_refused(prompts: Path, tmp_path: Path, shards: Path) -> None:
    moved = prompts.rename(tmp_path / "moved.jsonl")
    with pytest.raises(InputError, match=r"prompts\.jsonl: no such file"):
        merge_shards([shards], tmp_path / "out")
    merge_shards([shards], tmp_path / "out", prompts=[moved])
    moved.write_text(moved.read_text() + '{"prompt": "And one more?"}\n')
    with pytest.raises(InputError, match=r"moved\.jsonl: the file has changed"):
        merge_shards([shards], tmp_path / "out", prompts=[moved])


def test_a_damaged_shard_is_named(tmp_path: Path, shards: Path) -> None:
    path = shards / "shard-2-of-3" / "drafts.jsonl"
    with Journal(path) as journal:
        assert journal.records
    path.write_bytes(path.read_bytes().replace(b"Words", b"Wards", 1))
    with pytest.raises(Exception, match=r"shard-2-of-3/drafts\.jsonl:1:1: damaged record"):
        merge_shards([shards], tmp_path / "out")
