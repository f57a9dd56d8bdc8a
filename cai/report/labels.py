"""AI labels: how the judge's probabilities are spread, and how much they depend on which answer came first."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from cai.records.journal import of_type
from cai.records.schema import Draft, Dropped, Preference, Record
from cai.report.files import Row, count, leaves


@dataclass(frozen=True, kw_only=True)
class LabelView:
    """The labels of a generation."""

    responses: int
    labelled: int
    left_out: int
    """Pairs without a label: abstentions and other drops."""
    prob_a: tuple[float, ...]
    position_bias: tuple[float, ...]
    """Per pair, P(A) with A shown first minus P(A) with B shown first: 0 without bias, above 0 when the judge favours
    what it sees first."""
    flips: int
    """Pairs whose winner depends on the order."""
    asked_twice: int
    """Pairs that were judged in both orders, with a choice in each."""
    judges: tuple[str, ...]
    by_kind: dict[str, int]
    principles: dict[str, int]
    summary: tuple[tuple[str, str], ...]
    """What the stage itself reported."""
    unseen: int = 0
    """Contrasts that were kept back from a judge that learns from contrasts."""
    unseen_right: int = 0
    """How many of them it told rightly."""

    @property
    def flip_rate(self) -> float | None:
        """The share of pairs whose winner depends on the order."""
        return self.flips / self.asked_twice if self.asked_twice else None

    @property
    def mean_bias(self) -> float | None:
        """The mean position bias."""
        return sum(self.position_bias) / len(self.position_bias) if self.position_bias else None

    @property
    def undecided(self) -> float | None:
        """The share of labels between 0.4 and 0.6: pairs that teach little."""
        return sum(0.4 <= p <= 0.6 for p in self.prob_a) / len(self.prob_a) if self.prob_a else None


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
        left_out=len(of_type(preferences, Dropped)),
        prob_a=tuple(label.prob_a for label in labels),
        position_bias=tuple(first - second for first, second in orders),
        flips=sum((first > 0.5) != (second > 0.5) for first, second in chosen),
        asked_twice=len(chosen),
        judges=tuple(dict.fromkeys(label.judge for label in labels)),
        by_kind=dict(Counter(label.kind for label in labels)),
        principles=dict(Counter(principle for label in labels for principle in label.principles)),
        summary=tuple(leaves(summary)),
        unseen=count((judge or {}).get("unseen")),
        unseen_right=count((judge or {}).get("right")),
    )
