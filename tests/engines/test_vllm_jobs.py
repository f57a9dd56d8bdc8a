"""Calls and what is made of their outputs, with outputs written by hand; the real vLLM is in test_vllm.py."""

import math
from types import SimpleNamespace
from typing import Any

import pytest

from cai.engines.base import Failure, Generated, GenerateRequest, Sampling, Scored, ScoreRequest
from cai.engines.render import Renderer
from cai.engines.vllm_jobs import LOOKED_UP, SCORES, Call, Scoring, Stream, Writing
from tests.engines import tiny

PROMPT = list(range(100, 110))


def renderer() -> Renderer:
    return Renderer(tiny.shared_tokenizer())


def flat(tokens: list[int], logprobs: list[float]) -> Any:
    return SimpleNamespace(token_ids=tokens, logprobs=logprobs)


def output(
    tokens: list[int], *, name: str = "s-0", finished: bool = True, reason: str | None = "stop", **others: Any
) -> Any:
    """Return what vLLM gives: one completion, with the log-probability -1 for each token unless others are given."""
    logprobs = others.pop("logprobs", flat(tokens, [-1.0] * len(tokens)))
    completion = SimpleNamespace(token_ids=tokens, logprobs=logprobs, finish_reason=reason if finished else None)
    return SimpleNamespace(request_id=name, finished=finished, outputs=[completion], **others)


def scoring(*candidates: list[int], block: int = 16, prompt: list[int] = PROMPT) -> Scoring:
    return Scoring(ScoreRequest(id="r", prompt="p", candidates=("x",) * len(candidates)), prompt, candidates, block)


def read(cached: int, tokens: list[int], logprobs: list[float], next_: list[float]) -> Any:
    """Return the output of a scoring call: rows of what was read, and the next token's (the drawn one first)."""
    return output(
        [7], logprobs=flat([7] * len(next_), next_), num_cached_tokens=cached, prompt_logprobs=flat(tokens, logprobs)
    )


# --- scores


def test_candidates_that_differ_in_their_last_token_are_one_call() -> None:
    job = scoring([1], [2], [3, 4], [3, 5], [1], [])
    assert [call.ids for call in job.calls] == [PROMPT, [*PROMPT, 3]]
    assert [call.params["logprob_token_ids"] for call in job.calls] == [[1, 2], [4, 5]]
    assert [call.params["prompt_logprobs"] for call in job.calls] == [None, 0]
    assert {call.salt for call in job.calls} == {SCORES}
    first, second = job.calls
    # Another request in the batch asked for more: its places are filled up with nothing.
    assert job.take(first, output([7], logprobs=flat([7, 1, 2, 0], [-9.0, -1.0, -2.0, -math.inf]))) is True
    assert job.take(second, read(0, [*PROMPT[1:], 3], [-0.5] * 9 + [-3.0], [-9.0, -4.0, -5.0])) is True
    result = job.result()
    assert isinstance(result, Scored)
    assert [score.logprobs for score in result.scores] == [(-1,), (-2,), (-3, -4), (-3, -5), (-1,), ()]
    assert result.usage == (10, 7)


def test_whole_blocks_of_the_prompt_are_read_first_where_rows_are_needed() -> None:
    job = scoring([1, 2], [3, 4], block=4)
    assert [len(call.ids) for call in job.calls] == [9, 11, 11]
    assert job.calls[0].ids == PROMPT[:9]
    assert job.take(job.calls[0], output([7])) is True
    assert [len(call.ids) for call in scoring([1], [2], block=4).calls] == [10]
    assert [len(call.ids) for call in scoring([1, 2], block=10).calls] == [11]


def test_many_candidates_are_looked_up_in_several_calls() -> None:
    job = scoring(*[[token] for token in range(LOOKED_UP + 1)])
    assert [len(call.params["logprob_token_ids"]) for call in job.calls] == [LOOKED_UP, 1]


@pytest.mark.parametrize(
    ("cached", "rows"),
    [(10, [3, 4]), (16, [3, 4]), (0, [3, 9])],
    ids=["the first row was cached", "all were cached", "rows of other tokens"],
)
def test_a_call_whose_rows_were_in_the_cache_is_made_again_without_it(cached: int, rows: list[int]) -> None:
    job = scoring([3, 4, 5])
    (call,) = job.calls
    wrong = read(cached, [0, *rows], [9.0, 9.0, 9.0], [-9.0, -3.0])
    again = job.take(call, wrong)
    assert isinstance(again, Call)
    assert again.ids == call.ids
    assert again.params["skip_reading_prefix_cache"] is True
    assert isinstance(job.take(again, wrong), Failure)
    assert job.take(again, read(0, [*PROMPT[1:], 3, 4], [0.0] * 9 + [-1.0, -2.0], [-9.0, -3.0])) is True
    result = job.result()
    assert isinstance(result, Scored)
    assert result.scores[0].logprobs == (-1, -2, -3)


def test_rows_up_to_the_last_token_of_the_prompt_may_be_cached() -> None:
    job = scoring([3, 4])
    assert job.take(job.calls[0], read(9, [3], [-1.0], [-9.0, -2.0])) is True


@pytest.mark.parametrize("logprob", [math.nan, -math.inf])
def test_a_score_that_is_not_finite_is_a_failure(logprob: float) -> None:
    job = scoring([1], [2])
    job.take(job.calls[0], output([7], logprobs=flat([7, 1, 2], [-1.0, -1.0, logprob])))
    result = job.result()
    assert isinstance(result, Failure)
    assert (result.reason, result.id) == ("engine", "r")


# --- texts


def writing(text: str = "p", context: int = 100, **fields: Any) -> Writing:
    return Writing(GenerateRequest(id="r", prompt=text, **fields), PROMPT, renderer(), context)


def test_each_seed_is_a_call_with_our_ends_and_limits() -> None:
    sampling = Sampling(temperature=0.5, top_p=0.9, top_k=3, max_new_tokens=500, min_new_tokens=400)
    job = writing(seeds=(5, -1), sampling=sampling, logprobs=True)
    assert [call.params["seed"] for call in job.calls] == [5, 2**63 - 1]
    params = job.calls[0].params
    assert {key: params[key] for key in ("temperature", "top_p", "top_k")} == {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 3,
    }
    assert (params["max_tokens"], params["min_tokens"]) == (90, 90)
    assert params["stop_token_ids"] == sorted(renderer().end_ids)
    assert params["ignore_eos"] is True
    assert (params["logprobs"], params["stream"]) == (0, False)
    assert writing(sampling=Sampling(stop=("x",))).calls[0].params["stream"] is True
    assert writing().calls[0].params["logprobs"] is None


def test_completions_are_in_the_order_of_the_seeds() -> None:
    plain = renderer()
    (end,) = plain.end_ids
    job = writing(seeds=(1, 2), logprobs=True)
    yes, no = plain.answer_ids("yes", end_of_turn=False), plain.answer_ids("no", end_of_turn=False)
    assert job.take(job.calls[1], output([*no, end])) is True
    assert job.take(job.calls[0], output([*yes, end])) is True
    result = job.result()
    assert [completion.text for completion in result.completions] == ["yes", "no"]
    assert result.completions[0].token_ids == (*yes, end)
    assert result.completions[0].logprobs == (-1.0,) * (len(yes) + 1)
    assert result.usage == (10, len(yes) + len(no) + 2)


def test_a_text_that_vllm_ends_for_no_reason_of_ours_is_a_failure() -> None:
    job = writing()
    failure = job.take(job.calls[0], output([100], reason="length"))
    assert isinstance(failure, Failure)
    assert failure.message == "vLLM ended a text early: length"


# --- streams


class Desk:
    """Takes down what a stream asks for and takes back."""

    def __init__(self) -> None:
        self.asked: dict[str, Call] = {}
        self.taken_back: list[str] = []

    def submit(self, name: str, call: Call) -> None:
        if len(self.asked) == 3:
            raise ValueError("no more")
        self.asked[name] = call

    def abort(self, names: list[str]) -> None:
        self.taken_back += names

    def stream(self) -> Stream[Any]:
        return Stream("s", self.submit, self.abort)


def test_a_stop_string_ends_a_call_that_vllm_would_go_on_with() -> None:
    desk = Desk()
    stream = desk.stream()
    ids = renderer().answer_ids("yes no", end_of_turn=False)
    assert stream.add(writing(sampling=Sampling(stop=("no",)))) is None
    assert len(stream) == 1
    results = []
    for token in ids:
        stream.inbox.append(output([token], finished=False))
        results += list(stream.results())
    (result,) = results
    assert isinstance(result, Generated)
    assert result.completions[0].text == "yes "
    assert desk.taken_back == ["s-0"]
    assert len(stream) == 0
    stream.inbox.append(output([5]))
    assert list(stream.results()) == []


def test_a_call_in_another_s_place_is_asked_and_waited_for() -> None:
    desk = Desk()
    stream = desk.stream()
    stream.add(scoring([3, 4]))
    stream.inbox.append(read(16, [3], [9.0], [-9.0, -2.0]))
    assert list(stream.results()) == []
    assert desk.asked["s-1"].params["skip_reading_prefix_cache"] is True
    again = read(0, [3], [-1.0], [-9.0, -2.0])
    again.request_id = "s-1"
    stream.inbox.append(again)
    (result,) = stream.results()
    assert isinstance(result, Scored)
    assert not len(stream)


def test_a_refused_call_takes_its_request_s_others_back() -> None:
    desk = Desk()
    stream = desk.stream()
    failure = stream.add(writing(seeds=(1, 2, 3, 4)))
    assert isinstance(failure, Failure)
    assert failure.message == "vLLM refuses: no more"
    assert sorted(desk.taken_back) == ["s-0", "s-1", "s-2"]
    assert not len(stream)


def test_a_request_that_asks_for_nothing_has_its_result_at_once() -> None:
    result = Desk().stream().add(writing(seeds=()))
    assert isinstance(result, Generated)
    assert result.completions == ()
    empty = Desk().stream().add(scoring([]))
    assert isinstance(empty, Scored)
    assert empty.scores[0].logprobs == ()


def test_what_vllm_gives_up_is_a_failure() -> None:
    desk = Desk()
    stream = desk.stream()
    stream.add(writing(seeds=(1, 2)))
    stream.inbox.append(output([], reason="abort"))
    (failure,) = stream.results()
    assert isinstance(failure, Failure)
    assert failure.reason == "engine"
    assert "s-1" in desk.taken_back


def test_a_closed_stream_takes_everything_back() -> None:
    desk = Desk()
    stream = desk.stream()
    stream.add(writing(seeds=(1, 2)))
    stream.close()
    assert desk.taken_back == ["s-0", "s-1"]
    assert not len(stream)
