"""The short table at the end of a run."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from cai.cli.summary import NEXT, print_summary


@pytest.fixture
def run(tmp_path: Path) -> Path:
    def write(name: str, value: object) -> None:
        path = tmp_path / "gen-1" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value))

    write("generate/result.json", {"counts": {"drafts": 12, "critiques": 8, "revisions": 8}})
    write("label/result.json", {"counts": {"labels": 7}})
    write("evaluate/result.json", {"counts": {"compared": 96}})
    measure = {"n": 96, "abstained": 0, "win_rate": 0.56, "low": 0.46, "high": 0.66, "verdict": "no difference shown"}
    measures = {
        "contrastive": {**measure, "trained_on": False},
        "preference_model": {**measure, "trained_on": True, "verdict": "better"},
    }
    change = {"n": 48, "candidate": 0.5, "parent": 0.0, "low": 0.17, "high": 0.83}
    write("evaluate/summary.json", {"measures": measures, "rates": {"refusal_wording": {"red_team": change}}})
    (tmp_path / "run.json").write_text(json.dumps({"config": {"generations": 1, "rl": "ppo"}}))
    return tmp_path


def printed(run: Path, report: Path, width: int) -> str:
    out = io.StringIO()
    print_summary(run, report, console=Console(file=out, width=width))
    return out.getvalue()


@pytest.mark.parametrize("width", [80, 120])
def test_it_says_what_was_made_and_what_was_found(run: Path, width: int) -> None:
    said = printed(run, run / "report.html", width)
    assert "12 drafts, 8 critiques, 8 revisions, 7 preference labels" in said
    assert "no difference shown" in said
    assert "preference model *" in said
    assert "46 to 66 %" in said
    assert "not independent" in said
    assert "+17 to +83 points" in said
    assert f"{run / 'report.html'}" in said
    assert f"{run / 'gen-1' / 'ppo' / 'model'}" in said
    assert "\x1b[" not in said, "no colours where there is no terminal"


@pytest.mark.parametrize("width", [80, 120])
def test_it_fits_the_window_and_breaks_no_word(run: Path, width: int) -> None:
    said = printed(run, Path("r.html"), width)
    assert "…" not in said
    assert all(len(line.rstrip()) <= width for line in said.splitlines() if str(run) not in line)
    one_line = " ".join(said.split())
    for phrase in (*NEXT.split(), "7 preference labels, 96 held-out prompts compared", "no difference shown"):
        assert phrase in one_line
    rows = [line for line in said.splitlines() if "%" in line and "to" in line]
    assert len(rows) == 3, "a row for each judge and each kind of prompts"
    assert all("shown" in line or "better" in line or "points" in line for line in rows)


def test_the_note_stands_under_the_table(run: Path) -> None:
    lines = printed(run, Path("r.html"), 80).splitlines()
    note = next(index for index, line in enumerate(lines) if line.startswith("* not independent"))
    assert "preference model *" in lines[note - 2]


def test_what_an_earlier_run_left_is_not_shown(run: Path) -> None:
    for name in ("gen-1/ppo", "gen-2"):
        (run / name).mkdir()
    (run / "run.json").write_text(json.dumps({"config": {"generations": 1, "rl": "dpo"}}))
    assert f"{run / 'gen-1' / 'dpo' / 'model'}" in printed(run, Path("r.html"), 80)


def test_brackets_in_a_path_are_no_markup(run: Path) -> None:
    assert "runs/[bold]/[/x]/report.html" in printed(run, Path("runs/[bold]/[/x]/report.html"), 80)
