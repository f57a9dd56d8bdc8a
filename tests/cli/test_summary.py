"""The short table at the end of a run."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from cai.cli.summary import print_summary


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
    (tmp_path / "gen-1" / "ppo").mkdir()
    return tmp_path


@pytest.mark.parametrize("width", [80, 120])
def test_it_says_what_was_made_and_what_was_found(run: Path, width: int) -> None:
    out = io.StringIO()
    print_summary(run, run / "report.html", console=Console(file=out, width=width))
    said = out.getvalue()
    assert "12 drafts, 8 critiques, 8 revisions, 7 preference labels" in said
    assert "no difference shown" in said
    assert "preference model *" in said
    assert "46 to 66 %" in said
    assert "not independent" in said
    assert "+17 to +83 points" in said
    assert f"{run / 'report.html'}" in said
    assert f"{run / 'gen-1' / 'ppo' / 'model'}" in said
    assert "\x1b[" not in said, "no colours where there is no terminal"
