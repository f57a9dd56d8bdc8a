"""Which figures a generation gets, and what stands beneath each."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from markupsafe import Markup

from cai.report import plot
from cai.report.compare import ChangeView, ComparisonView, MeasureView, Rate
from cai.report.labels import LabelView
from cai.report.model import TrainingView
from cai.report.words import figure, percent, plain_name, points


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A drawing with its title and a line that says how to read it. Minor ones are folded away at first."""

    title: str
    note: str
    svg: Markup
    minor: bool = False


@dataclass(frozen=True, kw_only=True)
class _Curve:
    """Which logged keys share a figure, each with its name in the legend."""

    title: str
    keys: Mapping[str, str]
    unit: str = ""
    note: str = ""
    share: bool = False
    minor: bool = False


_BOTH = ("training", "held out")
_CURVES = (
    _Curve(title="Loss", keys={"loss": _BOTH[0], "train_loss": _BOTH[0], "eval_loss": _BOTH[1]}, unit="nats"),
    _Curve(
        title="Accuracy",
        keys={"accuracy": _BOTH[0], "train_accuracy": _BOTH[0], "eval_accuracy": _BOTH[1]},
        unit="pairs ranked as labelled",
        share=True,
    ),
    _Curve(
        title="Margin",
        keys={"margin": _BOTH[0], "eval_margin": _BOTH[1]},
        unit="logits",
        note="How much higher the chosen answer scores than the rejected one.",
    ),
    _Curve(
        title="Reward",
        keys={"reward": "reward", "reward_mean": "reward", "score": "score", "score_mean": "score"},
        unit="preference-model logits",
        note="Score: the preference model alone. Reward: after the KL penalty.",
    ),
    _Curve(
        title="KL from the reference",
        keys={"kl": "KL", "kl_mean": "KL"},
        unit="nats",
        note="How far the policy has moved from the model it started as.",
    ),
    _Curve(title="Entropy", keys={"entropy": "entropy"}, unit="nats per token"),
    _Curve(title="Length of answers", keys={"length": "length", "length_mean": "length"}, unit="tokens"),
    _Curve(
        title="Degeneration",
        keys={"cut_off": "cut off", "repetition": "repetition"},
        unit="share",
        share=True,
        note="Answers cut off at the token limit, and how repetitive they are.",
    ),
    _Curve(title="Clipped updates", keys={"clip_fraction": "clip fraction"}, unit="share of tokens", minor=True),
    _Curve(
        title="Value function", keys={"explained_variance": "explained variance"}, unit="explained variance", minor=True
    ),
    _Curve(title="Policy loss", keys={"policy_loss": "policy loss"}, minor=True),
    _Curve(title="Value loss", keys={"value_loss": "value loss"}, minor=True),
    _Curve(title="Gradient norm", keys={"grad_norm": "norm"}, unit="before clipping", minor=True),
    _Curve(title="Learning rate", keys={"learning_rate": "rate"}, minor=True),
    _Curve(title="Speed", keys={"tokens_per_s": "tokens/s"}, unit="tokens per second", minor=True),
)


def training_figures(training: TrainingView) -> list[Figure]:
    """Return a figure for every group of known keys that was logged."""
    found = []
    for curve in _CURVES:
        series: list[plot.Series] = []
        for key, name in curve.keys.items():
            points_ = [(row["step"], row[key]) for row in training.steps if key in row]
            if points_ and name not in [one.name for one in series]:
                band = [row[f"{key}_std"] for row in training.steps if key in row and f"{key}_std" in row]
                series.append(plot.Series(name=name, points=points_, band=band if len(band) == len(points_) else None))
        title = f"{curve.title} of {training.stage}"
        svg = plot.lines(series, title=title, x="step", y=curve.unit, share=curve.share)
        if svg:
            found.append(Figure(title=curve.title, note=_note(curve, series), svg=svg, minor=curve.minor))
    return found


def _note(curve: _Curve, series: list[plot.Series]) -> str:
    ends = [
        f"{one.name} {figure(one.points[0][1], 3)} → {figure(one.points[-1][1], 3)}"
        for one in series
        if len(one.points) > 1
    ]
    first_to_last = f"First to last step: {', '.join(ends)}." if ends else ""
    return " ".join(note for note in (curve.note, first_to_last) if note)


def label_figures(labels: LabelView) -> list[Figure]:
    """Return the spread of the labels, of the position bias and of the disagreement between principles."""
    spread = plot.histogram(
        labels.prob_a, (0.0, 1.0), bins=20, title="Distribution of the soft labels",
        x="probability that answer A is better", y="pairs", mark=0.5,
    )  # fmt: skip
    bias = plot.histogram(
        labels.position_bias, (-1.0, 1.0), bins=20, title="Distribution of the position bias",
        x="P(A), A shown first − P(A), B shown first", y="pairs", mark=0.0,
    )  # fmt: skip
    widest = math.ceil(max(labels.spread, default=0.0)) or 1
    disagreement = plot.histogram(
        labels.spread, (0.0, float(widest)), bins=20, title="Distribution of the disagreement of votes",
        x="standard deviation of a label's votes, logits", y="pairs", mark=labels.mean_spread or 0.0,
    )  # fmt: skip
    figures = [
        Figure(
            title="Soft labels",
            note=f"{percent(labels.undecided)} of the labels lie between 0.4 and 0.6. Mass at both ends: a sure judge."
            + (f" A: {labels.answer_a}." if labels.answer_a else ""),
            svg=spread,
        ),
        Figure(
            title="Position bias",
            note="0: the order does not matter. Above 0: the judge favours what it sees first. "
            f"Mean {points(labels.mean_bias)} points.",
            svg=bias,
        ),
        Figure(
            title="Disagreement",
            note="How far the votes under several principles lie apart. "
            f"0: all say the same. Mean {figure(labels.mean_spread, 2)} logits, the dashed line.",
            svg=disagreement,
        ),
    ]
    return [one for one in figures if one.svg]


def comparison_figures(comparison: ComparisonView) -> list[Figure]:
    """Return an interval figure per measure: all prompts, each kind, each category."""
    found = []
    for measure in comparison.measures:
        svg = plot.intervals(_rows(measure), title=f"Win rate on {plain_name(measure.name)}", x="successor wins")
        note = "Not independent: the successor was trained against this measure." if measure.trained_on else ""
        if svg:
            found.append(Figure(title=plain_name(measure.name), note=note, svg=svg))
    return found


def _rows(measure: MeasureView) -> list[plot.IntervalRow]:
    rows = [_row("all prompts", measure, strong=True)]
    for heading, group in (("by kind", measure.by_kind), ("by category", measure.by_category)):
        shown = [_row(plain_name(name) or "no category", rate) for name, rate in group if rate.n]
        if shown:
            rows += [plot.IntervalRow(name=heading), *shown]
    return rows


def _row(name: str, rate: Rate, *, strong: bool = False) -> plot.IntervalRow:
    return plot.IntervalRow(
        name=name,
        value=rate.win_rate,
        low=rate.low,
        high=rate.high,
        note=percent(rate.win_rate),
        aside=f"n {rate.n:,}",
        strong=strong,
    )


def rate_figures(comparison: ComparisonView) -> list[Figure]:
    """Return a figure per rate (refusal, cut off, …): parent and successor on each kind of prompt."""
    found = []
    for name, kinds in comparison.rates:
        values = [value for kind in kinds for value in (kind.candidate, kind.parent) if value is not None]
        share = all(0.0 <= value <= 1.0 for value in values)
        rows = [row for kind in kinds if (row := _pair(kind, share))]
        label = f"{plain_name(name)}, share of answers" if share else plain_name(name)
        svg = plot.pairs(rows, title=f"{plain_name(name)} of parent and successor", x=label, share=share)
        if svg:
            note = "Right: successor minus parent with its 95\N{NO-BREAK SPACE}% interval" + (
                ", in points." if share else "."
            )
            found.append(Figure(title=plain_name(name), note=note, svg=svg))
    return found


def _pair(change: ChangeView, share: bool) -> plot.PairRow | None:
    if change.candidate is None or change.parent is None or change.difference is None or not change.n:
        return None
    shown = points if share else (lambda value: figure(value, 3))
    note = shown(change.difference)
    if change.low is not None and change.high is not None:
        note += f" [{shown(change.low)}, {shown(change.high)}]"
    return plot.PairRow(name=plain_name(change.kind), parent=change.parent, candidate=change.candidate, note=note)
