"""The contract's own small parts."""

import pytest

from cai.engines.base import GenerateRequest, Sampling, Score, ScoreRequest
from cai.types import Message


def test_a_score_sums_and_averages_its_tokens() -> None:
    score = Score(logprobs=(-1.0, -2.0, -6.0))
    assert (score.total, score.mean) == (-9.0, -3.0)
    assert Score(logprobs=()).mean == 0.0


def test_the_defaults_are_the_papers() -> None:
    sampling = Sampling()
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (1.0, 1.0, 0)


def test_requests_are_frozen_and_share_nothing_unless_told() -> None:
    request = GenerateRequest(id="a", prompt=(Message("user", "Hi"),))
    assert (request.shared, request.seeds, request.prefill) == (0, (0,), "")
    assert ScoreRequest(id="b", prompt="Hi", candidates=("x",)).end_of_turn is False
    with pytest.raises(AttributeError):
        request.id = "c"  # type: ignore[misc]
