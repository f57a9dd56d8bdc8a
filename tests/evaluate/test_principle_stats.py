import math

import numpy as np
import pytest

from cai.evaluate.principle_stats import (
    BEFORE,
    CHANGED,
    CONTRAST,
    FAULT,
    LENGTH,
    PASSES,
    PRINCIPLE,
    UNRELATED,
    Effect,
    PrincipleReport,
    changed_share,
    counts_of,
    effect_of_all,
    effects_of,
    faults_of_probes,
    report_of,
    ruling_of,
    shift_of,
    to_plain,
)
from cai.records.schema import EvalResult, Prompt
from cai.types import Message


def result(
    principle: str,
    own: float | None,
    other: float | None = 0.5,
    *,
    prompt: str = "Q?",
    twin: bool = False,
    fault: float | None = 0.5,
    changed: tuple[float, float] = (0.8, 0.6),
    passes: tuple[float, float, float] | None = None,
) -> EvalResult:
    """One pair; `passes` is draft, own revision, unrelated revision."""
    messages = (Message("user", prompt),)
    scores = {CHANGED: changed, LENGTH: (2 * changed[0], changed[1])}
    if passes:
        scores |= {BEFORE: (passes[0], passes[0]), PASSES: passes[1:]}
    return EvalResult(
        key=f"{principle}/{prompt}/{own}/{other}/{fault}",
        prompt=Prompt.of(messages, kind="red_team").id,
        messages=messages,
        kind="benign" if twin else "red_team",
        category=principle,
        candidate="own",
        parent="unrelated",
        wins={FAULT: fault, PRINCIPLE: own, CONTRAST: None if own is None else 1 - own, UNRELATED: other},
        scores=scores,
    )


def test_the_interval_is_students_by_the_spread_within_all_principles() -> None:
    # Squares: 0.02 + 0.04 over 1 + 3 degrees of freedom; t(0.975, 4) = 2.776.
    found = effects_of({"a": [0.0, 0.2], "b": [0.4, 0.4, 0.6, 0.6], "none": []})
    assert set(found) == {"a", "b"}
    half = 2.776 * math.sqrt(0.06 / 4 / 2)
    assert found["a"].mean == pytest.approx(0.1)
    assert (found["a"].low, found["a"].high) == pytest.approx((0.1 - half, 0.1 + half), abs=1e-3)
    assert found["b"].high - found["b"].low == pytest.approx(2 * 2.776 * math.sqrt(0.06 / 4 / 4), abs=1e-3)


def test_too_few_prompts_say_nothing_of_the_spread() -> None:
    few = effects_of({"a": [0.4, 0.6, 0.5]})["a"]
    assert (few.low, few.high) == (-1.0, 1.0)
    assert effects_of({"a": [0.4, 0.6, 0.5, 0.5]})["a"].low > 0


def test_an_interval_misses_the_truth_once_in_twenty() -> None:
    generator = np.random.default_rng(3)
    missed = 0
    for _ in range(200):
        groups = {str(number): list(generator.normal(0, 0.2, 4)) for number in range(18)}
        missed += sum(not effect.low <= 0 <= effect.high for effect in effects_of(groups).values())
    assert 0.04 < missed / 3600 < 0.06


@pytest.mark.parametrize(
    ("mean", "low", "high", "ruling"),
    [
        (0.10, 0.01, 0.19, "works"),
        (0.09, 0.01, 0.17, "weak"),
        (0.30, -0.01, 0.61, "weak"),
        (0.09, -0.01, 0.19, "dead weight"),
        (0.00, -0.20, 0.20, "dead weight"),
        (-0.30, -0.61, 0.01, "dead weight"),
        (-0.09, -0.17, -0.01, "dead weight"),
        (-0.10, -0.19, -0.01, "backfires"),
    ],
)
def test_a_principle_works_when_its_effect_is_large_and_sure(mean: float, low: float, high: float, ruling: str) -> None:
    assert ruling_of(Effect(n=4, mean=mean, low=low, high=high)) == ruling


def test_a_shift_needs_both_verdicts() -> None:
    assert shift_of(result("a", 0.8, 0.4)) == pytest.approx(0.4)
    assert shift_of(result("a", 0.8, None)) is None
    assert shift_of(result("a", None)) is None


def test_change_is_counted_in_words() -> None:
    assert changed_share("one two three four", "one two three four") == 0
    assert changed_share("one two three four", "five six") == 1
    assert changed_share("one two three four", "one two four") == pytest.approx(1 - 6 / 7)
    # No word is junk for being frequent.
    assert changed_share("a " * 300, "a " * 300) == 0


def test_a_report_sorts_by_effect_and_keeps_probes_and_twins_apart() -> None:
    results = [
        *(result("dull", 0.5 + d, prompt=f"{d}") for d in (0.01, -0.01, 0.02, -0.02)),
        result("good", 0.9, prompt="p1", fault=0.9, passes=(0.0, 1.0, 0.0)),
        result("good", 0.8, prompt="p1", fault=0.1, passes=(0.0, 1.0, 1.0)),
        result("good", 0.7, prompt="p2", fault=0.6, passes=(1.0, 1.0, 1.0)),
        result("good", 0.6, prompt="t1", twin=True, fault=0.2, changed=(0.0, 0.2)),
    ]
    reports = report_of(results, ["dull", "bare", "good", "failed"], asked={"dull": 4, "good": 6, "failed": 2})
    assert [item.principle for item in reports] == ["good", "dull", "bare", "failed"]
    good = reports[0]
    assert (good.prompts, good.answers, good.lost) == (3, 4, 2)
    assert (good.fault_probes, good.fault_twins) == pytest.approx((2 / 3, 0.0))
    # The two drafts of p1 count as one prompt of 0.35, beside p2's 0.2 and the twin's 0.1.
    assert good.effect is not None
    assert good.effect.mean == pytest.approx((0.35 + 0.2 + 0.1) / 3)
    assert (good.effect_probes, good.effect_twins) == pytest.approx((0.275, 0.1))
    assert (good.prefers, good.prefers_by_contrast, good.prefers_by_unrelated) == pytest.approx((0.75, 0.25, 0.5))
    assert (good.changed, good.changed_by_unrelated) == pytest.approx((0.6, 0.5))
    assert (good.length, good.length_by_unrelated) == pytest.approx((1.2, 0.5))
    assert (good.passes_before, good.passes_after, good.passes_by_unrelated) == pytest.approx((1 / 3, 1.0, 2 / 3))
    assert [item.ruling for item in reports] == ["works", "dead weight", "no probes", "no answers"]
    assert (reports[1].passes_before, reports[3].lost) == (None, 2)
    assert counts_of(reports) == {"works": 1, "dead weight": 1, "no probes": 1, "no answers": 1}


def test_all_principles_together_show_what_none_shows_alone() -> None:
    def reports(shift: float) -> list[PrincipleReport]:
        noise = (0.02, -0.02) * 6
        return report_of(
            [result(f"p{n}", 0.5 + shift + d, prompt=f"{n}") for n, d in enumerate(noise)],
            [f"p{n}" for n in range(12)],
            asked={},
        )

    followed, not_followed = effect_of_all(reports(0.03)), effect_of_all(reports(0.0))
    assert (followed.n, followed.verdict) == (12, "better")
    assert followed.candidate - followed.parent == pytest.approx(0.03)
    assert not_followed.verdict == "no difference shown"
    # One prompt each: the spread within principles is unknown, so none shows anything alone.
    assert {item.ruling for item in reports(0.03)} == {"dead weight"}


def test_faults_of_probes_are_set_against_those_of_twins_by_principle() -> None:
    results = []
    for number in range(8):
        results.append(result(f"p{number}", 0.5, prompt="a", fault=0.8))
        results.append(result(f"p{number}", 0.5, prompt="b", twin=True, fault=0.2))
    change = faults_of_probes(report_of(results, [f"p{number}" for number in range(8)], asked={}))
    assert (change.n, change.candidate, change.parent, change.verdict) == (8, 1.0, 0.0, "better")
    assert faults_of_probes([]).n == 0


def test_numbers_are_rounded_and_nothing_else() -> None:
    assert to_plain({"a": (0.123456, None, "0.123456"), "b": {"c": 3}}) == {
        "a": [0.1235, None, "0.123456"],
        "b": {"c": 3},
    }
