"""Drafts, critiques and revisions on a scripted engine: what is asked, kept, dropped and resumed."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch

from cai.constitution import load_constitution
from cai.engines.base import Failure, GenerateRequest
from cai.engines.scripted import ScriptedEngine
from cai.errors import InputError
from cai.generate import pipeline
from cai.generate.form import TranscriptForm
from cai.generate.pipeline import GenerateConfig, run_generate
from cai.records.journal import of_type, read_journal
from cai.records.schema import Critique, Draft, Dropped, Revision, Written
from cai.types import Message
from tests.engines import tiny
from tests.generate.answers import reply as reply

CONSTITUTION = load_constitution("harmless")


def last(request: GenerateRequest) -> str:
    assert not isinstance(request.prompt, str)
    return request.prompt[-1].content


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


CRITIQUES = {
    "I'm sorry, but I can't help with that.": "critique: the critic refuses",
    "There is nothing harmful in this answer.": "critique: the critic finds no fault",
}


@pytest.mark.parametrize("said", CRITIQUES)
def test_a_critic_without_a_critique_leaves_the_answer_as_it_was(
    prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    asked = {principle.critique for principle in CONSTITUTION.principles}

    def critic(request: GenerateRequest, seed: int) -> str:
        if any(last(request).endswith(text) for text in asked) and "question 0" in last(request):
            return said
        return reply(request, seed)

    use(monkeypatch, ScriptedEngine(critic))
    run_generate(settings(prompts, tmp_path / "out"))
    result = json.loads((tmp_path / "out/result.json").read_text())
    assert result["dropped"] == {CRITIQUES[said]: 2}
    assert result["dropped_examples"] == {CRITIQUES[said]: [{"prompt": "Bad question 0?", "text": said}] * 2}
    assert result["counts"]["revisions"] == 8


REVISIONS = {
    "Es tut mir leid, aber ich kann dir dabei nicht helfen, denn das ist gefährlich und nicht erlaubt.": "German",
    "The assistant's last answer should be kinder to everyone.": "speaks of the answer",
    "Of course, I'd be happy to help!": "empty phrase",
    "no no no no no no no no no no no no": "repetitive",
}


@pytest.mark.parametrize("said", REVISIONS)
def test_a_revision_that_is_none_is_dropped_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps({"prompt": "What should I do to the man who keeps me from my children?"}) + "\n")
    wanted = {principle.revision for principle in CONSTITUTION.principles}

    def revise(request: GenerateRequest, seed: int) -> str:
        return said if any(last(request).endswith(text) for text in wanted) else reply(request, seed)

    use(monkeypatch, ScriptedEngine(revise))
    run_generate(settings(path, tmp_path / "out", rounds=1))
    assert (tmp_path / "out/sft.jsonl").read_text() == ""
    [dropped] = of_type(read_journal(tmp_path / "out/revisions.jsonl"), Dropped)
    assert REVISIONS[said] in dropped.reason
    assert dropped.text == said


def thinks(request: GenerateRequest, seed: int) -> str:
    """Think before each answer, in words that would stop it if they were the answer's."""
    return f"<think>\nThey want it.\nHuman: no, they don't.\n</think>\n\n{reply(request, seed)}\nHuman: And now?"


def test_thinking_is_kept_apart_and_never_trained_on(
    prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = use(monkeypatch, ScriptedEngine(thinks))
    run_generate(settings(prompts, tmp_path / "out", thinking={"tokens": 100}))
    for name in ("drafts", "critiques", "revisions"):
        written = of_type(read_journal(tmp_path / f"out/{name}.jsonl"), Written)
        assert len(written) >= 9
        for record in written:
            assert record.thinking == "They want it.\nHuman: no, they don't."
            assert record.text.startswith("Words number")
            assert "And now?" not in record.text or name == "drafts"
    assert all(isinstance(request, GenerateRequest) for request in engine.seen)
    assert "They want it" not in "".join(str(request.prompt) for request in engine.seen)
    assert "They want it" not in (tmp_path / "out/sft.jsonl").read_text()
    most = {request.sampling.max_new_tokens for request in engine.seen if isinstance(request, GenerateRequest)}
    assert most == {256 + 100, 128 + 100}


def test_thinking_is_trained_on_when_asked(prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, ScriptedEngine(thinks))
    run_generate(settings(prompts, tmp_path / "out", thinking={"tokens": 100}, train_on_thinking=True))
    rows = [json.loads(line) for line in (tmp_path / "out/sft.jsonl").read_text().splitlines()]
    assert len(rows) == 14
    assert all(row["messages"][-1]["content"].startswith("<think>\nThey want it.") for row in rows)


def test_thinking_that_never_ended_is_no_answer(prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, ScriptedEngine(lambda request, seed: "<think>They want it, but"))
    run_generate(settings(prompts, tmp_path / "out"))
    result = json.loads((tmp_path / "out/result.json").read_text())
    assert result["dropped"] == {"draft: the thinking never ended": 9}
    assert result["counts"]["training_rows"] == 0


def goes_on(request: GenerateRequest, seed: int) -> str:
    """Go on with a transcript as base models do: past the end of the own part."""
    assert isinstance(request.prompt, str)
    part = request.prompt.rpartition("\n\n")[2].rstrip(":")
    return f" {part} of mine: {reply(request, seed)}\n\nHuman: And then?\n\nAssistant: Then this."


@pytest.mark.parametrize("critique", [True, False])
def test_a_base_model_goes_on_with_transcripts_and_is_stopped(
    prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, critique: bool
) -> None:
    use(monkeypatch, ScriptedEngine(goes_on))
    run_generate(settings(prompts, tmp_path / "out", format="transcript", critique=critique))
    expected = {"drafts": ("Assistant", 9), "critiques": ("Critique", 10 * critique), "revisions": ("Revision", 10)}
    for name, (part, count) in expected.items():
        written = of_type(read_journal(tmp_path / f"out/{name}.jsonl"), Written)
        assert len(written) == count
        assert all(record.text.startswith(part) and "And then?" not in record.text for record in written)
    rows = [json.loads(line) for line in (tmp_path / "out/sft.jsonl").read_text().splitlines()]
    assert len(rows) == 14
    assert all([turn["role"] for turn in row["messages"]] == ["user", "assistant"] for row in rows)


SAID = {
    "Assistant": "The quick brown fox jumps over the lazy dog.",
    "Critique": "You think that it is a good thing to jump.",
    "Revision": "Please do not jump over a dog, for it is old.",
}

PLAIN = """
name: plain
version: "1"
principles:
  - {id: kind, text: Be kind., critique: What is bad?, revision: Make it good., contrast: Be bad., comparison: Which?}
"""


@pytest.fixture(scope="module")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model without a chat template that knows one transcript by heart, and how the next would begin."""
    folder = tmp_path_factory.mktemp("base")
    (folder / "plain.yaml").write_text(PLAIN)
    constitution = load_constitution(str(folder / "plain.yaml"))
    form = TranscriptForm(constitution)
    text = form.revision(
        constitution["kind"], (Message("user", "Bad question 0?"),), SAID["Assistant"], SAID["Critique"]
    ).prompt
    tokenizer, model = tiny.tokenizer(None), tiny.llama(max_position_embeddings=4096)
    ids = tokenizer(f"{text} {SAID['Revision']}\n\nHuman: And then?", return_tensors="pt")["input_ids"]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_base_model_makes_every_step_and_stops_where_the_next_begins(
    prompts: Path, tmp_path: Path, base_model: Path
) -> None:
    more = {
        "constitution": str(base_model / "plain.yaml"),
        "engine": {"model": str(base_model)},
        "sampling": {"max_new_tokens": 60, "temperature": 0.0},
        "rounds": 1,
        "helpful_per_prompt": 0,
    }
    for out in ("one", "two"):
        run_generate(settings(prompts, tmp_path / out, near_duplicates=None, **more))
    assert journals(tmp_path / "one") == journals(tmp_path / "two")
    for name, part in (("drafts", "Assistant"), ("critiques", "Critique"), ("revisions", "Revision")):
        written = of_type(read_journal(tmp_path / f"one/{name}.jsonl"), Written)
        assert len(written) == 5
        assert (written[0].text, written[0].finish_reason) == (SAID[part], "stop")
