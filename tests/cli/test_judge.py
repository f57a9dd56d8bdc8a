"""`cai judge audit` on judges that are known, and once on the real model."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cai.cli import judge as module
from cai.cli.judge import judge
from tests.label.test_floor import Coin
from tests.label.test_pipeline import LengthJudge


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "people.jsonl"
    rows = [
        {"prompt": f"Q{n}", "chosen": f"a long answer {n}", "rejected": f"no {n}", "subset": "even" if n % 2 else "odd"}
        for n in range(40)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    made = {"contrastive": LengthJudge, "pairwise": Coin}
    monkeypatch.setattr("cai.judges.build.build_judge", lambda config, *args, **kwargs: made[config.kind]())


def run(*words: object) -> tuple[int, str, str]:
    result = CliRunner(env={"COLUMNS": "80"}).invoke(judge, ["audit", *map(str, words)])
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.usefixtures("known")
def test_the_table_fits_and_says_which_judge_is_no_better_than_a_coin(pairs: Path) -> None:
    code, said, _ = run("--on", pairs, "--judge", "contrastive", "--judge", "pairwise", "--limit", 30)
    assert code == 0
    assert max(map(len, said.splitlines())) <= 80
    assert "…" not in said
    assert "pairwise: no better than a coin on these pairs" in said
    assert "contrastive: no better" not in said
    assert "Krippendorff's alpha between the judges" in said
    assert "even" in said


@pytest.mark.usefixtures("known")
def test_json_has_all_figures(pairs: Path, tmp_path: Path) -> None:
    code, said, _ = run("--on", pairs, "--judge", "contrastive", "--json", "--out", tmp_path / "out")
    assert code == 0
    [found] = json.loads(said)["audits"]
    assert (found["pairs"], found["accuracy"], found["abstained"]) == (40, 1.0, 0)
    assert json.loads(said)["alpha"] is None
    kept = (tmp_path / "out/contrastive/judgements.jsonl").read_text().splitlines()
    assert len(kept) == 40
    assert all(json.loads(line)["prob"] > 0.5 for line in kept)


def test_what_is_wrong_is_told_before_a_model_is_loaded(pairs: Path, tmp_path: Path) -> None:
    assert run("--on", pairs, "--judge", "oracle")[0] == 2
    code, _, told = run("--on", tmp_path / "none.jsonl")
    assert code == 2
    assert "no such file" in told


@pytest.mark.model
@pytest.mark.slow
def test_the_real_model_is_audited(pairs: Path) -> None:
    code, said, _ = run("--on", pairs, "--judge", "pairwise", "--limit", 4, "--json")
    assert code == 0
    assert json.loads(said)["audits"][0]["flip_rate"] is not None


def test_a_share_that_is_not_known_is_a_dash() -> None:
    assert module._percent(None) == "–"
