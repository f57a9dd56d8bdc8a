"""Pairs and soft labels on a scripted engine."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from cai.engines.base import GenerateRequest
from cai.engines.scripted import ScriptedEngine
from cai.errors import InputError
from cai.judges.base import Comparison, Verdict
from cai.label import pipeline
from cai.label.pipeline import LabelConfig, run_label
from cai.records.journal import of_type, read_journal
from cai.records.schema import Dropped, Preference
from cai.storage import seed_from


class LengthJudge:
    """Prefers the longer answer, and can't tell for answers of one length."""

    name = "length"
    model = "ruler"
    by_principle = True

    def __init__(self) -> None:
        self.seen: list[Comparison] = []

    def compare(self, comparisons: Iterable[Comparison]) -> Iterator[Verdict]:
        for item in comparisons:
            self.seen.append(item)
            a, b = len(item.response_a), len(item.response_b)
            prob = None if a == b else 0.9 if a > b else 0.2
            yield Verdict(id=item.id, prob_a=prob, reason="" if prob else "tie", prob_a_by_order=(0.9, 0.7))


def reply(request: GenerateRequest, seed: int) -> str:
    return "word " * (1 + seed_from(seed, str(request.prompt)) % 9)


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> LengthJudge:
    found = LengthJudge()
    monkeypatch.setattr(pipeline, "build_engine", lambda config: ScriptedEngine(reply))
    monkeypatch.setattr(pipeline, "build_judge", lambda *args, **kwargs: found)
    return found


def settings(tmp_path: Path, out: str, **more: object) -> LabelConfig:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"Question {n}?"}) + "\n" for n in range(12)))
    return LabelConfig.model_validate({"prompts": [path], "out": tmp_path / out, "window": 4, **more})


def preferences(out: Path) -> list[Preference]:
    return of_type(read_journal(out / "preferences.jsonl"), Preference)


def test_labels_are_the_judges_probabilities(tmp_path: Path, judge: LengthJudge) -> None:
    run_label(settings(tmp_path, "out"))
    found = preferences(tmp_path / "out")
    assert found
    for pair in found:
        assert pair.prob_a == pytest.approx(0.9 if len(pair.response_a) > len(pair.response_b) else 0.2)
        assert pair.principles
    rows = [json.loads(line) for line in (tmp_path / "out/pairs.jsonl").read_text().splitlines()]
    assert len(rows) == len(found)
    assert {round(row["chosen_prob"], 6) for row in rows} <= {0.9, 0.8}
    assert all(len(row["chosen"][0]["content"]) > len(row["rejected"][0]["content"]) for row in rows)


def test_equal_answers_and_abstentions_are_no_votes(tmp_path: Path, judge: LengthJudge) -> None:
    run_label(settings(tmp_path, "out"))
    dropped = of_type(read_journal(tmp_path / "out/preferences.jsonl"), Dropped)
    assert len(preferences(tmp_path / "out")) + len(dropped) == 12
    assert {item.reason for item in dropped} <= {"equal answers", "the judge abstained: tie"}
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["labels"] == len(preferences(tmp_path / "out"))
    assert sum(summary["dropped"].values()) == len(dropped)
    assert summary["position_flip_rate"] == 0.0


def test_several_principles_are_averaged(tmp_path: Path, judge: LengthJudge) -> None:
    run_label(settings(tmp_path, "out", principles_per_label=3))
    assert len(judge.seen) == 3 * 12
    assert all(len(set(pair.principles)) == 3 for pair in preferences(tmp_path / "out"))


def test_labels_are_clamped(tmp_path: Path, judge: LengthJudge) -> None:
    run_label(settings(tmp_path, "out", clamp=(0.4, 0.6)))
    assert {pair.prob_a for pair in preferences(tmp_path / "out")} <= {0.4, 0.6}


def test_a_cut_off_run_ends_with_the_same_bytes(tmp_path: Path, judge: LengthJudge) -> None:
    run_label(settings(tmp_path, "whole"))
    for kept in (0, 3, 9):
        out = tmp_path / f"cut-{kept}"
        out.mkdir()
        for name in ("responses", "preferences"):
            lines = (tmp_path / "whole" / f"{name}.jsonl").read_bytes().splitlines(keepends=True)[:kept]
            (out / f"{name}.jsonl").write_bytes(b"".join(lines))
        run_label(settings(tmp_path, out.name))
        for name in ("responses", "preferences", "pairs"):
            assert (out / f"{name}.jsonl").read_bytes() == (tmp_path / "whole" / f"{name}.jsonl").read_bytes()


def test_a_clamp_that_is_upside_down_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="clamp"):
        settings(tmp_path, "out", clamp=(0.6, 0.4))


def test_only_tagged_principles_judge(tmp_path: Path, judge: LengthJudge) -> None:
    run_label(settings(tmp_path, "out", tags=["privacy"]))
    assert judge.seen
    assert all("privacy" in item.principle.tags for item in judge.seen)
    with pytest.raises(InputError, match="no principle has the tag 'privcy'"):
        run_label(settings(tmp_path, "other", tags=["privcy"]))
