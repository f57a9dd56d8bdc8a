"""What a person wants to know of a labelling run: counts, drops by reason, how often the order decided."""

from collections import Counter
from typing import Any

from cai.label.aggregate import flipped
from cai.records.schema import Dropped, Preference, Record


class Figures:
    """Sums over records that are seen once."""

    def __init__(self, pairs: str, judge: str) -> None:
        """Begin with none."""
        self._about = {"pairs": pairs, "judge": judge}
        self.labels = 0
        self._dropped: Counter[str] = Counter()
        self._means = {name: Mean() for name in ("mean_confidence", "share_a", "position_flip_rate", "mean_spread")}

    def add(self, record: Record) -> None:
        """Count an answer or a label, or the lack of one."""
        if isinstance(record, Dropped):
            self._dropped[f"{record.stage}: {record.reason}"] += 1
        if not isinstance(record, Preference):
            return
        self.labels += 1
        self._means["mean_confidence"].add(max(record.prob_a, 1 - record.prob_a))
        self._means["share_a"].add(record.prob_a > 0.5)
        self._means["position_flip_rate"].add(flipped(record.prob_a_by_order))
        self._means["mean_spread"].add(record.spread)

    def result(self) -> dict[str, Any]:
        """Return them as summary.json has them."""
        means = {name: mean.value for name, mean in self._means.items()}
        return {**self._about, "labels": self.labels, "dropped": dict(sorted(self._dropped.items())), **means}


class Mean:
    """The mean of what is known."""

    def __init__(self) -> None:
        """Begin with none."""
        self._sum, self._count = 0.0, 0

    def add(self, value: float | None) -> None:
        """Take a value in; None is none."""
        if value is not None:
            self._sum, self._count = self._sum + value, self._count + 1

    @property
    def value(self) -> float | None:
        """The mean, or None of nothing."""
        return self._sum / self._count if self._count else None
