from cai.report.compare import read_comparison


def test_a_summary_with_holes_is_read_as_far_as_it_goes() -> None:
    view = read_comparison(
        [], {"measures": {"m": {"n": 0, "win_rate": 0.5, "low": 0, "high": 1}, "x": None}, "rates": {"r": {}}}
    )
    assert [(measure.name, measure.verdict, measure.abstained) for measure in view.measures] == [
        ("m", "not measured", 0),
        ("x", "not measured", 0),
    ]
    assert view.rates == ()


def test_a_change_without_an_interval_is_not_shown() -> None:
    summary = {"rates": {"cut_off": {"benign": {"n": 9, "candidate": 0.5, "parent": 0.1}}}}
    ((_, (change,)),) = read_comparison([], summary).rates
    assert change.difference == 0.4
    assert not change.shown
