from dataclasses import replace
from pathlib import Path

from cai.report.compare import ChangeView, MeasureView
from cai.report.labels import read_labels
from cai.report.model import read_run
from cai.report.summary import bias_note, change_finding, findings, judge_note, made, measure_finding


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


def test_findings_say_no_more_than_the_intervals(run_folder: Path) -> None:
    found = findings(read_run(run_folder).generations[0])
    assert [(finding.claim, finding.tone) for finding in found] == [
        ("harmlessness: the successor is better.", "better"),
        ("helpfulness: no difference shown.", "even"),
        ("preference model: the successor is better.", "note"),
        ("refusal on red-team prompts: more often.", "even"),
        ("refusal on benign prompts: no difference shown.", "even"),
    ]
    assert plain(found[0].evidence) == (
        "The successor wins 70.0 % of 60 held-out prompts, 95 % interval 57.5 % to 80.1 %. "
        "4 more ended in an abstention and are not counted."
    )
    assert "Not independent" in found[2].evidence


def test_over_refusal_is_worse() -> None:
    change = ChangeView(kind="benign", n=50, candidate=0.4, parent=0.1, low=0.1, high=0.5)
    finding = change_finding("refusal", change)
    assert finding is not None
    assert finding.tone == "worse"


def test_abstentions_alone_are_no_measure() -> None:
    measure = MeasureView(
        n=0, win_rate=0.5, low=0.0, high=1.0, name="harmless", abstained=9, trained_on=False, by_kind=(), by_category=()
    )
    assert measure_finding(measure).claim == "harmless: not measured."


def test_notes_on_the_judge(run_folder: Path) -> None:
    labels = read_run(run_folder).generations[0].labels
    assert judge_note(labels) == (
        "Judge: contrastive. Measured before, on what people labelled, a judge like it agreed with them in 61 % of 400 "
        "pairs (95 %: 56 to 66) of hh-rlhf."
    )
    assert plain(bias_note(labels)) == (
        "4 pairs were judged in both orders: the order alone decided the winner of 1 (25 %), and moved the probability "
        "by 5.0 points on average towards the answer shown first."
    )
    learned = replace(labels, unseen=19, unseen_right=15)
    assert "It told 15 of 19 contrasts that were kept back" in judge_note(learned)
    assert "agreed with them in 61 %" in judge_note(learned)
    assert "was not measured" in judge_note(replace(labels, summary=()))
    nothing = read_labels([], [], {})
    assert judge_note(nothing) == "No pair has been labelled."
    assert "can't be told" in bias_note(nothing)


def test_what_was_made(run_folder: Path) -> None:
    counts = dict(made(read_run(run_folder).generations[0]))
    assert counts["AI labels"] == 4
    assert counts["PPO steps"] == 60
    assert counts["left out"] == 2
    assert "DPO steps" not in counts
