"""`cai judge` on judges that are known, and once on the real model."""

import json
import re
from pathlib import Path
from typing import get_args

import pytest
from typer.testing import CliRunner

from cai.cli.judge import KINDS, judge, judge_configs
from cai.constitution import load_constitution
from cai.errors import InputError
from cai.judges.build import JudgeKind
from cai.label.learned import load_weights
from tests.label.test_floor import Coin, Obedient, Quiet
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
    monkeypatch.setattr("cai.engines.build.build_engine", lambda config: None)


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


class Long:
    """Scores single answers by their length."""

    name, model, by_principle = "direction", "none", False

    def scores(self, answers: list[tuple[object, str, object]]) -> list[float]:
        return [float(len(text)) for _, text, _ in answers]


def test_single_answers_are_audited_by_their_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = {"direction": Long}  # a judge that only compares is refused before any is built
    monkeypatch.setattr("cai.judges.build.build_judge", lambda config, *args, **kwargs: made[config.kind]())
    monkeypatch.setattr("cai.engines.build.build_engine", lambda config: None)
    path = tmp_path / "answers.jsonl"
    rows = [{"prompt": f"Q{n}", "response": "a" * n, "good": n > 10} for n in range(1, 21)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, said, _ = run("--on", path, "--json")
    assert code == 0
    [found] = json.loads(said)["answers"]
    assert (found["auroc"], found["answers"], found["good"]) == (1.0, 20, 10)
    code, said, _ = run("--on", path)
    assert code == 0
    assert "direction" in said
    assert "1.00" in said
    code, _, told = run("--on", path, "--judge", "contrastive")
    assert code == 2
    assert "'contrastive' compares answers, it scores none alone; name one of direction, pointwise" in told
    code, _, told = run("--on", path, "--learn-weights", tmp_path / "w.json")
    assert code == 2
    assert "--on holds single answers" in told


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


@pytest.mark.usefixtures("known")
def test_votes_are_weighed_by_the_names_that_labels_know_them_by(pairs: Path, tmp_path: Path) -> None:
    kept = tmp_path / "weights.json"
    code, said, _ = run("--on", pairs, "--judge", "contrastive", "--principles", 2, "--learn-weights", kept)
    assert code == 0
    assert "On pairs that the weights were not fitted on: right in 100%" in said
    assert set(load_weights(kept).weights) <= {principle.id for principle in load_constitution("harmless").principles}
    assert len(load_weights(kept).weights) > 5
    code, said, _ = run("--on", pairs, "--judge", "contrastive", "--learn-weights", kept, "--json")
    assert json.loads(said)["weights"] == load_weights(kept).to_plain()
    few = run("--on", pairs, "--judge", "contrastive", "--limit", 10, "--learn-weights", kept)
    assert few[0] == 2
    assert "too few to learn weights from" in few[2]


@pytest.mark.parametrize(
    ("judges", "said"),
    [
        (["--judge", "pairwise", "--judge", "contrastive"], "has one judge, not several"),
        ([], "'direction' votes on the constitution as a whole"),
    ],
)
def test_votes_that_labels_are_not_made_of_are_not_weighed(
    pairs: Path, tmp_path: Path, judges: list[str], said: str
) -> None:
    code, _, told = run("--on", pairs, *judges, "--learn-weights", tmp_path / "weights.json")
    assert code == 2
    assert said in told


@pytest.mark.usefixtures("known")
def test_only_principles_of_a_tag_are_asked_about(pairs: Path, tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(
        "name: r\nversion: '1'\nprinciples:\n"
        "  - {id: kind, text: Be kind., tags: [manner]}\n  - {id: safe, text: Be safe.}\n"
    )
    code, said, _ = run("--on", pairs, "--judge", "contrastive", "--constitution", rules, "--tag", "manner", "--json")
    assert code == 0
    assert set(json.loads(said)["audits"][0]["by_principle"]) == {"kind"}
    code, _, told = attack("--on", pairs, "--judge", "contrastive", "--constitution", rules, "--tag", "maner")
    assert code == 2
    assert "no principle has the tag 'maner'; did you mean 'manner'?" in told


def test_judges_are_named_by_kind_and_by_model_where_two_are_of_one_kind(tmp_path: Path) -> None:
    file = tmp_path / "judge.yaml"
    file.write_text("kind: pairwise\nthoughts: 64\nengine: {model: given, window: 8}\n")
    (name, only), *rest = judge_configs(None, None, file, ["thoughts=32"]).items()
    assert (name, only.thoughts, only.engine.model, rest) == ("pairwise", 32, "given", [])
    found = judge_configs(["pairwise=a/b", "pairwise", "preference_model=pm"], "other", file, None)
    assert {name: (each.kind, each.engine.model, each.engine.window) for name, each in found.items()} == {
        "pairwise=a/b": ("pairwise", "a/b", 8),
        "pairwise": ("pairwise", "other", 8),
        "preference_model": ("preference_model", "pm", 8),
    }
    with pytest.raises(InputError, match="'pairwise' is given twice"):
        judge_configs(["pairwise", "pairwise"], None, None, None)
    with pytest.raises(InputError, match=r"judge\.yaml:2:1: unknown key 'thougts'"):
        judge_configs(None, None, wrong(tmp_path), None)


def wrong(folder: Path) -> Path:
    path = folder / "judge.yaml"
    path.write_text("kind: pairwise\nthougts: 64\n")
    return path


def test_the_help_names_every_kind() -> None:
    assert set(re.split(r", | or ", KINDS)) == set(get_args(JudgeKind))


def attack(*words: object) -> tuple[int, str, str]:
    result = CliRunner(env={"COLUMNS": "80"}).invoke(judge, ["attack", *map(str, words)])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def attacked(monkeypatch: pytest.MonkeyPatch) -> None:
    made = {"contrastive": Quiet, "pairwise": Obedient}
    monkeypatch.setattr("cai.judges.build.build_judge", lambda config, *args, **kwargs: made[config.kind]())
    monkeypatch.setattr("cai.engines.build.build_engine", lambda config: None)


@pytest.mark.usefixtures("attacked")
def test_a_judge_that_gives_in_is_refused_and_one_that_holds_is_not(pairs: Path) -> None:
    code, said, _ = attack("--on", pairs, "--judge", "contrastive", "--limit", 4)
    assert code == 0
    assert "contrastive holds on 4 pairs" in said
    code, said, told = attack("--on", pairs, "--judge", "contrastive", "--judge", "pairwise", "--limit", 4)
    assert code == 3
    assert "pairwise gives in:\n  attacked answers win" in said
    assert max(map(len, said.splitlines())) <= 80
    assert "error: below what a judge must withstand: pairwise\n" in told
    assert attack("--on", pairs, "--judge", "pairwise", "--limit", 4, "--most-gain", 100)[0] == 0


@pytest.mark.usefixtures("attacked")
def test_the_json_of_attacks_has_all_figures_and_the_gate_holds(pairs: Path) -> None:
    code, said, _ = attack("--on", pairs, "--judge", "pairwise", "--limit", 3, "--every", "--json")
    assert code == 3
    (found,) = json.loads(said)["attacks"]
    assert (found["name"], found["pairs"], found["overall"]["trials"]) == ("pairwise", 3, 3 * 56 * 4)
    assert found["missed"]
    assert len(found["families"]) == 16


@pytest.mark.usefixtures("attacked")
def test_without_pairs_the_dozen_that_ships_is_attacked() -> None:
    code, said, _ = attack("--judge", "pairwise", "--most-gain", 100, "--json")
    (found,) = json.loads(said)["attacks"]
    assert (code, found["pairs"]) == (0, 12)
