"""Below its floor a judge labels nothing."""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from cai.constitution import Constitution, Principle, load_constitution
from cai.errors import GateError, InputError
from cai.judges.base import Comparison, Verdict
from cai.label import pipeline
from cai.label.floor import FloorConfig, check_floor
from cai.label.pipeline import LabelConfig, run_label
from tests.label.test_pipeline import LengthJudge, reply, settings

RULES = load_constitution("harmless")


class Coin:
    """Prefers what is shown first, in both orders."""

    name = model = "coin"
    by_principle = False

    def compare(self, comparisons: Iterable[Comparison]) -> Iterator[Verdict]:
        for item in comparisons:
            yield Verdict(id=item.id, prob_a=0.6, prob_a_by_order=(0.9, 0.3))


class Quiet:
    """Prefers the answer that begins as the pairs' better one does, whatever follows it."""

    name = model = "quiet"
    by_principle = False

    def compare(self, comparisons: Iterable[Comparison]) -> Iterator[Verdict]:
        for item in comparisons:
            good = [text.startswith("a long answer") for text in (item.response_a, item.response_b)]
            yield Verdict(id=item.id, prob_a=None if good[0] == good[1] else 0.9 if good[0] else 0.1)


class Silent(Coin):
    def compare(self, comparisons: Iterable[Comparison]) -> Iterator[Verdict]:
        for item in comparisons:
            yield Verdict(id=item.id, prob_a=None, reason="tie")


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "people.jsonl"
    rows = [{"prompt": f"Q{n}", "chosen": f"a long answer {n}", "rejected": f"no {n}"} for n in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_good_judge_passes_and_its_figures_are_kept(pairs: Path, tmp_path: Path) -> None:
    floor = FloorConfig(on=[pairs], pairs=30, min_accuracy=0.9, max_flip_rate=0.1)
    found = check_floor(floor, LengthJudge(), RULES, seed=0, out=tmp_path)
    assert (found.pairs, found.accuracy) == (30, 1.0)
    assert json.loads((tmp_path / "judge_audit.json").read_text())["accuracy"] == 1.0


def test_a_judge_below_any_floor_is_refused_with_all_reasons(pairs: Path, tmp_path: Path) -> None:
    floor = FloorConfig(on=[pairs], min_accuracy=0.9, max_flip_rate=0.1)
    with pytest.raises(GateError, match=r"'coin' is below the floor on 40 pairs: agrees .* 90%\), changes with the"):
        check_floor(floor, Coin(), RULES, seed=0, out=tmp_path)
    assert (tmp_path / "judge_audit.json").is_file()
    with pytest.raises(GateError, match="no verdict on 100%"):
        check_floor(FloorConfig(on=[pairs]), Silent(), RULES, seed=0, out=tmp_path)


class Obedient(LengthJudge):
    """Chooses the answer that speaks of judging."""

    def compare(self, comparisons: Iterable[Comparison]) -> Iterator[Verdict]:
        every = list(comparisons)
        for item, verdict in zip(every, super().compare(every), strict=True):
            words = [len(re.findall(r"judge|rule|prefer|choose", text)) for text in (item.response_a, item.response_b)]
            yield verdict if words[0] == words[1] else Verdict(id=item.id, prob_a=0.9 if words[0] > words[1] else 0.1)


def test_a_judge_that_can_be_talked_over_is_refused(pairs: Path, tmp_path: Path) -> None:
    steady = FloorConfig(on=[pairs], min_accuracy=0.9, max_attack_gain=0.05, attack_pairs=4)
    check_floor(steady, Quiet(), RULES, seed=0, out=tmp_path)
    kept = json.loads((tmp_path / "judge_attacks.json").read_text())
    assert (kept["pairs"], kept["overall"]["gain"], kept["overall"]["trials"]) == (4, 0, 4 * 14 * 4)
    with pytest.raises(GateError, match=r"below the floor on 40 pairs: attacked answers win [\d.]+ points more often"):
        check_floor(steady, Obedient(), RULES, seed=0, out=tmp_path)
    check_floor(FloorConfig(on=[pairs], min_accuracy=0.9), Obedient(), RULES, seed=0, out=tmp_path / "unattacked")
    assert not (tmp_path / "unattacked" / "judge_attacks.json").exists()


def test_a_judge_that_can_be_won_by_silence_is_refused(pairs: Path, tmp_path: Path) -> None:
    class Short(Quiet):
        def compare(self, comparisons: Iterable[Comparison]) -> Iterator[Verdict]:
            for item, verdict in zip(every := list(comparisons), super().compare(every), strict=True):
                blank = not item.response_a.strip(" \n:…")
                yield Verdict(id=item.id, prob_a=0.9) if blank else verdict

    floor = FloorConfig(on=[pairs], max_attack_gain=0.05, attack_pairs=4)
    with pytest.raises(GateError, match=r"answers without words win in \d\d% \(at most 5%\)"):
        check_floor(floor, Short(), RULES, seed=0, out=tmp_path)


def test_the_judge_is_asked_as_it_will_be_for_labels(pairs: Path, tmp_path: Path) -> None:
    rules = Constitution(
        name="two",
        version="1",
        principles=tuple(Principle(id=f"p{n}", text="Be kind.", tags=("odd",) if n % 2 else ()) for n in range(8)),
    )
    judge = LengthJudge()
    floor = FloorConfig(on=[pairs], max_attack_gain=1.0, attack_pairs=4)
    found = check_floor(floor, judge, rules, principles_per_pair=3, tags=("odd",), seed=0, out=tmp_path)
    assert set(found.by_principle) == {"p1", "p3", "p5", "p7"}
    assert sum(votes for votes, _ in found.by_principle.values()) == 40 * 3
    assert {asked.principle.id for asked in judge.seen} == {"p1", "p3", "p5", "p7"}, "under attack, too"


def test_the_stage_ends_before_it_labels(pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cai.engines.scripted import ScriptedEngine

    monkeypatch.setattr(pipeline, "build_engine", lambda config: ScriptedEngine(reply))
    monkeypatch.setattr(pipeline, "build_judge", lambda *args, **kwargs: Coin())
    config = settings(tmp_path, "out", floor={"on": [pairs], "min_accuracy": 0.9})
    with pytest.raises(GateError, match="nothing was labelled"):
        run_label(config)
    assert not (tmp_path / "out" / "preferences.jsonl").exists()
    monkeypatch.setattr(pipeline, "build_judge", lambda *args, **kwargs: LengthJudge())
    run_label(config)
    assert (tmp_path / "out" / "pairs.jsonl").is_file()


def test_a_bad_file_is_told_before_anything_is_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(config: object) -> None:
        raise AssertionError

    monkeypatch.setattr(pipeline, "build_engine", never)
    config: LabelConfig = settings(tmp_path, "out", floor={"on": [tmp_path / "none.jsonl"]})
    with pytest.raises(InputError, match="no such file"):
        run_label(config)
