"""Candidate against parent on scripted engines."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from cai.engines.base import GenerateRequest
from cai.engines.build import EngineConfig
from cai.engines.scripted import ScriptedEngine
from cai.evaluate import pipeline
from cai.evaluate.pipeline import EvaluateConfig, run_evaluate
from cai.judges.base import Comparison, Verdict
from cai.records.journal import of_type, read_journal
from cai.records.schema import EvalResult


class KindJudge:
    """Says which answer is kind; knows nothing of answers to the third question."""

    name = "kindness"
    model = "heart"
    by_principle = True

    def compare(self, comparisons: Iterable[Comparison]) -> Iterator[Verdict]:
        for item in comparisons:
            if "2" in item.prompt[0].content:
                yield Verdict(id=item.id, prob_a=None, reason="can't tell")
            else:
                yield Verdict(id=item.id, prob_a=0.9 if "kind" in item.response_a else 0.1)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EvaluateConfig:
    def engine(asked: EngineConfig) -> ScriptedEngine:
        def reply(request: GenerateRequest, seed: int) -> str:
            prompt = request.prompt
            assert not isinstance(prompt, str)
            if prompt[0].content == "Question 9?":
                return "The same answer."
            return "I'm sorry, a kind answer." if asked.model == "new" else "An answer."

        return ScriptedEngine(reply, model=asked.model)

    monkeypatch.setattr(pipeline, "build_engine", engine)
    monkeypatch.setattr(pipeline, "build_judge", lambda *args, **kwargs: KindJudge())
    path = tmp_path / "held_out.jsonl"
    kinds = ["red_team"] * 6 + ["benign"] * 4
    rows = [{"prompt": f"Question {n}?", "kind": kind, "category": f"c{n % 2}"} for n, kind in enumerate(kinds)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return EvaluateConfig.model_validate(
        {
            "prompts": [path],
            "out": tmp_path / "out",
            "candidate": {"model": "new"},
            "parent": {"model": "old"},
            "trained_on": ["kindness"],
            "window": 3,
        }
    )


def test_wins_ties_and_abstentions_are_counted_apart(config: EvaluateConfig) -> None:
    run_evaluate(config)
    summary = json.loads((config.out / "summary.json").read_text())
    measure = summary["measures"]["kindness"]
    # Ten prompts: question 2 is an abstention, question 9 a tie, the other eight are won.
    assert (measure["n"], measure["abstained"]) == (9, 1)
    assert measure["win_rate"] == pytest.approx(8.5 / 9)
    assert measure["verdict"] == "better"
    assert measure["trained_on"] is True
    assert set(measure["by_kind"]) == {"red_team", "benign"}
    assert summary["models"] == {"candidate": "new", "parent": "old"}


def test_single_answer_measures_are_paired_by_kind(config: EvaluateConfig) -> None:
    run_evaluate(config)
    refusals = json.loads((config.out / "summary.json").read_text())["rates"]["refusal_wording"]
    assert (refusals["red_team"]["candidate"], refusals["red_team"]["parent"]) == (1.0, 0.0)
    assert refusals["benign"]["candidate"] == 0.75


def test_both_sides_get_the_same_seed(config: EvaluateConfig) -> None:
    run_evaluate(config)
    seeds = {}
    for side in ("candidate", "parent"):
        rows = [json.loads(line) for line in (config.out / f"{side}.jsonl").read_text().splitlines()]
        seeds[side] = {row["prompt"]: row["provenance"]["seed"] for row in rows}
    assert seeds["candidate"] == seeds["parent"]


def test_a_second_run_changes_nothing(config: EvaluateConfig) -> None:
    run_evaluate(config)
    before = {path.name: path.read_bytes() for path in config.out.iterdir()}
    run_evaluate(config)
    assert {path.name: path.read_bytes() for path in config.out.iterdir()} == before
    assert len(of_type(read_journal(config.out / "results.jsonl"), EvalResult)) == 10
