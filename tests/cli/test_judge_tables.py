"""The tables of `cai judge`, at the width of a small terminal."""

from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from cai.cli.judge_tables import show_attacks, show_audits, show_weights
from cai.judges.attacks import BLANK, CONTROL, AttackReport, Figures
from cai.judges.audit import Audit, Bin
from cai.label.learned import LearnedWeights

BINS = (
    Bin(low=0.5, high=0.6, n=10, confidence=0.55, accuracy=0.5),
    Bin(low=0.9, high=1.0, n=4, confidence=1.0, accuracy=0.0),
)
AUDIT = Audit(
    judge="preference_model",
    model="m",
    constitution="c",
    pairs=1200,
    abstained=100,
    accuracy=1.0,
    interval=(0.89, 1.0),
    brier=0.25,
    ece=1.0,
    nll=0.7,
    temperature=20.0,
    brier_scaled=0.2,
    ece_scaled=0.051,
    nll_scaled=0.6,
    flip_rate=1.0,
    longer_share=1.0,
    longer_better=1.0,
    length_correlation=0.1,
    by_principle={},
    by_source={"a": (10, 0.5)},
    bins=BINS,
    reasons={"tie": 1, "answer A has no words": 99},
)
FIGURES = Figures(
    trials=192,
    wins_before=0.5,
    wins=0.6,
    gain=0.1,
    margin=1.3,
    abstained_before=0.0,
    abstained=0.0,
    changed=0.2,
    consistent=1.0,
)


def printed(show: Callable[[Console], None], width: int = 80) -> str:
    out = StringIO()
    show(Console(file=out, width=width, highlight=False))
    assert max(map(len, out.getvalue().splitlines())) <= width
    assert "…" not in out.getvalue()
    return out.getvalue()


def test_the_widest_audit_fits_into_eighty_columns() -> None:
    said = printed(lambda console: show_audits([AUDIT], None, console))
    assert "preference_model   100% 89–100  1200  100  100% .25/.20 1.00/.05 20.0 100/100" in said
    assert "preference_model, no vote: 100\n  99 × answer A has no words\n  1 × tie\n" in said
    assert "source" not in said
    assert "alpha" not in said


def test_the_bars_are_as_long_as_the_judge_is_right_and_marked_where_it_is_sure() -> None:
    said = printed(lambda console: show_audits([AUDIT], None, console))
    (low,) = [line for line in said.splitlines() if "50–60 %" in line]
    (high,) = [line for line in said.splitlines() if "90–100 %" in line]
    assert low.rstrip().endswith("50%  " + "█" * 15 + " ┃")
    assert high.rstrip().endswith("0%  " + " " * 29 + "┃")


def test_judges_stand_side_by_side_by_principle_and_a_judge_of_the_whole_is_left_out() -> None:
    one = replace(AUDIT, judge="pairwise", by_principle={"calm": (4, 0.25), "kind": (2, 1.0)})
    other = replace(AUDIT, judge="pointwise", by_principle={"calm": (3, 2 / 3)})
    said = printed(lambda console: show_audits([one, other, AUDIT], 0.25, console))
    (head,) = [line for line in said.splitlines() if "principle: agrees" in line]
    assert head.split() == ["principle:", "agrees", "pairwise", "pointwise"]
    assert said.index(" kind ") < said.index(" calm ")
    (calm,) = [line for line in said.splitlines() if line.startswith(" calm ")]
    assert calm.split() == ["calm", "25%", "of", "4", "67%", "of", "3"]
    assert "Krippendorff's alpha between the judges: 0.25" in said


@pytest.mark.parametrize(
    ("interval", "said"), [((0.3, 0.49), "worse than a coin"), ((0.4, 0.6), "no better than a coin"), ((0.51, 0.7), "")]
)
def test_a_judge_like_a_coin_is_named(interval: tuple[float, float], said: str) -> None:
    shown = printed(lambda console: show_audits([replace(AUDIT, interval=interval)], None, console))
    assert said in shown
    assert ("than a coin" in shown) is bool(said)


def test_many_reasons_are_summed_up_and_a_judge_without_a_vote_is_no_coin() -> None:
    silent = replace(AUDIT, abstained=1200, interval=(0.0, 1.0), bins=(), reasons={f"r{n}": 10 - n for n in range(5)})
    said = printed(lambda console: show_audits([silent], None, console))
    assert "preference_model: not one vote" in said
    assert "coin on" not in said
    assert "  8 × r2\n  13 × other reasons\n" in said


def report(**families: Figures) -> AttackReport:
    return AttackReport(
        judge="x", model="m", constitution="c", pairs=12, attacks=64, overall=FIGURES, families=dict(families)
    )


def test_attacks_are_listed_worst_first_and_no_attack_last() -> None:
    families = {
        CONTROL: replace(FIGURES, gain=0.9),
        BLANK: replace(FIGURES, consistent=None),
        "turn": FIGURES,
        "claim": replace(FIGURES, gain=0.2, margin=None),
    }
    said = printed(lambda console: show_attacks("pairwise", report(**families), ["too much"], console))
    order = [said.index(f" {name} ") for name in ("claim", "turn", "all of these", "no attack", "no words")]
    assert order == sorted(order)
    assert "-100.0 to +100.0" in said, "a gain can't be more"
    assert "Beyond what a harmless sentence does, attacks gain -80.0 points." in said
    assert "pairwise gives in:\n  too much" in said
    assert "pairwise holds on 12 pairs" in printed(lambda console: show_attacks("pairwise", report(), [], console))


def test_weights_are_shown_or_said_to_be_one() -> None:
    learned = LearnedWeights(
        weights={"kind": 0.1, "calm": 0.5, "noise": 0.0, "none": 0.001},
        common=0.3,
        pairs=40,
        folded=False,
        accuracy=0.7,
        accuracy_common=0.6,
        nll=0.61,
        nll_common=0.65,
    )
    said = printed(lambda console: show_weights(learned, Path("w.json"), console))
    assert said.index("calm") < said.index("kind") < said.index("2 others")
    assert "right in 70%, loss 0.610\n" in said
    alike = learned.model_copy(update={"folded": True})
    assert "each counts 0.30" in printed(lambda console: show_weights(alike, Path("w.json"), console))
