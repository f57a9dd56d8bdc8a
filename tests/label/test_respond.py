"""What is asked and recorded; the pipeline's tests follow it through runs and restarts."""

from pathlib import Path

from cai.engines.base import Failure, GenerateRequest
from cai.engines.scripted import ScriptedEngine
from cai.engines.spending import Spending
from cai.label.config import LabelConfig
from cai.label.respond import Responses
from cai.label.sources import Samples
from cai.records.journal import read_journal
from cai.records.schema import Draft, Dropped
from cai.windows import windows
from tests.label.test_sources import PROMPTS


def reply(request: GenerateRequest, seed: int) -> str | Failure:
    said = request.prompt[-1]
    if said == PROMPTS[1].messages[-1]:
        return Failure(id=request.id, reason="too_long", message="far too long")
    return "One sentence. Another one that goes on and on"


def sampled(out: Path, engine: ScriptedEngine) -> list[tuple[str, ...]]:
    config = LabelConfig.model_validate({"prompts": ["p"], "out": out, "sampling": {"max_new_tokens": 30}})
    with Responses(config, Samples(config.engine), Spending(None, out)) as responses:
        responses.sample(engine, list(windows(PROMPTS, 2)))
        return [tuple(answer.text for answer in found.answers) for found in responses.answers(PROMPTS)]


def test_a_failed_answer_leaves_no_pair_and_says_why(tmp_path: Path) -> None:
    assert sampled(tmp_path, ScriptedEngine(reply)) == [("One sentence.", "One sentence.")] * 2
    records = list(read_journal(tmp_path / "responses.jsonl"))
    failed = [record for record in records if isinstance(record, Dropped)]
    assert {(each.stage, each.reason, each.prompt) for each in failed} == {("response", "too_long", PROMPTS[1].id)}
    assert len(failed) == 2
    drafts = [record for record in records if isinstance(record, Draft)]
    assert {each.finish_reason for each in drafts} == {"length"}
    assert len({each.provenance.seed for each in drafts}) == 4


def test_what_is_done_is_not_asked_again(tmp_path: Path) -> None:
    sampled(tmp_path, ScriptedEngine(reply))
    again = ScriptedEngine(reply)
    sampled(tmp_path, again)
    assert not again.seen
    other = ScriptedEngine(reply, model="another")
    sampled(tmp_path, other)
    assert len(other.seen) == 2 * len(PROMPTS)
