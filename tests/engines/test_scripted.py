"""The scripted engine keeps the contract of real ones in form."""

from cai.engines.base import Failure, Generated, GenerateRequest, Sampling, Scored, ScoreRequest
from cai.engines.scripted import ScriptedEngine
from cai.types import Message


def reply(request: GenerateRequest, seed: int) -> str | Failure:
    if "fail" in str(request.prompt):
        return Failure(id=request.id, reason="engine", message="as asked")
    return f"one {seed} two STOP three"


def test_it_says_what_it_is_told() -> None:
    engine = ScriptedEngine(reply)
    requests = [
        GenerateRequest(id="a", prompt=(Message("user", "x"),), seeds=(4, 5), logprobs=True),
        GenerateRequest(id="b", prompt="x", sampling=Sampling(stop=("STOP",))),
        GenerateRequest(id="c", prompt="x", sampling=Sampling(max_new_tokens=3)),
    ]
    a, b, c = engine.generate(requests)
    assert isinstance(a, Generated)
    assert isinstance(b, Generated)
    assert isinstance(c, Generated)
    assert [completion.text for completion in a.completions] == ["one 4 two STOP three", "one 5 two STOP three"]
    assert a.completions[0].logprobs == (0.0,) * len(a.completions[0].token_ids)
    assert b.completions[0].text == "one 0 two "
    assert (c.completions[0].text, c.completions[0].finish_reason) == ("one", "length")
    assert engine.seen == requests


def test_failures_are_results() -> None:
    results = list(
        ScriptedEngine(reply).generate([GenerateRequest(id="a", prompt=""), GenerateRequest(id="b", prompt="fail")])
    )
    assert [result.reason for result in results if isinstance(result, Failure)] == ["empty", "engine"]


def test_scores_are_totals() -> None:
    engine = ScriptedEngine(score=lambda request, candidate: -1.0 if candidate == "(A)" else -2.0)
    result, empty = engine.score(
        [
            ScoreRequest(id="a", prompt="x", candidates=("(A)", "(B)")),
            ScoreRequest(id="b", prompt="", candidates=("x",)),
        ]
    )
    assert isinstance(result, Scored)
    assert [score.total for score in result.scores] == [-1.0, -2.0]
    assert isinstance(empty, Failure)


def test_the_default_script_depends_on_prompt_and_seed() -> None:
    request = GenerateRequest(id="a", prompt="x", seeds=(1, 2, 1))
    result = next(ScriptedEngine().generate([request]))
    assert isinstance(result, Generated)
    one, two, three = (completion.text for completion in result.completions)
    assert one == three != two
