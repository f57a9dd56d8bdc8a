from dataclasses import replace
from pathlib import Path

from cai.report.figures import comparison_figures, label_figures, rate_figures, training_figures
from cai.report.model import TrainingView, read_run


def test_known_keys_get_figures_and_unknown_ones_do_not() -> None:
    steps = tuple({"step": float(n), "loss": 1.0 / n, "eval_loss": 1.1 / n, "grad_norm": 1.0, "x": 1.0} for n in (1, 2))
    found = training_figures(TrainingView(stage="sft", steps=steps, result=()))
    assert [(one.title, one.minor) for one in found] == [("Loss", False), ("Gradient norm", True)]
    assert 'data-series="training"' in found[0].svg
    assert 'data-series="held out"' in found[0].svg
    assert training_figures(TrainingView(stage="sft", steps=(), result=())) == []


def test_every_part_of_a_run_is_drawn(run_folder: Path) -> None:
    generation = read_run(run_folder).generations[0]
    assert [one.title for one in label_figures(generation.labels)] == ["Soft labels", "Position bias"]
    assert [one.title for one in comparison_figures(generation.comparison)] == [
        "harmlessness", "helpfulness", "preference model",
    ]  # fmt: skip
    assert [one.title for one in rate_figures(generation.comparison)] == ["refusal", "cut off"]
    assert [one.title for one in training_figures(generation.training[2])] == [
        "Reward", "KL from the reference", "Length of answers",
    ]  # fmt: skip


def test_votes_of_several_principles_get_a_figure_of_their_disagreement(run_folder: Path) -> None:
    labels = replace(read_run(run_folder).generations[0].labels, spread=(0.2, 2.4), summary=(("pairs", "revisions"),))
    soft, _, disagreement = label_figures(labels)
    assert soft.note.endswith("A: the draft.")
    assert disagreement.title == "Disagreement"
    assert "Mean 1.3 logits" in disagreement.note
    assert disagreement.svg.count('data-n="1"') == 2
