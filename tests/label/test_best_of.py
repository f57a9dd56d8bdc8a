"""Which two of several answers are the judge's best and worst."""

import math
from collections.abc import Iterable, Iterator, Sequence

import pytest

from cai.constitution import Principle
from cai.engines.base import ScoreRequest
from cai.engines.scripted import ScriptedEngine
from cai.judges.base import Comparison, Judge, Verdict
from cai.judges.pairwise import sigmoid
from cai.judges.pointwise import PointwiseJudge
from cai.label.best_of import best_and_worst
from cai.label.sources import Answers
from cai.types import Dialogue
from tests.label.test_sources import PROMPTS, draft

KIND = Principle(id="kind", text="Be kind.")


def worth(text: str) -> float:
    """Return the number that an answer names."""
    return float(text.split()[-1])


class Compares:
    """Knows what each answer is worth; answers "silent" are none to it. It answers backwards, as any judge may."""

    name = model = "compares"
    by_principle = True

    def __init__(self) -> None:
        self.seen: list[Comparison] = []

    def compare(self, comparisons: Iterable[Comparison]) -> Iterator[Verdict]:
        for item in list(comparisons)[::-1]:
            self.seen.append(item)
            silent = "silent" in item.response_a + item.response_b
            logit = 0.0 if silent else worth(item.response_a) - worth(item.response_b)
            yield Verdict(id=item.id, prob_a=sigmoid(logit) if logit else None)


class Scores(Compares):
    name = model = "scores"
    by_principle = False

    def scores(self, answers: Sequence[tuple[Dialogue, str, Principle]]) -> list[float]:
        return [math.nan if "silent" in text else worth(text) for _, text, _ in answers]


def rates(request: ScoreRequest, candidate: str) -> float:
    """Put all on the score that the rated answer names."""
    said = request.prompt if isinstance(request.prompt, str) else request.prompt[-1].content
    answer = said.partition("Answer: ")[2].partition("\n")[0]
    return -0.01 if candidate == f"{int(worth(answer))})" else -20.0


JUDGES: list[Judge] = [Compares(), Scores(), PointwiseJudge(ScriptedEngine(score=rates))]


def chosen(judge: Judge, *sets: Sequence[str]) -> list[tuple[str, str] | str]:
    asked = [
        (Answers(prompt=PROMPTS[0], answers=tuple(draft(text, sample=n) for n, text in enumerate(own))), KIND)
        for own in sets
    ]
    return [
        found if isinstance(found, str) else (found[0].text, found[1].text) for found in best_and_worst(judge, asked)
    ]


@pytest.mark.parametrize("judge", JUDGES, ids=lambda judge: judge.name)
def test_the_ends_are_taken_in_the_order_they_were_sampled(judge: Judge) -> None:
    found = chosen(judge, ["is 5", "is 9", "is 2", "is 6"], ["is 1", "is 4", "is 3"])
    assert found == [("is 9", "is 2"), ("is 1", "is 4")]


@pytest.mark.parametrize("judge", JUDGES, ids=lambda judge: judge.name)
def test_equal_and_wordless_answers_count_once_or_not_at_all(judge: Judge) -> None:
    assert chosen(judge, ["is 5", "is 5", "is 5"], ["is 5", ": ...", ""], ["is 7", "is 7", "is 3"]) == [
        "equal answers",
        "equal answers",
        ("is 7", "is 3"),
    ]


@pytest.mark.parametrize("judge", JUDGES[:2], ids=lambda judge: judge.name)
def test_what_the_judge_cannot_tell_is_not_chosen(judge: Judge) -> None:
    found = chosen(judge, ["silent 9", "is 5", "is 4"], ["silent 1", "silent 2", "is 4"], ["well 4", "is 4", "so 4"])
    assert found[0] == ("is 5", "is 4")
    assert found[1] == "the judge rated fewer than two of the answers"
    assert isinstance(found[2], str), "a tie is no choice"


def test_a_judge_that_only_compares_is_asked_once_of_every_two() -> None:
    judge = Compares()
    chosen(judge, ["is 1", "is 2", "is 3", "is 3", "is 4"])
    asked = {frozenset((item.response_a, item.response_b)) for item in judge.seen}
    assert len(asked) == len(judge.seen) == 6
