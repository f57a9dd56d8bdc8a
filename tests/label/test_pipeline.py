"""Pairs and soft labels on a scripted engine."""

import json
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cai.budget import BudgetError
from cai.constitution import load_constitution
from cai.engines.base import GenerateRequest
from cai.engines.scripted import ScriptedEngine
from cai.errors import InputError
from cai.judges.base import Comparison, Verdict
from cai.judges.pairwise import sigmoid
from cai.label import pipeline
from cai.label.aggregate import logit
from cai.label.learned import LearnedWeights
from cai.label.pipeline import LabelConfig, run_label
from cai.label.sources import build_source
from cai.records.journal import of_type, read_journal
from cai.records.loaders import PromptSet, load_prompts
from cai.records.schema import Draft, Dropped, Preference
from cai.storage import seed_from
from tests.label.test_sources import chain, draft, write


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
    equal = json.loads((tmp_path / "out/summary.json").read_text())["dropped"].get("label: equal answers", 0)
    assert len(judge.seen) == 3 * (12 - equal), "of equal answers nobody is asked"
    assert all(len(set(pair.principles)) == 3 for pair in preferences(tmp_path / "out"))


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


def test_only_tagged_principles_judge(tmp_path: Path, judge: LengthJudge) -> None:
    run_label(settings(tmp_path, "out", tags=["privacy"]))
    assert judge.seen
    assert all("privacy" in item.principle.tags for item in judge.seen)
    with pytest.raises(InputError, match="no principle has the tag 'privcy'"):
        run_label(settings(tmp_path, "other", tags=["privcy"]))


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "pairs.jsonl").read_text().splitlines()]


def test_the_disagreement_of_votes_comes_with_the_row(tmp_path: Path, judge: LengthJudge) -> None:
    run_label(settings(tmp_path, "one"))
    assert {row["spread"] for row in rows_of(tmp_path / "one")} == {None}
    run_label(settings(tmp_path, "two", principles_per_label=2))
    assert {row["spread"] for row in rows_of(tmp_path / "two")} == {0.0}, "this judge's votes are alike"
    assert json.loads((tmp_path / "two/summary.json").read_text())["mean_spread"] == 0.0


def test_learned_weights_replace_those_of_the_constitution(tmp_path: Path, judge: LengthJudge) -> None:
    path = tmp_path / "weights.json"
    figures = {"pairs": 40, "folded": True, "accuracy": 0.7, "accuracy_common": 0.7, "nll": 0.6, "nll_common": 0.6}
    ids = [principle.id for principle in load_constitution("harmless").principles]
    LearnedWeights.model_validate({"weights": dict.fromkeys(ids, 0.5), "common": 0.5, **figures}).save(path)
    run_label(settings(tmp_path, "out", learned_weights=path))
    half = {round(sigmoid(logit(prob) / 2), 6) for prob in (0.9, 0.2)}
    hard = {principle.id for principle in load_constitution("harmless").principles if principle.priority == "hard"}
    soft = [pair for pair in preferences(tmp_path / "out") if not hard & set(pair.principles)]
    assert {round(pair.prob_a, 6) for pair in soft} == half
    LearnedWeights.model_validate({"weights": {"other": 1.0}, "common": 1.0, **figures}).save(path)
    with pytest.raises(InputError, match="no weight for any principle of 'harmless'"):
        run_label(settings(tmp_path, "other", learned_weights=path))


def test_bad_weights_are_told_before_a_model_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "build_engine", never)
    path = tmp_path / "weights.json"
    path.write_text('{"weights": {"a": -1}}')
    with pytest.raises(InputError, match=r"weights\.json:1:19: weights\.a: "):
        run_label(settings(tmp_path, "out", learned_weights=path))


def never(*args: object, **kwargs: object) -> None:
    raise AssertionError


def test_two_models_answer_every_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, judge: LengthJudge) -> None:
    monkeypatch.setattr(
        pipeline,
        "build_engine",
        lambda config: ScriptedEngine(
            lambda request, seed: f"{config.model} says {reply(request, seed)}", model=config.model
        ),
    )
    run_label(settings(tmp_path, "out", pairs={"kind": "models", "other": {"model": "other"}}))
    for pair in preferences(tmp_path / "out"):
        assert pair.response_a.startswith("embedded says")
        assert pair.response_b.startswith("other says")
        assert pair.provenance is not None
        assert pair.provenance.model == "embedded"


def test_the_best_of_several_is_set_against_the_worst(tmp_path: Path, judge: LengthJudge) -> None:
    run_label(settings(tmp_path, "out", pairs={"kind": "best_of", "n": 4}))
    answers = of_type(read_journal(tmp_path / "out/responses.jsonl"), Draft)
    assert len(answers) == 4 * 12
    found = preferences(tmp_path / "out")
    assert found
    for pair in found:
        lengths = [len(answer.text) for answer in answers if answer.prompt == pair.prompt]
        assert {len(pair.response_a), len(pair.response_b)} == {min(lengths), max(lengths)}
        assert pair.prob_a == pytest.approx(0.9 if len(pair.response_a) == max(lengths) else 0.2)
    assert {pair.prob_a > 0.5 for pair in found} == {True, False}, "the better one is not always A"


def test_a_contrast_is_judged_by_the_principle_that_made_it(tmp_path: Path, judge: LengthJudge) -> None:
    run_label(settings(tmp_path, "out", pairs={"kind": "contrast"}, principles_per_label=2))
    source = build_source(
        settings(tmp_path, "out", pairs={"kind": "contrast"}),
        load_constitution("harmless"),
        PromptSet.load([tmp_path / "prompts.jsonl"]),
    )
    found = preferences(tmp_path / "out")
    prompts = {prompt.id: prompt for prompt in load_prompts([tmp_path / "prompts.jsonl"])}
    for pair in found:
        told = source.asks(prompts[pair.prompt])[0].dialogue[0].content
        assert load_constitution("harmless")[pair.principles[0]].text == told
        assert len(set(pair.principles)) == 2
        assert pair.messages == prompts[pair.prompt].messages, "the row has no instruction"


def test_a_contrast_by_construction_asks_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, judge: LengthJudge
) -> None:
    monkeypatch.setattr(pipeline, "build_judge", never)
    run_label(settings(tmp_path, "out", pairs={"kind": "contrast", "certainty": 0.8}))
    found = preferences(tmp_path / "out")
    assert {(round(pair.prob_a, 9), pair.judge, len(pair.principles)) for pair in found} == {(0.8, "construction", 1)}
    assert {round(row["chosen_prob"], 9) for row in rows_of(tmp_path / "out")} == {0.8}
    assert not judge.seen


def test_drafts_and_revisions_need_no_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, judge: LengthJudge
) -> None:
    monkeypatch.setattr(pipeline, "build_engine", never)
    config = settings(tmp_path, "out", pairs={"kind": "revisions", "run": tmp_path / "run"})
    start = draft("A draft", load_prompts(config.prompts)[0])
    critiques, revisions = chain(start, 2)
    write(tmp_path / "run", "drafts", start)
    write(tmp_path / "run", "critiques", *critiques)
    write(tmp_path / "run", "revisions", *revisions)
    run_label(config)
    (pair,) = preferences(tmp_path / "out")
    assert (pair.response_a, pair.response_b, pair.prob_a) == ("A draft", "A draft 2", 0.2)


@pytest.mark.parametrize(
    "pairs", [{"kind": "best_of", "n": 3}, {"kind": "contrast"}, {"kind": "models", "other": {"model": "b"}}]
)
def test_pairs_of_every_kind_are_resumed(tmp_path: Path, judge: LengthJudge, pairs: dict[str, Any]) -> None:
    run_label(settings(tmp_path, "whole", pairs=pairs))
    cut = tmp_path / "cut"
    cut.mkdir()
    for name, kept in (("responses", 17), ("preferences", 5)):
        lines = (tmp_path / "whole" / f"{name}.jsonl").read_bytes().splitlines(keepends=True)[:kept]
        (cut / f"{name}.jsonl").write_bytes(b"".join(lines))
    run_label(settings(tmp_path, "cut", pairs=pairs))
    for name in ("responses", "preferences", "pairs"):
        assert (cut / f"{name}.jsonl").read_bytes() == (tmp_path / "whole" / f"{name}.jsonl").read_bytes()


def test_a_folder_holds_labels_of_one_making(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, judge: LengthJudge
) -> None:
    run_label(settings(tmp_path, "out"))
    before = (tmp_path / "out/pairs.jsonl").read_bytes()
    judge.model = "another"
    with pytest.raises(InputError, match="was made with another models"):
        run_label(settings(tmp_path, "out"))
    judge.model = "ruler"
    monkeypatch.setattr(pipeline, "build_engine", never)
    for more in ({"pairs": {"kind": "contrast"}}, {"seed": 1}, {"sampling": {"temperature": 0.5}}, {"tags": ["legal"]}):
        with pytest.raises(InputError, match=f"was made with another {next(iter(more))}"):
            run_label(settings(tmp_path, "out", **more))
    assert (tmp_path / "out/pairs.jsonl").read_bytes() == before


def test_prompts_of_the_evaluation_are_not_labelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "build_engine", never)
    path = tmp_path / "held_out.jsonl"
    path.write_text(json.dumps({"prompt": "question 3"}) + "\n")
    with pytest.raises(InputError, match=r"prompts\.jsonl:4:1: held out for evaluation in .*held_out\.jsonl"):
        run_label(settings(tmp_path, "out", held_out=[path]))


def test_ctrl_c_ends_between_windows_and_the_rest_is_owed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, judge: LengthJudge
) -> None:
    run_label(settings(tmp_path, "whole"))
    asked: list[GenerateRequest] = []

    def interrupted(request: GenerateRequest, seed: int) -> str:
        asked.append(request)
        if len(asked) == 3:
            signal.raise_signal(signal.SIGINT)
        return reply(request, seed)

    monkeypatch.setattr(pipeline, "build_engine", lambda config: ScriptedEngine(interrupted))
    with pytest.raises(KeyboardInterrupt):
        run_label(settings(tmp_path, "cut"))
    assert len((tmp_path / "cut/responses.jsonl").read_text().splitlines()) == 2 * 4, "the window was finished"
    run_label(settings(tmp_path, "cut"))
    assert (tmp_path / "cut/pairs.jsonl").read_bytes() == (tmp_path / "whole/pairs.jsonl").read_bytes()


def test_a_spent_budget_keeps_what_was_made_and_a_larger_one_goes_on(tmp_path: Path, judge: LengthJudge) -> None:
    run_label(settings(tmp_path, "whole", sampling={"max_new_tokens": 60}))
    small = {"sampling": {"max_new_tokens": 60}, "budget": {"tokens": 900}}
    with pytest.raises(BudgetError, match=r"of 900 tokens used, and the next call may cost \d+ tokens"):
        run_label(settings(tmp_path, "out", **small))
    assert len((tmp_path / "out/responses.jsonl").read_text().splitlines()) in (8, 16), "whole windows"
    (spent,) = [json.loads(line) for line in (tmp_path / "out/costs.jsonl").read_text().splitlines()][:1]
    assert 0 < spent["prompt"] + spent["completion"] <= 900
    run_label(settings(tmp_path, "out", **{**small, "budget": {"tokens": 90_000}}))
    for name in ("responses", "preferences", "pairs"):
        assert (tmp_path / "out" / f"{name}.jsonl").read_bytes() == (tmp_path / f"whole/{name}.jsonl").read_bytes()


def test_a_preference_names_the_records_of_both_answers(tmp_path: Path, judge: LengthJudge) -> None:
    run_label(settings(tmp_path, "out"))
    written = {answer.id: answer.text for answer in of_type(read_journal(tmp_path / "out/responses.jsonl"), Draft)}
    for pair in preferences(tmp_path / "out"):
        assert pair.answers is not None
        assert [written[each] for each in pair.answers] == [pair.response_a, pair.response_b]
    old = pair.model_copy(update={"answers": None}).to_json()
    assert "answers" not in old
    assert Preference.from_json(old).answers is None, "journals of before are read"
