import json
import os
import shutil
from pathlib import Path

import pytest

from cai.errors import StorageError
from cai.storage import hash_file
from cai.successor import stage as module
from cai.successor.plan import StagePlan
from cai.successor.stage import begin, content_hash, files_of, fingerprint, finish, state
from tests.successor.samples import StageConfig, begin_run, stage, write


@pytest.fixture
def run(tmp_path: Path) -> Path:
    begin_run(tmp_path / "run")
    return tmp_path / "run"


def digest(plan: StagePlan, run: Path) -> str:
    return fingerprint(plan, run).digest


def do(plan: StagePlan, run: Path, content: bytes = b"weights") -> None:
    begin(plan, fingerprint(plan, run))
    write(plan.folder / "model" / "model.safetensors", content)
    finish(plan, 1.25)


# What a fingerprint depends on


def test_a_fingerprint_does_not_depend_on_where_the_run_is(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "a much longer name" / "run"
    shutil.copytree(run, other)
    assert digest(stage(run), run) == digest(stage(other), other)
    assert fingerprint(stage(run), run).reads == {
        "gen-1/generate/sft.jsonl": hash_file(run / "gen-1/generate/sft.jsonl")
    }


def test_an_input_outside_the_run_counts_by_its_content_and_not_by_its_folder(run: Path, tmp_path: Path) -> None:
    one, two = write(tmp_path / "a" / "p.jsonl", b"x"), write(tmp_path / "b" / "p.jsonl", b"x")
    assert digest(stage(run, more=(one,)), run) == digest(stage(run, more=(two,)), run)
    two.write_bytes(b"y")
    assert digest(stage(run, more=(one,)), run) != digest(stage(run, more=(two,)), run)


def test_a_folder_beside_the_run_with_a_like_name_is_not_inside_it(tmp_path: Path) -> None:
    seen = []
    for name in ("1", "2"):
        run = tmp_path / name / "run"
        begin_run(run)
        beside = write(tmp_path / name / "run2" / "p.jsonl", b"x")
        seen.append(digest(stage(run, more=(beside,)), run))
    assert seen[0] == seen[1]


@pytest.mark.parametrize("position", [0, 5, -1])
def test_one_byte_of_an_input_changes_the_fingerprint(run: Path, position: int) -> None:
    before = digest(stage(run), run)
    path = run / "gen-1" / "generate" / "sft.jsonl"
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    assert digest(stage(run), run) != before


def test_one_byte_of_a_file_in_an_input_folder_changes_the_fingerprint(run: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    write(model / "config.json", b"{}")
    weights = write(model / "deep" / "model.safetensors", b"1234")
    plan = stage(run, more=(model,))
    before = digest(plan, run)
    weights.write_bytes(b"1235")
    changed = digest(plan, run)
    weights.rename(model / "model.safetensors")
    assert len({before, changed, digest(plan, run)}) == 3, "a file's name counts too"


def test_two_inputs_that_change_places_are_a_change(run: Path, tmp_path: Path) -> None:
    one, two = write(tmp_path / "a" / "one", b"1"), write(tmp_path / "b" / "one", b"2")
    assert digest(stage(run, more=(one, two)), run) != digest(stage(run, more=(two, one)), run)


def test_settings_processes_name_and_version_change_the_fingerprint(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plans = [stage(run), stage(run, steps=4), stage(run, processes=2), stage(run, name="dpo")]
    digests = {digest(plan, run) for plan in plans}
    monkeypatch.setattr(module, "__version__", "9.9.9")
    assert len(digests | {digest(stage(run), run)}) == 5


def test_where_metrics_are_sent_does_not_count(run: Path) -> None:
    plan = stage(run)
    assert isinstance(plan.config, StageConfig)
    tracked = plan.config.model_copy(update={"report_to": ["wandb"]})
    assert digest(StagePlan("sft", 1, tracked, plan.reads, 1), run) == digest(plan, run)


def test_what_is_no_file_counts_by_its_name(run: Path) -> None:
    assert content_hash(Path("org/model")) == "name:org/model"
    assert digest(stage(run, more=(Path("org/a"),)), run) != digest(stage(run, more=(Path("org/b"),)), run)


def test_hidden_files_checkpoints_and_trackers_are_no_results(tmp_path: Path) -> None:
    for name in ("a", "b/c", ".hidden", "b/.cache/x", "checkpoints/step-1/x", "trackers/x"):
        write(tmp_path / name, b"x")
    assert sorted(files_of(tmp_path)) == ["a", "b/c"]


def test_a_file_that_was_replaced_in_the_same_instant_is_hashed_again(tmp_path: Path) -> None:
    path = write(tmp_path / "a", b"old")
    about = path.stat()
    before = content_hash(path)
    replacement = write(tmp_path / "b", b"new")
    os.utime(replacement, ns=(about.st_atime_ns, about.st_mtime_ns))
    replacement.replace(path)
    assert path.stat().st_mtime_ns == about.st_mtime_ns
    assert content_hash(path) != before


# What state a folder is in


def test_a_stage_goes_from_new_over_begun_to_done(run: Path) -> None:
    plan = stage(run)
    expected = fingerprint(plan, run)
    assert state(plan, expected) == "new"
    begin(plan, expected)
    assert state(plan, expected) == "begun"
    write(plan.folder / "model" / "model.safetensors", b"weights")
    assert state(plan, expected) == "begun"
    made = finish(plan, 1.25)
    assert list(made) == ["model/model.safetensors"]
    assert state(plan, expected) == "done"
    assert json.loads((plan.folder / "manifest.json").read_text()) == {"files": made, "seconds": 1.2}
    about = json.loads((plan.folder / "stage.json").read_text())
    assert about["fingerprint"] == expected.digest
    assert about["config"]["steps"] == 3


def test_looking_changes_nothing(run: Path) -> None:
    plan = stage(run)
    do(plan, run)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert state(plan, fingerprint(plan, run)) == "done"
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_a_done_stage_stays_done_when_the_run_moves(run: Path, tmp_path: Path) -> None:
    do(stage(run), run)
    moved = tmp_path / "elsewhere"
    run.rename(moved)
    assert state(stage(moved), fingerprint(stage(moved), moved)) == "done"


def test_what_goes_on_in_checkpoints_and_trackers_leaves_a_stage_done(run: Path) -> None:
    plan = stage(run)
    do(plan, run)
    write(plan.folder / "checkpoints" / "step-1", b"x")
    write(plan.folder / "trackers" / "x", b"x")
    assert state(plan, fingerprint(plan, run)) == "done"


def test_a_stage_of_other_settings_is_set_aside_whole(run: Path) -> None:
    do(stage(run), run)
    other = stage(run, steps=4)
    assert state(other, fingerprint(other, run)) == "new"
    assert not other.folder.exists()
    assert (run / "gen-1" / "sft.old-1" / "model" / "model.safetensors").read_bytes() == b"weights"
    do(other, run)
    assert state(stage(run), fingerprint(stage(run), run)) == "new"
    assert (run / "gen-1" / "sft.old-2" / "stage.json").is_file()


def test_a_stage_that_was_cut_off_under_other_settings_is_set_aside_too(run: Path) -> None:
    begin(stage(run), fingerprint(stage(run), run))
    other = stage(run, steps=4)
    assert state(other, fingerprint(other, run)) == "new"
    assert (run / "gen-1" / "sft.old-1").is_dir()


def edited(folder: Path) -> None:
    (folder / "model" / "model.safetensors").write_bytes(b"Weights")


def lost(folder: Path) -> None:
    (folder / "model" / "model.safetensors").unlink()


def added(folder: Path) -> None:
    write(folder / "model" / "other.safetensors", b"x")


def unlisted(folder: Path) -> None:
    (folder / "manifest.json").write_text("{}")


@pytest.mark.parametrize("harm", [edited, lost, added, unlisted])
def test_a_stage_whose_files_are_not_those_of_its_manifest_is_set_aside(run: Path, harm: object) -> None:
    assert callable(harm)
    plan = stage(run)
    do(plan, run)
    harm(plan.folder)
    assert state(plan, fingerprint(plan, run)) == "new"
    assert not plan.folder.exists()
    assert (run / "gen-1" / "sft.old-1").is_dir()


def test_files_of_unknown_origin_are_never_taken_for_the_stages_own(run: Path) -> None:
    plan = stage(run)
    write(plan.folder / "model" / "model.safetensors", b"somebody's")
    assert state(plan, fingerprint(plan, run)) == "new"
    assert (run / "gen-1" / "sft.old-1" / "model" / "model.safetensors").is_file()


def test_a_stage_with_a_damaged_note_is_set_aside(run: Path) -> None:
    plan = stage(run)
    do(plan, run)
    for content in (b"", b"{", b"[]", b"\xff"):
        (plan.folder / "stage.json").write_bytes(content)
        assert state(plan, fingerprint(plan, run)) == "new"
        do(plan, run)


def test_a_manifest_that_cannot_be_read_means_that_the_stage_is_not_done(run: Path) -> None:
    plan = stage(run)
    do(plan, run)
    (plan.folder / "manifest.json").write_text('{"files": ')
    assert state(plan, fingerprint(plan, run)) == "begun"


def test_a_kill_before_the_first_note_leaves_nothing_to_set_aside(run: Path) -> None:
    plan = stage(run)
    write(plan.folder / ".stage.json.x7", b"{")
    assert state(plan, fingerprint(plan, run)) == "new"
    assert not (run / "gen-1" / "sft.old-1").exists()


def test_a_folder_that_cannot_be_set_aside_is_named(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    do(stage(run), run)
    monkeypatch.setattr(os, "rename", refuse)
    other = stage(run, steps=4)
    with pytest.raises(StorageError, match="sft: cannot write: Read-only"):
        state(other, fingerprint(other, run))
