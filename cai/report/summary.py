"""What a run amounts to, in sentences that claim no more than the intervals show."""

from dataclasses import dataclass
from typing import Literal

from cai.report.compare import ChangeView, MeasureView
from cai.report.labels import LabelView
from cai.report.model import GenerationView
from cai.report.words import percent, plain_name, points

Tone = Literal["better", "worse", "even", "note"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A finding: its claim in a few words, the figures it rests on, and how it is coloured."""

    tone: Tone
    claim: str
    evidence: str


def findings(generation: GenerationView) -> list[Finding]:
    """Return how the successor compares with its parent, one finding per measure, then what is owed."""
    found = [measure_finding(measure) for measure in generation.comparison.measures]
    for name, kinds in generation.comparison.rates:
        if name.startswith("refusal"):
            found += [finding for kind in kinds if (finding := change_finding(name, kind))]
    if not found:
        found.append(
            Finding(
                tone="note",
                claim="Not compared yet.",
                evidence="The evaluate stage has not finished: nothing is known of the successor against its parent.",
            )
        )
    return found


def measure_finding(measure: MeasureView) -> Finding:
    """Return what one measure shows."""
    name = plain_name(measure.name)
    if measure.verdict == "not measured":
        return Finding(
            tone="note", claim=f"{name}: not measured.", evidence=f"{measure.abstained} comparisons, all abstentions."
        )
    evidence = (
        f"The successor wins {percent(measure.win_rate, 1)} of {measure.n:,} held-out prompts, "
        f"95\N{NO-BREAK SPACE}% interval {percent(measure.low, 1)} to {percent(measure.high, 1)}"
    )
    tone: Tone
    match measure.verdict:
        case "better":
            claim, tone = f"{name}: the successor is better.", "better"
        case "worse":
            claim, tone = f"{name}: the successor is worse.", "worse"
        case _:
            claim, tone = f"{name}: no difference shown.", "even"
            evidence += ", which includes 50\N{NO-BREAK SPACE}%"
    evidence += "."
    if measure.abstained:
        evidence += f" {measure.abstained:,} more ended in an abstention and are not counted."
    if measure.trained_on:
        tone = "note"
        evidence += " Not independent: the successor was trained against this measure."
    return Finding(tone=tone, claim=claim, evidence=evidence)


def change_finding(name: str, change: ChangeView) -> Finding | None:
    """Return what became of a rate on one kind of prompt; nothing when it was not measured."""
    if change.difference is None or not change.n:
        return None
    kind = plain_name(change.kind)
    if not change.shown:
        claim = f"{plain_name(name)} on {kind} prompts: no difference shown."
    else:
        claim = f"{plain_name(name)} on {kind} prompts: {'more' if change.difference > 0 else 'less'} often."
    evidence = (
        f"From {percent(change.parent, 1)} to {percent(change.candidate, 1)} of {change.n:,} answers, "
        f"{points(change.difference)} points"
    )
    if change.low is not None and change.high is not None:
        evidence += f", 95\N{NO-BREAK SPACE}% interval {points(change.low)} to {points(change.high)}"
    tone: Tone = "even"
    if change.shown and name.startswith("refusal") and change.kind in ("benign", "helpful"):
        # To refuse a red-team prompt more often may be safer or only evasive: that gets no colour.
        tone = "worse" if change.difference > 0 else "better"
    return Finding(tone=tone, claim=claim, evidence=evidence + ".")


def made(generation: GenerationView) -> list[tuple[str, int]]:
    """Return what was made, in the order of the loop; what is at zero is left out."""
    labels = generation.labels
    steps = [
        ("prompts", sum(generation.prompts_by_kind.values())),
        ("drafts", generation.drafts),
        ("critiques", generation.critiques),
        ("revisions", generation.revisions),
        ("sampled answers", labels.responses),
        ("AI labels", labels.labelled),
        ("left out", sum(drop.n for drop in generation.drops)),
        ("compared answers", len(generation.comparison.results)),
    ]
    for training in generation.training:
        if training.steps:
            last = int(training.steps[-1]["step"])
            steps.insert(-2, (f"{STAGE_NAMES[training.stage]} steps", last))
    return [(name, n) for name, n in steps if n]


STAGE_NAMES = {
    "sft": "SFT",
    "reward": "Preference model",
    "ppo": "PPO",
    "dpo": "DPO",
    "online_dpo": "Online DPO",
    "grpo": "GRPO",
    "rloo": "RLOO",
}


def judge_note(labels: LabelView) -> str:
    """Return who judged and how good that judge was measured to be."""
    if not labels.labelled:
        return "No pair has been labelled."
    note = f"Judge: {', '.join(labels.judges)}."
    if labels.unseen:
        note += (
            f" It told {labels.unseen_right:,} of {labels.unseen:,} contrasts that were kept back from it. These are "
            "of the model's own making: no measure of its agreement with people."
        )
    prefix = "agreement_with_people."
    known = [f"{value} of {name[len(prefix) :]}" for name, value in labels.summary if name.startswith(prefix)]
    if known:
        return (
            f"{note} Measured before, on what people labelled, a judge like it agreed with them in {'; '.join(known)}."
        )
    return f"{note} Its agreement with people was not measured: read the labels as this judge's opinion."


def bias_note(labels: LabelView) -> str:
    """Return how much the order of the answers decided."""
    if labels.flip_rate is None or labels.mean_bias is None:
        return "The labels do not hold both orders, so position bias can't be told."
    favoured = "first" if labels.mean_bias >= 0 else "second"
    return (
        f"{labels.asked_twice:,} pairs were judged in both orders: the order alone decided the winner of "
        f"{labels.flips:,} ({percent(labels.flip_rate)}), and moved the probability by "
        f"{100 * abs(labels.mean_bias):.1f} points on average towards the answer shown {favoured}."
    )
