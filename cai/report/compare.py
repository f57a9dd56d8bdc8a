"""The successor against its parent: win rates with their intervals, rates of refusal and the like, and the answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cai.records.journal import of_type
from cai.records.schema import EvalResult, Record
from cai.report.files import Row, count, leaves, mapping, number, text
from cai.report.words import Verdict, verdict_of


@dataclass(frozen=True, kw_only=True)
class Rate:
    """A win rate of the successor with its 95 % interval; None where nothing was measured."""

    n: int
    win_rate: float | None
    low: float | None
    high: float | None

    @property
    def verdict(self) -> Verdict:
        """What the interval shows."""
        return verdict_of(self.low, self.high) if self.n and self.win_rate is not None else "not measured"


@dataclass(frozen=True, kw_only=True)
class MeasureView(Rate):
    """One measure over all held-out prompts, and the same per kind of prompt and per category."""

    name: str
    abstained: int
    trained_on: bool
    """The successor was optimised against this measure, so a win here is no evidence."""
    by_kind: tuple[tuple[str, Rate], ...]
    by_category: tuple[tuple[str, Rate], ...]


@dataclass(frozen=True, kw_only=True)
class ChangeView:
    """A property of single answers on one kind of prompt; `low` and `high` bound successor minus parent."""

    kind: str
    n: int
    candidate: float | None
    parent: float | None
    low: float | None
    high: float | None

    @property
    def difference(self) -> float | None:
        """Successor minus parent."""
        return None if self.candidate is None or self.parent is None else self.candidate - self.parent

    @property
    def shown(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True, kw_only=True)
class ComparisonView:
    """All of the evaluate stage."""

    measures: tuple[MeasureView, ...]
    """Independent measures first."""
    rates: tuple[tuple[str, tuple[ChangeView, ...]], ...]
    models: tuple[tuple[str, str], ...]
    results: tuple[EvalResult, ...]

    @property
    def independent(self) -> list[MeasureView]:
        """The measures that the successor was not trained on."""
        return [measure for measure in self.measures if not measure.trained_on]


def read_comparison(results: Sequence[Record], summary: Row) -> ComparisonView:
    """Read the evaluate stage's summary and answers."""
    measures = [_measure(name, mapping(row)) for name, row in mapping(summary.get("measures")).items()]
    rates = [
        (name, tuple(_change(kind, mapping(row)) for kind, row in mapping(kinds).items()))
        for name, kinds in mapping(summary.get("rates")).items()
    ]
    return ComparisonView(
        measures=tuple(sorted(measures, key=lambda measure: measure.trained_on)),
        rates=tuple((name, kinds) for name, kinds in rates if kinds),
        models=tuple(leaves(mapping(summary.get("models")))),
        results=tuple(of_type(results, EvalResult)),
    )


def _rate(row: Row) -> Rate:
    return Rate(
        n=count(row.get("n")),
        win_rate=number(row.get("win_rate")),
        low=number(row.get("low")),
        high=number(row.get("high")),
    )


def _rates(value: Any) -> tuple[tuple[str, Rate], ...]:
    return tuple((name, _rate(mapping(row))) for name, row in sorted(mapping(value).items()))


def _measure(name: str, row: Row) -> MeasureView:
    whole = _rate(row)
    return MeasureView(
        name=name,
        n=whole.n,
        win_rate=whole.win_rate,
        low=whole.low,
        high=whole.high,
        abstained=count(row.get("abstained")),
        trained_on=row.get("trained_on") is True,
        by_kind=_rates(row.get("by_kind")),
        by_category=_rates(row.get("by_category")),
    )


def _change(kind: str, row: Row) -> ChangeView:
    return ChangeView(
        kind=text(kind),
        n=count(row.get("n")),
        candidate=number(row.get("candidate")),
        parent=number(row.get("parent")),
        low=number(row.get("low")),
        high=number(row.get("high")),
    )
