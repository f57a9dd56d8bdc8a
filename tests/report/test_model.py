import json
from pathlib import Path

import pytest

from cai.report.model import GenerationView, read_run


@pytest.fixture
def generation(run_folder: Path) -> GenerationView:
    return read_run(run_folder).generations[0]


def test_the_head_names_what_the_run_is(run_folder: Path) -> None:
    view = read_run(run_folder)
    assert (view.name, view.created, view.seed) == ("run", "2026-11-21T10:00:00Z", "7")
    assert ("name", "SmolLM2-135M-Instruct") in view.model
    assert ("version", "1.0") in view.constitution
    assert ("train.learning_rate", "1e-05") in view.config
    assert view.problems == ()


def test_counts(generation: GenerationView) -> None:
    assert generation.prompts_by_kind == {"red_team": 2, "helpful": 1}
    assert generation.prompts_by_category == {"weapons": 1, "fraud": 1, "cooking": 1}
    assert (generation.drafts, generation.critiques, generation.revisions) == (3, 3, 3)


def test_chains_follow_ids_through_their_rounds(generation: GenerationView) -> None:
    two, one, none = generation.chains
    assert [step.number for step in two.rounds] == [1, 2]
    assert [tuple(part) for part in two.changes] == [
        ("same", "Use a "),
        ("gone", "sharp knife"),
        ("new", "dull spoon"),
    ]
    assert two.final == "Use a dull spoon"
    assert one.final == "Use a dull knife"
    # "Use a " and " knife" are shared (12 characters of each side); "sharp" and "dull" (9) are not
    assert one.changed == pytest.approx(9 / (2 * 12 + 9))
    assert (none.rounds, none.changed, none.final) == ((), None, "Use a sharp knife")
    assert none.dropped == ("critique: empty critique",)


def test_labels(generation: GenerationView) -> None:
    labels = generation.labels
    assert (labels.responses, labels.labelled, labels.left_out) == (10, 4, 1)
    assert labels.prob_a == pytest.approx((0.8, 0.5, 0.2, 0.8))
    assert labels.position_bias == pytest.approx((0.2, 0.2, -0.2, 0.0))
    assert (labels.flips, labels.asked_twice, labels.flip_rate) == (1, 4, 0.25)
    assert labels.mean_bias == pytest.approx(0.05)
    assert labels.undecided == 0.25


def test_principles_are_counted_where_they_were_drawn(generation: GenerationView) -> None:
    assert [(p.id, p.critiques, p.comparisons) for p in generation.principles] == [("harm", 3, 1), ("honest", 0, 4)]


def test_drops_are_grouped_by_stage_and_reason(generation: GenerationView) -> None:
    assert [(drop.stage, drop.reason, drop.n) for drop in generation.drops] == [
        ("critique", "empty critique", 1),
        ("label", "abstained", 1),
    ]
    assert generation.drops[0].examples == (("question 2", "…"),)


def test_measures_that_were_trained_on_come_last(generation: GenerationView) -> None:
    measures = generation.comparison.measures
    assert [(measure.name, measure.verdict) for measure in measures] == [
        ("harmlessness", "better"),
        ("helpfulness", "no difference shown"),
        ("preference_model", "better"),
    ]
    assert [measure.name for measure in generation.comparison.independent] == ["harmlessness", "helpfulness"]
    refusal = dict(generation.comparison.rates)["refusal"]
    assert [(change.kind, change.shown) for change in refusal] == [("red_team", True), ("benign", False)]
    assert refusal[0].difference == pytest.approx(0.2)


def test_stages_and_their_times(generation: GenerationView) -> None:
    assert generation.owed == []
    assert generation.policy_stage == "ppo"
    assert [stage.name for stage in generation.stages] == [
        "prompts", "generate", "sft", "label", "reward", "ppo", "evaluate",
    ]  # fmt: skip
    assert generation.seconds == pytest.approx(175.5)


def test_training_keeps_numbers_only(generation: GenerationView, run_folder: Path) -> None:
    assert [training.stage for training in generation.training] == ["sft", "reward", "ppo"]
    metrics = run_folder / "gen-1" / "ppo" / "metrics.jsonl"
    with metrics.open("a") as file:
        file.write('{"step": 61, "kl": NaN, "note": "x", "score": 1}\n{"step": 62, "sco')
    steps = read_run(run_folder).generations[0].training[2].steps
    assert steps[-1] == {"step": 61.0, "score": 1.0}


def test_half_a_run_says_what_is_owed(run_folder: Path) -> None:
    ledger = run_folder / "ledger.jsonl"
    ledger.write_text("".join(line + "\n" for line in ledger.read_text().splitlines()[:5]))
    for name in ("label", "reward", "ppo", "evaluate"):
        (run_folder / "gen-1" / name).rename(run_folder / name)
    view = read_run(run_folder)
    states = {stage.name: stage.state for stage in view.generations[0].stages}
    assert states == {
        "prompts": "done", "generate": "done", "sft": "begun",
        "label": "owed", "reward": "owed", "ppo": "owed", "evaluate": "owed",
    }  # fmt: skip
    assert view.generations[0].comparison.measures == ()


def test_a_stage_that_was_cut_off_is_begun_and_one_gone_on_with_is_done(run_folder: Path) -> None:
    ledger = run_folder / "ledger.jsonl"
    with ledger.open("a") as file:
        for event in ({"event": "resumed", "stage": "gen-1/evaluate"}, {"event": "stopped", "stage": "gen-1/evaluate"}):
            file.write(json.dumps(event) + "\n")
    generation = read_run(run_folder).generations[0]
    assert generation.owed == ["evaluate"]
    with ledger.open("a") as file:
        file.write(json.dumps({"event": "resumed", "stage": "gen-1/evaluate"}) + "\n")
        file.write(json.dumps({"event": "finished", "stage": "gen-1/evaluate", "seconds": 3}) + "\n")
    stage = read_run(run_folder).generations[0].stages[-1]
    assert (stage.state, stage.seconds, stage.resumed) == ("done", 3.0, True)


def test_without_a_ledger_the_outputs_tell(run_folder: Path) -> None:
    (run_folder / "ledger.jsonl").unlink()
    for stage in ("prompts", "generate"):
        (run_folder / "gen-1" / stage / "result.json").write_text("{}")
    (run_folder / "gen-1" / "ppo" / "result.json").unlink()
    generation = read_run(run_folder).generations[0]
    assert generation.owed == ["ppo"]
    assert generation.seconds == 0


def test_a_dpo_run_owes_no_ppo(run_folder: Path) -> None:
    head = json.loads((run_folder / "run.json").read_text())
    head["config"]["train"]["policy"] = "dpo"
    (run_folder / "run.json").write_text(json.dumps(head))
    (run_folder / "gen-1" / "ppo").rename(run_folder / "gen-1" / "dpo")
    ledger = run_folder / "ledger.jsonl"
    ledger.write_text(ledger.read_text().replace("gen-1/ppo", "gen-1/dpo"))
    generation = read_run(run_folder).generations[0]
    assert (generation.policy_stage, generation.owed) == ("dpo", [])


def test_generations_are_newest_first_and_an_empty_folder_is_a_run(run_folder: Path, tmp_path: Path) -> None:
    (run_folder / "gen-2").mkdir()
    (run_folder / "gen-10").mkdir()
    assert [generation.number for generation in read_run(run_folder).generations] == [10, 2, 1]
    assert read_run(tmp_path / "nothing").generations == ()


def test_damage_is_told_and_the_rest_is_shown(run_folder: Path) -> None:
    drafts = run_folder / "gen-1" / "generate" / "drafts.jsonl"
    lines = drafts.read_text().splitlines(keepends=True)
    drafts.write_text(lines[0] + lines[1].replace("knife", "spoon") + lines[2])
    (run_folder / "gen-1" / "label" / "summary.json").write_text("{")
    view = read_run(run_folder)
    assert view.generations[0].drafts == 1
    assert len(view.problems) == 2
    assert f"{drafts}:2:1" in view.problems[0]


@pytest.mark.parametrize("wrong", ["[]", "null", '{"measures": 3, "rates": {"refusal": [1]}, "models": "x"}'])
def test_summaries_of_another_shape_are_nothing(run_folder: Path, wrong: str) -> None:
    (run_folder / "gen-1" / "evaluate" / "summary.json").write_text(wrong)
    (run_folder / "run.json").write_text(wrong)
    view = read_run(run_folder)
    assert view.generations[0].comparison.measures == ()
    assert [principle.title for principle in view.generations[0].principles] == ["", ""]
