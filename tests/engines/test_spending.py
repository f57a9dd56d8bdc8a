import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from cai import budget
from cai.budget import BudgetConfig, BudgetError
from cai.engines import spending
from cai.engines.base import Failure, Generated, GenerateRequest, Sampling, ScoreRequest
from cai.engines.scripted import ScriptedEngine
from cai.engines.spending import Spending, most_of_request
from cai.engines.transformers import TransformersEngine
from cai.types import Message
from tests.engines import tiny


def request(number: int) -> GenerateRequest:
    sampling = Sampling(max_new_tokens=20)
    return GenerateRequest(id=str(number), prompt=(Message("user", "12345"),), seeds=(number,), sampling=sampling)


def engine() -> ScriptedEngine:
    return ScriptedEngine(lambda request, seed: "1234567890")


def test_a_batch_is_asked_whole_or_not_at_all_and_the_limit_is_never_crossed(tmp_path: Path) -> None:
    own = engine()
    spent = Spending(BudgetConfig(tokens=100), tmp_path)
    # A batch of two may cost 50, and does cost 30.
    for _ in range(2):
        assert len(list(spent.answers(own, [request(1), request(2)]))) == 2
    with pytest.raises(BudgetError, match="60 of 100 tokens used, and the next call may cost 50 tokens"):
        list(spent.answers(own, [request(1), request(2)]))
    assert len(own.seen) == 4
    assert sum(spent.tally.used) == 60
    assert len(list(spent.answers(own, [request(3)]))) == 1


def test_failures_cost_nothing_and_a_batch_that_breaks_gives_back_what_it_claimed(tmp_path: Path) -> None:
    def broken(requests: Iterable[GenerateRequest]) -> Iterator[Generated | Failure]:
        yield next(ScriptedEngine(lambda request, seed: "1234567890").generate(requests))
        raise RuntimeError("broken")

    own = engine()
    spent = Spending(BudgetConfig(tokens=60), tmp_path)
    own.generate = broken  # type: ignore[method-assign]
    with pytest.raises(RuntimeError):
        list(spent.answers(own, [request(1), request(2)]))
    del own.generate
    assert sum(spent.tally.used) == 15
    own._reply = lambda request, seed: Failure(id=request.id, reason="engine", message="no")
    assert len(list(spent.answers(own, [request(1)]))) == 1
    assert sum(spent.tally.used) == 15


def test_tokens_are_counted_by_the_engines_own_renderer(tmp_path: Path) -> None:
    own = TransformersEngine(tiny.llama(), tiny.tokenizer())
    spent = Spending(BudgetConfig(tokens=1000), tmp_path)
    most = most_of_request(own, request(1))
    (result,) = spent.answers(own, [request(1)])
    assert isinstance(result, Generated)
    assert most.prompt == result.usage.prompt
    assert result.usage.completion <= most.completion == 20


class Time:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


def test_time_stops_after_the_answer_that_came(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    time = Time()
    monkeypatch.setattr(budget, "time", time)
    spent = Spending(BudgetConfig(minutes=1), tmp_path)
    came = []

    def work() -> None:
        for result in spent.answers(engine(), [request(1), request(2), request(3)]):
            came.append(result.id)
            time.now += 31

    with pytest.raises(
        BudgetError, match=r"the time is spent: 1 min 0 s; what was done is kept: give the same command"
    ):
        work()
    assert came == ["1", "2"]
    with pytest.raises(BudgetError):
        list(spent.answers(engine(), [request(1)]))


def test_processes_share_a_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spending, "world", lambda: 2)
    spent = Spending(BudgetConfig(tokens=40), tmp_path)
    with pytest.raises(BudgetError, match="0 of 20 tokens"):
        list(spent.answers(engine(), [request(1)]))


def test_costs_are_noted_by_line(tmp_path: Path) -> None:
    spent = Spending(None, tmp_path)
    spent.note()
    assert not (tmp_path / "costs.jsonl").exists()
    for _ in range(2):
        list(spent.answers(engine(), [request(1)]))
        spent.note()
    rows = [json.loads(line) for line in (tmp_path / "costs.jsonl").read_text().splitlines()]
    assert [(row["prompt"], row["completion"]) for row in rows] == [(5, 10), (5, 10)]
    assert all(row["seconds"] >= 0 for row in rows)


def test_a_metered_engine_counts_what_is_scored_as_read_and_is_else_itself(tmp_path: Path) -> None:
    own = TransformersEngine(tiny.llama(), tiny.tokenizer())
    spent = Spending(BudgetConfig(tokens=100), tmp_path)
    metered = spent.metered(own)
    assert (metered.name, metered.model, metered.renderer) == (own.name, own.model, own.renderer)
    asked = ScoreRequest(id="1", prompt=(Message("user", "12345"),), candidates=(" A", " B"))
    assert list(metered.score([asked])) == list(own.score([asked]))
    scored = spent.tally.used
    assert scored.prompt > 0
    assert scored.completion == 0
    assert len(list(metered.answer_states([asked], (1,)))) == 1
    assert spent.tally.used.prompt > scored.prompt
    with pytest.raises(BudgetError):
        list(metered.score([asked] * 50))
    assert not hasattr(spent.metered(engine()), "answer_states")
