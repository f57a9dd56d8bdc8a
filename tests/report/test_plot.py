import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.report.plot import (
    POINTS,
    WIDTH,
    IntervalRow,
    PairRow,
    Series,
    bin_counts,
    histogram,
    intervals,
    lines,
    pairs,
    running_mean,
    ticks,
)

FINITE = st.floats(-1e12, 1e12, allow_nan=False)


def parts(svg: str, name: str, kind: str = "") -> list[ET.Element]:
    return [part for part in ET.fromstring(svg).iter(name) if kind in part.get("class", "").split() or not kind]


@given(FINITE, FINITE)
def test_ticks_cover_the_range_with_few_marks(one: float, other: float) -> None:
    low, high = min(one, other), max(one, other)
    marks = ticks(low, high)
    slack = 1e-6 * (1 + abs(low) + abs(high))
    assert 2 <= len(marks) <= 12
    assert marks[0] <= low + slack
    assert marks[-1] >= high - slack


def test_a_line_goes_through_its_points() -> None:
    svg = lines([Series(name="loss", points=[(0, 0.0), (5, 1.0), (10, 2.0)])], title="Loss", y="nats")
    (curve,) = parts(svg, "polyline", "curve")
    points = [tuple(map(float, point.split(","))) for point in (curve.get("points") or "").split()]
    assert len(points) == 3
    (x0, y0), (x1, y1), (x2, y2) = points
    assert x1 == pytest.approx((x0 + x2) / 2)
    assert y1 == pytest.approx((y0 + y2) / 2)
    assert y0 > y2  # up on the page is a smaller y
    words = [part.text for part in parts(svg, "text")]
    assert {"step", "nats"} <= set(words)
    assert parts(svg, "title")[0].text == "Loss"
    assert ET.fromstring(svg).get("role") == "img"


def test_a_long_noisy_line_is_thinned_and_smoothed() -> None:
    svg = lines([Series(name="kl", points=[(n, float(n % 2)) for n in range(4000)])], title="KL")
    (raw,) = parts(svg, "polyline", "raw")
    assert len((raw.get("points") or "").split()) == POINTS
    assert len(parts(svg, "polyline", "curve")) == 1
    assert running_mean([0, 1, 0, 1, 0], 3) == pytest.approx([0.5, 1 / 3, 2 / 3, 1 / 3, 0.5])


def test_a_band_a_legend_and_a_single_point() -> None:
    svg = lines(
        [Series(name="reward", points=[(1, 0.5)], band=[0.1]), Series(name="score", points=[(1, 0.7)])], title="Reward"
    )
    assert len(parts(svg, "polygon", "band")) == 1
    assert {"reward", "score"} <= {part.text for part in parts(svg, "text")}
    assert len(parts(svg, "circle")) == 2


def test_no_data_draws_nothing() -> None:
    assert lines([], title="x") == lines([Series(name="a", points=[])], title="x") == ""
    assert histogram([], (0, 1), bins=4, title="x", x="", y="", mark=0.5) == ""
    assert intervals([IntervalRow(name="heading")], title="x", x="") == pairs([], title="x", x="") == ""


def test_bars_are_as_high_as_their_counts() -> None:
    assert bin_counts([0.0, 0.5, 0.5, 1.0, 1.0, 1.0], 0, 1, 4) == [1, 0, 2, 3]
    assert bin_counts([0.15, 0.3, -9, 9], 0, 1, 20) == [1, 0, 0, 1, 0, 0, 1, *[0] * 12, 1]
    svg = histogram([0.0, 0.5, 0.5], (0, 1), bins=4, title="Labels", x="P(A)", y="pairs", mark=0.5)
    one, two = parts(svg, "rect", "bar")
    assert (one.get("data-n"), two.get("data-n")) == ("1", "2")
    assert float(two.get("height") or 0) == pytest.approx(2 * float(one.get("height") or 0), abs=0.2)


def test_an_interval_is_coloured_only_when_it_leaves_out_one_half() -> None:
    rows = [
        IntervalRow(name="up", value=0.7, low=0.55, high=0.8),
        IntervalRow(name="heading"),
        IntervalRow(name="even", value=0.6, low=0.45, high=0.75),
        IntervalRow(name="down", value=0.2, low=0.1, high=0.4),
    ]
    svg = intervals(rows, title="Win rate", x="successor wins")
    groups = parts(svg, "g")
    assert [(group.get("data-name"), group.get("class")) for group in groups] == [
        ("up", "up"), ("even", "even"), ("down", "down"),
    ]  # fmt: skip
    whisker = groups[0].find("line")
    dot = groups[0].find("circle")
    assert whisker is not None
    assert dot is not None
    assert float(whisker.get("x1") or 0) < float(dot.get("cx") or 0) < float(whisker.get("x2") or 0)


def test_pairs_show_both_values() -> None:
    svg = pairs([PairRow(name="benign", parent=0.2, candidate=0.6, note="+40.0")], title="Refusal", x="share")
    (group,) = parts(svg, "g")
    ring, dot = group.findall("circle")
    assert float(ring.get("cx") or 0) < float(dot.get("cx") or 0) < WIDTH


def test_names_from_outside_stay_text() -> None:
    name = "</text><script>alert(1)</script>\"'&\u202e"
    rows = [IntervalRow(name=name, value=0.5, low=0.4, high=0.6, note=name)]
    svg = intervals(rows, title=name, x=name) + pairs([PairRow(name=name, parent=0, candidate=1)], title=name, x=name)
    svg += lines([Series(name=name, points=[(0, 0)]), Series(name=name, points=[(0, 1)])], title=name, x=name, y=name)
    root = ET.fromstring(f"<div>{svg}</div>")
    assert not list(root.iter("script"))
    assert "\u202e" not in svg
