import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from pydantic import ValidationError

from cai.constitution import Constitution, load_constitution
from cai.engines.base import Failure, Generated, GenerateRequest, Scored, ScoreRequest
from cai.engines.scripted import ScriptedEngine
from cai.evaluate.principle_trial import PrinciplesConfig, Trial, Tried
from cai.judges.contrastive import ContrastiveJudge
from cai.records.journal import read_journal
from cai.records.schema import Critique, Draft, Dropped, EvalResult, Prompt, PromptKind, Revision
from cai.types import Message
from tests.evaluate.principle_samples import constitution_file, engine, reply, said, score

JOURNALS = ("drafts", "critiques", "revisions", "results")


@pytest.fixture
def constitution(tmp_path: Path) -> Constitution:
    return load_constitution(constitution_file(tmp_path))


def prompts(principle: str, *texts: str, kind: PromptKind = "red_team") -> list[Prompt]:
    return [Prompt.of((Message("user", text),), kind=kind, category=principle) for text in texts]


TRIED: Tried = {
    "sea": prompts("sea", "Sea question one?", "Sea question two?"),
    "kind": [*prompts("kind", "Rude question one?"), *prompts("kind", "Gentle question one?", kind="benign")],
}


def run(
    constitution: Constitution, folder: Path, model: ScriptedEngine, tried: Tried = TRIED, *, window: int = 2
) -> list[EvalResult]:
    config = PrinciplesConfig(constitution="small", window=window)
    with Trial(config, constitution, model, ContrastiveJudge(model), folder) as trial:
        return trial.run(tried)


def test_every_probe_goes_through_all_stages_by_its_principle(constitution: Constitution, tmp_path: Path) -> None:
    results = run(constitution, tmp_path / "out", engine())
    drafts, critiques, revisions, kept = (list(read_journal(tmp_path / "out" / f"{name}.jsonl")) for name in JOURNALS)
    assert [len(records) for records in (drafts, critiques, revisions, kept)] == [8, 16, 16, 8]
    assert [(item.category, item.kind) for item in results] == [("sea", "red_team")] * 4 + [
        ("kind", "red_team"),
        ("kind", "red_team"),
        ("kind", "benign"),
        ("kind", "benign"),
    ]
    by_id = {record.id: record for record in (*drafts, *critiques)}
    for record in revisions:
        assert isinstance(record, Revision)
        critique = by_id[record.critique]
        assert isinstance(critique, Critique)
        assert isinstance(by_id[critique.answer], Draft)
        assert critique.principle == record.principle
        assert record.provenance.constitution == constitution.digest
    assert all("dear friend" in item.candidate for item in results[4:])
    assert not any("dear friend" in item.candidate for item in results[:4])
    assert not any("dear friend" in item.parent for item in results), "revised by a principle of no concern"
    # Two drafts of one prompt have seeds of their own.
    assert len({record.text for record in drafts[:2] if isinstance(record, Draft)}) == 2
    named = [record.principle for record in revisions if isinstance(record, Revision)]
    assert named.count("kind") == named.count("sea") == 4
    assert {name for name in named if name not in ("kind", "sea")} <= {
        "unrelated/digits",
        "unrelated/spelling",
        "unrelated/units",
        "unrelated/dates",
    }


def test_principles_that_share_a_probe_share_its_drafts(constitution: Constitution, tmp_path: Path) -> None:
    tried = {name: prompts(name, "One question?") for name in ("sea", "kind")}
    results = run(constitution, tmp_path / "out", engine(), tried)
    assert len(list(read_journal(tmp_path / "out" / "drafts.jsonl"))) == 2
    assert [item.category for item in results] == ["sea", "sea", "kind", "kind"]
    assert [item.parent for item in results[:2]] == [item.parent for item in results[2:]], "the unrelated ones too"
    assert len(list(read_journal(tmp_path / "out" / "revisions.jsonl"))) == 6
    assert results[0].candidate != results[2].candidate


def test_failed_and_empty_answers_are_kept_with_the_reason_and_go_no_further(
    constitution: Constitution, tmp_path: Path
) -> None:
    def fails(request: GenerateRequest, seed: int) -> str | Failure:
        if said(request) == "Sea question one?":
            return Failure(id=request.id, reason="too_long", message="4096 tokens at most")
        if said(request) == "Sea question two?":
            return "  \n"
        return reply(request, seed)

    results = run(constitution, tmp_path / "out", ScriptedEngine(fails, score))
    assert {item.category for item in results} == {"kind"}
    dropped = [record for record in read_journal(tmp_path / "out" / "drafts.jsonl") if isinstance(record, Dropped)]
    assert [record.reason for record in dropped] == ["too_long", "too_long", "empty", "empty"]


def test_texts_that_are_cut_off_end_with_their_last_whole_sentence(constitution: Constitution, tmp_path: Path) -> None:
    model = ScriptedEngine(lambda request, seed: "One sentence. " * 4 + "Then half of one " * 9, score)
    results = run(constitution, tmp_path / "out", model)
    assert {text for item in results for text in (item.candidate, item.parent)} == {
        "One sentence. " * 3 + "One sentence."
    }


Result = TypeVar("Result")


class Killed(Exception):
    """What stands for a power cut."""


class Dying(ScriptedEngine):
    """Dies when it has given so many results."""

    def __init__(self, after: int) -> None:
        super().__init__(reply, score)
        self._left = after

    def generate(self, requests: Iterable[GenerateRequest]) -> Iterator[Generated | Failure]:
        return self._until_it_dies(super().generate(requests))

    def score(self, requests: Iterable[ScoreRequest]) -> Iterator[Scored | Failure]:
        return self._until_it_dies(super().score(requests))

    def _until_it_dies(self, results: Iterator[Result]) -> Iterator[Result]:
        for result in results:
            if not self._left:
                raise Killed
            self._left -= 1
            yield result


@pytest.mark.parametrize("after", [0, 1, 7, 8, 13, 24, 31, 40, 55, 70, 90])
def test_a_test_that_was_killed_goes_on_and_ends_with_the_same_bytes(
    constitution: Constitution, tmp_path: Path, after: int
) -> None:
    whole = run(constitution, tmp_path / "whole", engine())
    dying = Dying(after)
    with pytest.raises(Killed):
        run(constitution, tmp_path / "cut", dying)
    done = {
        json.loads(line)["key"]
        for name in JOURNALS
        for line in (tmp_path / "cut" / f"{name}.jsonl").read_text("utf-8").splitlines()
    }
    after_it = engine()
    assert run(constitution, tmp_path / "cut", after_it) == whole
    for name in JOURNALS:
        assert (tmp_path / "cut" / f"{name}.jsonl").read_bytes() == (tmp_path / "whole" / f"{name}.jsonl").read_bytes()
    # Only the window that was cut off is asked again: at most the one text of it that was done.
    again = [request.id for request in after_it.seen if request.id in done]
    assert len(again) <= 1


def test_what_is_done_is_not_asked_again(constitution: Constitution, tmp_path: Path) -> None:
    first = run(constitution, tmp_path / "out", engine())
    second = engine()
    assert run(constitution, tmp_path / "out", second) == first
    assert second.seen == []


def test_a_part_of_the_sampling_leaves_the_rest_as_it_is() -> None:
    config = PrinciplesConfig.model_validate({"constitution": "x", "sampling": {"max_new_tokens": 32}})
    assert (config.sampling.temperature, config.sampling.max_new_tokens) == (0.7, 32)
    with pytest.raises(ValidationError, match="contrastive"):
        PrinciplesConfig.model_validate({"constitution": "x", "judge": "direction"})
