"""Drafts, critiques and revisions on a scripted engine: what is asked, kept, dropped and resumed."""

import json
from collections import Counter
from pathlib import Path

import pytest

from cai.constitution import load_constitution
from cai.engines.base import Failure, GenerateRequest
from cai.engines.scripted import ScriptedEngine
from cai.errors import InputError
from cai.generate import pipeline
from cai.generate.pipeline import GenerateConfig, run_generate
from cai.records.journal import of_type, read_journal
from cai.records.schema import Critique, Draft, Dropped, Revision
from cai.storage import seed_from

CONSTITUTION = load_constitution("harmless")


def reply(request: GenerateRequest, seed: int) -> str:
    """Answer with words that only the request and the seed decide."""
    return f"Words number {seed_from(seed, str(request.prompt)) % 100_000} and some more of them."


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    rows = [{"prompt": f"Bad question {n}?", "kind": "red_team"} for n in range(5)]
    rows += [{"prompt": f"Good question {n}?", "kind": "helpful"} for n in range(2)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def settings(prompts: Path, out: Path, **more: object) -> GenerateConfig:
    return GenerateConfig.model_validate({"prompts": [prompts], "out": out, "rounds": 2, "window": 2, **more})


def use(monkeypatch: pytest.MonkeyPatch, engine: ScriptedEngine) -> ScriptedEngine:
    monkeypatch.setattr(pipeline, "build_engine", lambda config: engine)
    return engine


def journals(out: Path) -> dict[str, bytes]:
    return {name: (out / f"{name}.jsonl").read_bytes() for name in ("drafts", "critiques", "revisions", "sft")}


def test_every_chain_goes_through_every_round(prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, ScriptedEngine(reply))
    run_generate(settings(prompts, tmp_path / "out", helpful_per_prompt=2))
    drafts = of_type(read_journal(tmp_path / "out/drafts.jsonl"), Draft)
    critiques = of_type(read_journal(tmp_path / "out/critiques.jsonl"), Critique)
    revisions = of_type(read_journal(tmp_path / "out/revisions.jsonl"), Revision)
    assert (len(drafts), len(critiques), len(revisions)) == (5 + 2 * 2, 10, 10)
    answers = {draft.id for draft in drafts} | {revision.id for revision in revisions if revision.round == 1}
    assert all(critique.answer in answers for critique in critiques)
    assert {revision.critique for revision in revisions} == {critique.id for critique in critiques}
    assert all(revision.provenance.constitution == CONSTITUTION.digest for revision in revisions)
    rows = [json.loads(line) for line in (tmp_path / "out/sft.jsonl").read_text().splitlines()]
    assert len(rows) == 10 + 4
    learned = {row["messages"][-1]["content"] for row in rows if row["kind"] == "red_team"}
    assert learned.isdisjoint(draft.text for draft in drafts)


def test_a_run_resumed_at_any_line_ends_with_the_same_bytes(
    prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, ScriptedEngine(reply))
    run_generate(settings(prompts, tmp_path / "whole"))
    expected = journals(tmp_path / "whole")
    for kept in range(0, 11, 2):
        out = tmp_path / f"cut-{kept}"
        out.mkdir()
        for name in ("drafts", "critiques", "revisions"):
            lines = expected[name].splitlines(keepends=True)[:kept]
            (out / f"{name}.jsonl").write_bytes(b"".join(lines) + b'{"torn')
        run_generate(settings(prompts, out))
        assert journals(out) == expected


def test_only_tagged_principles_are_drawn(prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, ScriptedEngine(reply))
    run_generate(settings(prompts, tmp_path / "out", tags=["refusal"]))
    drawn = {critique.principle for critique in of_type(read_journal(tmp_path / "out/critiques.jsonl"), Critique)}
    assert drawn <= {principle.id for principle in CONSTITUTION.tagged(("refusal",))}
    with pytest.raises(InputError, match=r"no principle has the tag 'refusals'; did you mean 'refusal'\?"):
        run_generate(settings(prompts, tmp_path / "none", tags=["refusals"]))
    assert not (tmp_path / "none").exists()


def test_balanced_draws_use_each_principle_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "many.jsonl"
    count = 2 * len(CONSTITUTION.principles)
    path.write_text("".join(json.dumps({"prompt": f"Bad question {n}?"}) + "\n" for n in range(count)))
    use(monkeypatch, ScriptedEngine(reply))
    run_generate(settings(path, tmp_path / "out", draw="balanced", window=count, rounds=1))
    critiques = of_type(read_journal(tmp_path / "out/critiques.jsonl"), Critique)
    assert set(Counter(critique.principle for critique in critiques).values()) == {2}


def test_another_seed_asks_with_other_seeds(prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, ScriptedEngine(reply))
    run_generate(settings(prompts, tmp_path / "a"))
    run_generate(settings(prompts, tmp_path / "b", seed=1))
    assert journals(tmp_path / "a") != journals(tmp_path / "b")


def test_what_is_dropped_stays_with_its_reason_and_the_chain_goes_on(
    prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def faulty(request: GenerateRequest, seed: int) -> str | Failure:
        asked = str(request.prompt)
        if "Bad question 0?" in asked and len(request.prompt) > 1 and "Critique: " not in asked:
            return Failure(id=request.id, reason="too_long", message="no room")
        return reply(request, seed)

    use(monkeypatch, ScriptedEngine(faulty))
    run_generate(settings(prompts, tmp_path / "out", rounds=1))
    dropped = of_type(read_journal(tmp_path / "out/critiques.jsonl"), Dropped)
    assert [(item.stage, item.reason, item.text) for item in dropped] == [("critique", "too_long", "no room")]
    result = json.loads((tmp_path / "out/result.json").read_text())
    assert result["dropped"] == {"critique: too_long": 1}
    assert result["counts"]["revisions"] == 4


def test_a_revision_equal_to_its_draft_is_not_trained_on(
    prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, ScriptedEngine(lambda request, seed: "Always the same few words."))
    run_generate(settings(prompts, tmp_path / "out", rounds=1, helpful_per_prompt=0))
    assert (tmp_path / "out/sft.jsonl").read_text() == ""
    result = json.loads((tmp_path / "out/result.json").read_text())
    assert result["dropped"] == {"revision: equal to the answer before": 5}


def test_without_critique_each_round_is_one_step(
    prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = use(monkeypatch, ScriptedEngine(reply))
    run_generate(settings(prompts, tmp_path / "out", critique=False, helpful_per_prompt=1))
    assert len(engine.seen) == 5 * 3 + 2
    assert (tmp_path / "out/critiques.jsonl").read_bytes() == b""


def test_two_processes_make_the_records_of_one(prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, ScriptedEngine(reply))
    run_generate(settings(prompts, tmp_path / "one"))
    monkeypatch.setattr(pipeline, "wait_for_all", lambda: None)
    monkeypatch.setattr(pipeline, "world", lambda: 2)
    for number in (1, 0):
        monkeypatch.setattr(pipeline, "rank", lambda number=number: number)
        monkeypatch.setattr(pipeline, "is_main", lambda number=number: number == 0)
        run_generate(settings(prompts, tmp_path / "two"))
    assert (tmp_path / "two/drafts.rank1.jsonl").stat().st_size > 0
    assert (tmp_path / "one/sft.jsonl").read_bytes() == (tmp_path / "two/sft.jsonl").read_bytes()
