"""Comparisons, and engines that fail or answer out of order, to test judges with."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from cai.constitution import Principle
from cai.engines.base import Failure, GenerateRequest, Scored, ScoreRequest
from cai.engines.scripted import ScriptedEngine
from cai.judges.base import Comparison, Judge, Verdict
from cai.types import Dialogue, Message

HI: Dialogue = (Message("user", "Hi"),)
KIND = Principle(id="kind", text="Be kind.", comparison="Which answer is kinder?", contrast="Be cruel.")


def comparison(a: str, b: str, *, name: str = "x", prompt: Dialogue = HI) -> Comparison:
    return Comparison(id=name, prompt=prompt, response_a=a, response_b=b, principle=KIND)


def one(judge: Judge, asked: Comparison) -> Verdict:
    (verdict,) = judge.compare([asked])
    return verdict


def asked(request: ScoreRequest | GenerateRequest) -> str:
    """What a request says last: the question itself."""
    assert not isinstance(request.prompt, str)
    return request.prompt[-1].content


def options(request: ScoreRequest | GenerateRequest) -> dict[str, str]:
    """The two answers of a multiple-choice question, read by its layout: each begins at the left margin, once."""
    found = re.fullmatch(r".*\nOptions:\n\(A\) (.*?)\n\(B\) (.*?)(?:\n\n(?![ \n]).*)?", asked(request), re.DOTALL)
    assert found is not None
    for mark in ("(A)", "(B)", "Options:"):
        assert len(re.findall(rf"^{re.escape(mark)}", asked(request), re.MULTILINE)) == 1
    return dict(zip("AB", found.groups(), strict=True))


class FailingEngine(ScriptedEngine):
    """Fails the requests that a function picks, and gives the rest in reverse order."""

    def __init__(self, fails: Callable[[ScoreRequest], bool]) -> None:
        super().__init__()
        self._fails = fails

    def score(self, requests: Iterable[ScoreRequest]) -> Iterator[Scored | Failure]:
        asked: Sequence[ScoreRequest] = list(requests)
        results = list(super().score(asked))
        for request, result in zip(reversed(asked), reversed(results), strict=True):
            failed = Failure(id=request.id, reason="too_long", message="4096 tokens at most")
            yield failed if self._fails(request) else result
