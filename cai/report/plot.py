"""Figures as inline SVG: lines with an optional band, histograms, intervals, and pairs of values.

Every figure is 440 units wide and as high as it needs, so its words stay readable on a telephone; colours are classes
that the page's style sheet fills, so the same figure serves light, dark and print. Every text goes through
`escape`: names of categories and measures come from outside.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape as escape_html

from markupsafe import Markup

from cai.report.words import figure, percent, visible

WIDTH = 440
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 14, 40
POINTS = 400
"""Most points drawn per line; more are averaged in groups."""
NOISY = 40
"""From this many points on a line is drawn over its own faint raw values, as a mean of a twentieth of them."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """A line: its name in the legend, its points in order of x, and the half-width of a band around it, if any."""

    name: str
    points: Sequence[tuple[float, float]]
    band: Sequence[float] | None = None


@dataclass(frozen=True, kw_only=True)
class IntervalRow:
    """A dot with its interval; `note` and `aside` stand at the right. A row without a value is a heading."""

    name: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    note: str = ""
    aside: str = ""
    strong: bool = False


@dataclass(frozen=True, kw_only=True)
class PairRow:
    """Two values of one thing: the parent's and the successor's."""

    name: str
    parent: float
    candidate: float
    note: str = ""


def escape(words: str) -> str:
    """Return a text that can't end an element or an attribute, nor reorder what follows it."""
    return escape_html(visible(words))


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Return round numbers that cover a range, its ends included or passed.

    >>> ticks(0.0, 1.0), ticks(3.0, 17.0)
    ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [0.0, 5.0, 10.0, 15.0, 20.0])
    """
    if not high > low:
        pad = abs(low) * 0.1 or 1.0
        low, high = low - pad, high + pad
    rough = (high - low) / max(1, about - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.8)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    digits = max(0, 2 - math.floor(math.log10(step)))
    return [round(index * step, digits) for index in range(first, last + 1)]


def lines(series: Sequence[Series], *, title: str, x: str = "step", y: str = "", share: bool = False) -> Markup:
    """Draw curves over steps; `share` fixes the vertical range to 0–100 %."""
    series = [_thin(one) for one in series if one.points]
    if not series:
        return Markup("")
    height = 236
    xs = [px for one in series for px, _ in one.points]
    ys = [
        edge
        for one in series
        for (_, py), half in zip(one.points, _halves(one), strict=True)
        for edge in (py - half, py + half)
    ]
    x_marks = [mark for mark in ticks(min(xs), max(xs)) if min(xs) <= mark <= max(xs)] or [min(xs)]
    y_marks = [0.0, 0.25, 0.5, 0.75, 1.0] if share else ticks(min(ys), max(ys), 5)
    wide = _Scale(min(xs), max(xs), LEFT + 6, WIDTH - RIGHT - 6)
    high = _Scale(y_marks[0], y_marks[-1], height - BOTTOM, TOP + 18)
    parts = [_grid_y(high, y_marks, share), _axis_x(wide, x_marks, height - BOTTOM, x, height)]
    for index, one in enumerate(series[:4]):
        parts.append(_curve(one, wide, high, index + 1))
    parts.append(_legend([one.name for one in series[:4]], y))
    told = "; ".join(
        f"{one.name}: {figure(one.points[0][1])} at {x} {figure(one.points[0][0])}, "
        f"{figure(one.points[-1][1])} at {x} {figure(one.points[-1][0])}"
        for one in series
    )
    return _svg(title, told, height, parts, "lines")


def histogram(
    values: Sequence[float], within: tuple[float, float], *, bins: int, title: str, x: str, y: str, mark: float
) -> Markup:
    """Draw how many values fall into each of `bins` equal parts of a range; `mark` is a line to compare with."""
    if not values:
        return Markup("")
    height, (low, high) = 236, within
    counts = bin_counts(values, low, high, bins)
    y_marks = [mark_ for mark_ in ticks(0, max(counts), 4) if mark_ == int(mark_)]
    wide = _Scale(low, high, LEFT + 6, WIDTH - RIGHT - 6)
    tall = _Scale(0, y_marks[-1], height - BOTTOM, TOP + 18)
    x_marks = [low + (high - low) * part / 4 for part in range(5)]
    parts = [_grid_y(tall, y_marks, False), _axis_x(wide, x_marks, height - BOTTOM, x, height)]
    for index, n in enumerate(counts):
        start, end = (low + (high - low) * edge / bins for edge in (index, index + 1))
        if n:
            parts.append(
                f'<rect class="bar" x="{wide(start) + 0.75:.1f}" y="{tall(n):.1f}" '
                f'width="{wide(end) - wide(start) - 1.5:.1f}" height="{tall(0) - tall(n):.1f}" data-n="{n}">'
                f"<title>{figure(start)} to {figure(end)}: {n}</title></rect>"
            )
    at = f"{wide(mark):.1f}"
    parts.append(f'<line class="reference" x1="{at}" x2="{at}" y1="{TOP + 14}" y2="{height - BOTTOM}"/>')
    parts.append(_legend([], y))
    told = ", ".join(f"{figure(low + (high - low) * i / bins)}: {n}" for i, n in enumerate(counts))
    return _svg(title, f"{len(values)} values. {told}", height, parts, "histogram")


def bin_counts(values: Sequence[float], low: float, high: float, bins: int) -> list[int]:
    """Count values per bin; the last bin holds its upper edge, and values outside count at the ends.

    >>> bin_counts([0.0, 0.05, 0.5, 1.0], 0, 1, 10)
    [2, 0, 0, 0, 0, 1, 0, 0, 0, 1]
    """
    counts = [0] * bins
    for value in values:
        position = (value - low) / (high - low) * bins
        counts[min(bins - 1, max(0, math.floor(position + 1e-9)))] += 1
    return counts


def intervals(rows: Sequence[IntervalRow], *, title: str, x: str, reference: float = 0.5) -> Markup:
    """Draw win rates as dots with their intervals over 0–100 %, against a reference line."""
    if not any(row.value is not None for row in rows):
        return Markup("")
    line, left, right = 22, 138, 92
    foot = TOP + line * len(rows) + 8
    scale = _Scale(0.0, 1.0, left, WIDTH - right)
    parts = []
    for mark in (0.0, 0.25, 0.5, 0.75, 1.0):
        kind = "reference" if mark == reference else "grid"
        parts.append(f'<line class="{kind}" x1="{scale(mark):.1f}" x2="{scale(mark):.1f}" y1="{TOP - 4}" y2="{foot}"/>')
        parts.append(_text(scale(mark), foot + 15, percent(mark), "tick middle"))
    parts.append(_text((left + WIDTH - right) / 2, foot + 32, x, "label middle"))
    for index, row in enumerate(rows):
        middle = TOP + line * (index + 0.5)
        if row.value is None:
            parts.append(_text(0, middle + 4, row.name, "group"))
            continue
        parts.append(_interval(row, scale, middle, left, reference))
    return _svg(title, _told(rows), foot + 40, parts, "intervals")


def pairs(rows: Sequence[PairRow], *, title: str, x: str, share: bool = True) -> Markup:
    """Draw parent (ring) and successor (dot) on one line per row, joined, so the direction of change shows."""
    if not rows:
        return Markup("")
    line, left, right = 30, 84, 122
    foot = TOP + 22 + line * len(rows)
    top = max(max(row.parent, row.candidate) for row in rows)
    marks = [0.0, 0.25, 0.5, 0.75, 1.0] if share else ticks(0.0, top or 1.0, 4)
    scale = _Scale(marks[0], marks[-1], left, WIDTH - right)
    parts = []
    for mark in marks:
        parts.append(f'<line class="grid" x1="{scale(mark):.1f}" x2="{scale(mark):.1f}" y1="{TOP + 20}" y2="{foot}"/>')
        parts.append(_text(scale(mark), foot + 15, percent(mark) if share else figure(mark), "tick middle"))
    parts.append(_text((left + WIDTH - right) / 2, foot + 32, x, "label middle"))
    parts.append(f'<circle class="ring s2" cx="{left + 5}" cy="{TOP}" r="4.5"/>' + _text(left + 15, TOP + 4, "parent"))
    parts.append(f'<circle class="dot s1" cx="{left + 75}" cy="{TOP}" r="5"/>' + _text(left + 85, TOP + 4, "successor"))
    for index, row in enumerate(rows):
        middle = TOP + 22 + line * (index + 0.5)
        a, b = scale(row.parent), scale(row.candidate)
        parts.append(
            f'<g data-name="{escape(row.name)}">{_text(left - 10, middle + 4, row.name, "end")}'
            f'<line class="join" x1="{a:.1f}" x2="{b:.1f}" y1="{middle}" y2="{middle}"/>'
            f'<circle class="ring s2" cx="{a:.1f}" cy="{middle}" r="4.5"/><circle class="dot s1" cx="{b:.1f}" '
            f'cy="{middle}" r="5"/>{_text(WIDTH - right + 12, middle + 4, row.note, "note")}</g>'
        )
    shown = percent if share else figure
    told = "; ".join(f"{r.name}: parent {shown(r.parent)}, successor {shown(r.candidate)}, {r.note}" for r in rows)
    return _svg(title, told, foot + 40, parts, "pairs")


@dataclass(frozen=True)
class _Scale:
    """A linear map from values to units of the drawing."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        span = self.high - self.low
        part = (value - self.low) / span if span else 0.5
        return self.start + part * (self.end - self.start)


def _interval(row: IntervalRow, scale: _Scale, middle: float, left: float, reference: float) -> str:
    value = row.value if row.value is not None else reference
    low = value if row.low is None else max(0.0, row.low)
    high = value if row.high is None else min(1.0, row.high)
    side = "up" if low > reference else "down" if high < reference else "even"
    name = row.name if len(row.name) <= 22 else row.name[:21] + "…"
    radius = 5 if row.strong else 3.8
    return (
        f'<g class="{side}{" strong" if row.strong else ""}" data-name="{escape(row.name)}">'
        f"<title>{escape(row.name)}: {percent(value, 1)}, 95 % interval {percent(low, 1)} to {percent(high, 1)}</title>"
        f"{_text(left - 10, middle + 4, name, 'end')}"
        f'<line class="whisker" x1="{scale(low):.1f}" x2="{scale(high):.1f}" y1="{middle}" y2="{middle}"/>'
        f'<circle class="dot" cx="{scale(value):.1f}" cy="{middle}" r="{radius}"/>'
        f"{_text(WIDTH - 46, middle + 4, row.note, 'note end')}"
        f"{_text(WIDTH, middle + 4, row.aside, 'tick end')}</g>"
    )


def _told(rows: Sequence[IntervalRow]) -> str:
    return "; ".join(
        f"{row.name}: {percent(row.value, 1)} ({percent(row.low, 1)} to {percent(row.high, 1)})"
        for row in rows
        if row.value is not None
    )


def _halves(one: Series) -> Sequence[float]:
    return one.band if one.band is not None else [0.0] * len(one.points)


def _thin(one: Series) -> Series:
    """Average neighbours until at most `POINTS` are left."""
    group = math.ceil(len(one.points) / POINTS)
    if group <= 1:
        return one
    parts = [one.points[start : start + group] for start in range(0, len(one.points), group)]
    points = [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]
    halves = _halves(one)
    band = [
        sum(halves[start : start + group]) / len(halves[start : start + group])
        for start in range(0, len(one.points), group)
    ]
    return Series(name=one.name, points=points, band=band if one.band is not None else None)


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Return the mean of each value with its neighbours, `window` in all; fewer at the ends.

    >>> running_mean([0.0, 3.0, 6.0, 9.0], 3)
    [1.5, 3.0, 6.0, 7.5]
    """
    half = window // 2
    return [
        sum(part) / len(part)
        for part in (values[max(0, index - half) : index + half + 1] for index in range(len(values)))
    ]


def _curve(one: Series, wide: _Scale, high: _Scale, number: int) -> str:
    points, parts = list(one.points), []
    if one.band is not None:
        upper = [(x, y + half) for (x, y), half in zip(points, one.band, strict=True)]
        lower = [(x, y - half) for (x, y), half in zip(points, one.band, strict=True)]
        parts.append(f'<polygon class="band s{number}" points="{_path(upper + lower[::-1], wide, high)}"/>')
    if len(points) >= NOISY:
        parts.append(f'<polyline class="raw s{number}" points="{_path(points, wide, high)}"/>')
        smooth = running_mean([y for _, y in points], max(3, len(points) // 20))
        points = [(x, y) for (x, _), y in zip(points, smooth, strict=True)]
    shape = f'<polyline class="curve s{number}" points="{_path(points, wide, high)}"/>'
    if len(points) <= 12:
        shape += "".join(
            f'<circle class="dot s{number}" cx="{wide(x):.1f}" cy="{high(y):.1f}" r="2.8">'
            f"<title>{escape(one.name)} at {figure(x)}: {figure(y)}</title></circle>"
            for x, y in points
        )
    return f'<g data-series="{escape(one.name)}" data-points="{len(one.points)}">{"".join(parts)}{shape}</g>'


def _path(points: Sequence[tuple[float, float]], wide: _Scale, high: _Scale) -> str:
    return " ".join(f"{wide(x):.1f},{high(y):.1f}" for x, y in points)


def _grid_y(scale: _Scale, marks: Sequence[float], share: bool) -> str:
    parts = []
    for mark in marks:
        y = scale(mark)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(LEFT - 7, y + 4, percent(mark) if share else figure(mark), "tick end"))
    return "".join(parts)


def _axis_x(scale: _Scale, marks: Sequence[float], foot: float, label: str, height: float) -> str:
    parts = [f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{foot}" y2="{foot}"/>']
    parts += [_text(scale(mark), foot + 15, figure(mark), "tick middle") for mark in marks]
    return "".join(parts) + _text((LEFT + WIDTH - RIGHT) / 2, height - 6, label, "label middle")


def _legend(names: Sequence[str], y: str) -> str:
    parts = [_text(0, TOP, y, "label")]
    at = float(WIDTH - RIGHT)
    if len(names) > 1:
        for number, name in reversed(list(enumerate(names, start=1))):
            at -= 6.4 * len(name)
            parts.append(_text(at, TOP, name))
            ends = f'x1="{at - 20:.0f}" x2="{at - 6:.0f}" y1="{TOP - 4}" y2="{TOP - 4}"'
            parts.append(f'<line class="curve s{number}" {ends}/>')
            at -= 32
    return "".join(parts)


def _text(x: float, y: float, words: str, kind: str = "") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(words)}</text>' if words else ""


def _svg(title: str, told: str, height: float, parts: Sequence[str], kind: str) -> Markup:
    return Markup(
        f'<svg class="figure" data-figure="{kind}" viewBox="0 0 {WIDTH} {height:.0f}" role="img">'
        f"<title>{escape(title)}</title><desc>{escape(told)}</desc>{''.join(parts)}</svg>"
    )
