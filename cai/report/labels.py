"""AI labels: how sure the judge is, how far its votes disagree, what the order decides, and which pairs have none."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from cai.records.journal import of_type
from cai.records.schema import Draft, Dropped, Preference, Record
from cai.report.files import Row, count, leaves

BINS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Edges of the parts that a judge's sureness is counted in."""

ANSWER_A = {
    "samples": "the first sample",
    "models": "the first model's",
    "revisions": "the draft",
    "best_of": "the earlier sample",
    "contrast": "told the principle",
}
"""Which answer A is, by the kind of pairs."""


@dataclass(frozen=True, kw_only=True)
class PrincipleLabels:
    """The labels that were made under one principle, alone or with others."""

    labels: int
    confidence: float
    """The mean probability of the likelier answer."""
    undecided: float
    """The share of labels between 0.4 and 0.6."""


@dataclass(frozen=True, kw_only=True)
class LabelView:
    """The labels of a generation."""

    responses: int
    labelled: int
    drops: dict[tuple[str, str], int]
    """Answers and pairs that led to no label, by stage (``response``, ``label``) and reason, most first."""
    prob_a: tuple[float, ...]
    spread: tuple[float, ...]
    """For labels of several votes, the standard deviation of their logits."""
    position_bias: tuple[float, ...]
    """Per pair, P(A) with A shown first minus P(A) with B shown first: 0 without bias, above 0 when the judge favours
    what it sees first."""
    flips: int
    """Pairs whose winner depends on the order."""
    asked_twice: int
    """Pairs that were judged in both orders, with a choice in each."""
    judges: tuple[str, ...]
    by_kind: dict[str, int]
    by_principle: dict[str, PrincipleLabels]
    summary: tuple[tuple[str, str], ...]
    """What the stage itself reported."""
    unseen: int = 0
    """Contrasts that were kept back from a judge that learns from contrasts."""
    unseen_right: int = 0
    """How many of them it told rightly."""

    @property
    def left_out(self) -> int:
        """Pairs without a label: abstentions and equal answers."""
        return sum(n for (stage, _), n in self.drops.items() if stage == "label")

    @property
    def confidence(self) -> tuple[float, ...]:
        """Per label, the probability of the likelier answer."""
        return tuple(max(p, 1 - p) for p in self.prob_a)

    @property
    def answer_a(self) -> str:
        """Which answer A is; "" where the stage did not say."""
        return ANSWER_A.get(dict(self.summary).get("pairs", ""), "")

    @property
    def share_a(self) -> float | None:
        """The share of labels with answer A as the likelier."""
        return _mean([p > 0.5 for p in self.prob_a])

    @property
    def mean_spread(self) -> float | None:
        """The mean disagreement of several votes, in logits."""
        return _mean(self.spread)

    @property
    def flip_rate(self) -> float | None:
        """The share of pairs whose winner depends on the order."""
        return self.flips / self.asked_twice if self.asked_twice else None

    @property
    def mean_bias(self) -> float | None:
        """The mean position bias."""
        return _mean(self.position_bias)

    @property
    def undecided(self) -> float | None:
        """The share of labels between 0.4 and 0.6: pairs that teach little."""
        return _mean([0.4 <= p <= 0.6 for p in self.prob_a])

    @property
    def sureness(self) -> list[int]:
        """How many labels lie between each two of `BINS`."""
        inner = BINS[1:-1]
        return [sum(bisect_right(inner, p) == place for p in self.confidence) for place in range(len(inner) + 1)]


def read_labels(
    responses: Sequence[Record], preferences: Sequence[Record], summary: Row, judge: Row | None = None
) -> LabelView:
    """Count and spread the records of the label stage."""
    labels = of_type(preferences, Preference)
    orders = [label.prob_a_by_order for label in labels if len(label.prob_a_by_order) == 2]
    chosen = [order for order in orders if 0.5 not in order]
    return LabelView(
        responses=len(of_type(responses, Draft)),
        labelled=len(labels),
        drops=dict(
            Counter((each.stage, each.reason) for each in of_type([*preferences, *responses], Dropped)).most_common()
        ),
        prob_a=tuple(label.prob_a for label in labels),
        spread=tuple(label.spread for label in labels if label.spread is not None),
        position_bias=tuple(first - second for first, second in orders),
        flips=sum((first > 0.5) != (second > 0.5) for first, second in chosen),
        asked_twice=len(chosen),
        judges=tuple(dict.fromkeys(label.judge for label in labels)),
        by_kind=dict(Counter(label.kind for label in labels)),
        by_principle=_by_principle(labels),
        summary=tuple(leaves(summary)),
        unseen=count((judge or {}).get("unseen")),
        unseen_right=count((judge or {}).get("right")),
    )


def _by_principle(labels: Sequence[Preference]) -> dict[str, PrincipleLabels]:
    probs: dict[str, list[float]] = {}
    for label in labels:
        for principle in label.principles:
            probs.setdefault(principle, []).append(label.prob_a)
    return {
        principle: PrincipleLabels(
            labels=len(own),
            confidence=sum(max(p, 1 - p) for p in own) / len(own),
            undecided=sum(0.4 <= p <= 0.6 for p in own) / len(own),
        )
        for principle, own in sorted(probs.items(), key=lambda item: (-len(item[1]), item[0]))
    }


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
