"""The judge's best and worst of several answers.

A judge that scores single answers reads each once; any other compares each with each, and an answer's score is the mean
logit of its votes. Ties and abstentions are no votes. The two are afterwards judged as any pair is, by the same judge,
so their label says how sure it is of the two that it picked: chosen for being far apart, they look further apart to it
than they are. Only people's labels, or another judge, tell by how much.
"""

import math
from collections.abc import Sequence
from itertools import combinations

from cai.constitution import Principle
from cai.judges.base import Comparison, Judge
from cai.judges.quoting import quoted
from cai.judges.single import answer_scores
from cai.label.aggregate import logit
from cai.label.sources import Answers
from cai.records.schema import Draft, Revision
from cai.types import Dialogue

Two = tuple[Draft | Revision, Draft | Revision]


def best_and_worst(judge: Judge, asked: Sequence[tuple[Answers, Principle]]) -> list[Two | str]:
    """Return for each set of answers its best and its worst by a principle, in the order they were sampled.

    Where there are no two such, return why.
    """
    sets = [_different(item.answers) for item, _ in asked]
    texts = [
        (item.prompt.messages, [answer.text for answer in own], principle)
        for (item, principle), own in zip(asked, sets, strict=True)
    ]
    return [_two(own, scores) for own, scores in zip(sets, _scores(judge, texts), strict=True)]


def _different(answers: Sequence[Draft | Revision]) -> list[Draft | Revision]:
    """Return the first of each text that has words; models are known to like answers without."""
    first: dict[str, Draft | Revision] = {}
    for answer in answers:
        if any(map(str.isalnum, quoted(answer.text))):
            first.setdefault(answer.text, answer)
    return list(first.values())


def _two(answers: Sequence[Draft | Revision], scores: Sequence[float]) -> Two | str:
    if len(answers) < 2:
        return "equal answers"
    rated = [index for index, score in enumerate(scores) if math.isfinite(score)]
    if len(rated) < 2:
        return "the judge rated fewer than two of the answers"
    best, worst = max(rated, key=lambda index: scores[index]), min(rated, key=lambda index: scores[index])
    if scores[best] == scores[worst]:
        return "the judge rates all answers alike"
    first, second = sorted((best, worst))
    return answers[first], answers[second]


Question = tuple[Dialogue, list[str], Principle]


def _scores(judge: Judge, questions: Sequence[Question]) -> list[list[float]]:
    """Return a score for every answer to every question."""
    flat = [(dialogue, text, principle) for dialogue, texts, principle in questions for text in texts]
    found = answer_scores(judge, flat)
    if found is None:
        return _round_robin(judge, questions)
    scores = iter(found)
    return [[next(scores) for _ in texts] for _, texts, _ in questions]


def _round_robin(judge: Judge, questions: Sequence[Question]) -> list[list[float]]:
    comparisons = [
        Comparison(
            id=f"{number}/{a}/{b}",
            prompt=dialogue,
            response_a=texts[a],
            response_b=texts[b],
            principle=principle,
        )
        for number, (dialogue, texts, principle) in enumerate(questions)
        for a, b in combinations(range(len(texts)), 2)
    ]
    votes: list[list[list[float]]] = [[[] for _ in texts] for _, texts, _ in questions]
    for verdict in judge.compare(comparisons):
        if verdict.prob_a is not None:
            number, a, b = map(int, verdict.id.split("/"))
            votes[number][a].append(logit(verdict.prob_a))
            votes[number][b].append(-logit(verdict.prob_a))
    # Judges answer in any order, and a sum of floats must not depend on it.
    return [[math.fsum(own) / len(own) if own else math.nan for own in of_question] for of_question in votes]
