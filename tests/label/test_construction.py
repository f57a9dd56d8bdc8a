from cai.constitution import load_constitution
from cai.judges.base import Comparison
from cai.label.construction import ByConstruction
from cai.types import Message


def test_the_answer_that_was_told_the_principle_has_the_stated_probability() -> None:
    principle = load_constitution("harmless").principles[0]
    asked = [
        Comparison(id=key, prompt=(Message("user", "q"),), response_a=a, response_b=b, principle=principle)
        for key, a, b in (("1", "long and kind", "no"), ("2", "no", "long and kind"))
    ]
    judge = ByConstruction(0.9)
    assert [(verdict.id, verdict.prob_a) for verdict in judge.compare(asked)] == [("1", 0.9), ("2", 0.9)]
    assert judge.model != ByConstruction(0.8).model, "labels of another certainty are other labels"
