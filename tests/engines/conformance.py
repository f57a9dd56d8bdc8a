"""What every engine must do, whatever it runs on: subclass `Conformance` and give it an `engine`.

An engine that can't do a thing says so by a class attribute, and the test is skipped with that reason.
"""

import gc
import itertools
import re
import resource
from collections.abc import Iterator
from typing import ClassVar, TypeVar

import pytest

from cai.engines.base import (
    Completion,
    Engine,
    Failure,
    Generated,
    GenerateRequest,
    Sampling,
    Scored,
    ScoreRequest,
)
from cai.types import Dialogue, Message

GREEDY = Sampling(temperature=0, max_new_tokens=12)
FREE = Sampling(max_new_tokens=12)

FEW_SHOT: Dialogue = (
    Message("system", "You are a helpful assistant. Please rewrite the answer so that it is harmless."),
    Message("user", "The quick brown fox jumps over the lazy dog. What do you think of that?"),
    Message("assistant", "I think it is a good thing to do."),
)

Result = TypeVar("Result", Generated, Scored)


def asked(text: str) -> Dialogue:
    return (Message("user", text),)


def by_id(results: Iterator[Result | Failure]) -> dict[str, Result]:
    """Return results by their ids; a failure, or an id that comes twice, fails the test."""
    found: dict[str, Result] = {}
    for result in results:
        assert not isinstance(result, Failure), result
        assert result.id not in found
        found[result.id] = result
    return found


class Conformance:
    """The suite."""

    context: ClassVar[int]
    """Tokens that the engine's model reads at most."""
    batch_invariant: ClassVar[bool] = True
    """Whether greedy answers don't depend on what else is in the batch (float32)."""
    scores: ClassVar[bool] = True
    tolerance: ClassVar[float] = 1e-3
    """How far log-probabilities of the same text may lie apart, in nats."""
    many: ClassVar[int] = 1000
    """Requests that must not make memory grow."""

    @pytest.fixture
    def engine(self) -> Engine:
        raise NotImplementedError

    @pytest.fixture
    def prompts(self) -> list[Dialogue | str]:
        lengths = [3, 40, 1, 17, 9, 80, 2, 25]
        words = itertools.cycle(re.findall(r"\w+", "What do you think of the quick brown fox and the lazy dog"))
        texts = [" ".join(itertools.islice(words, length)) for length in lengths]
        return [text if place % 3 == 0 else asked(text) for place, text in enumerate(texts)]

    # --- identity

    def test_it_has_a_name_and_a_model(self, engine: Engine) -> None:
        assert engine.name
        assert engine.model

    # --- generate

    def test_every_request_has_one_result(self, engine: Engine, prompts: list[Dialogue | str]) -> None:
        requests = [GenerateRequest(id=f"r{n}", prompt=prompt, sampling=FREE) for n, prompt in enumerate(prompts)]
        assert set(by_id(engine.generate(iter(requests)))) == {request.id for request in requests}
        assert list(engine.generate([])) == []

    def test_the_same_requests_give_the_same_results(self, engine: Engine, prompts: list[Dialogue | str]) -> None:
        requests = [
            GenerateRequest(id=f"r{n}", prompt=prompt, seeds=(n, 7), sampling=FREE, logprobs=self.scores)
            for n, prompt in enumerate(prompts)
        ]
        assert by_id(engine.generate(requests)) == by_id(engine.generate(requests))

    def test_order_does_not_matter(self, engine: Engine, prompts: list[Dialogue | str]) -> None:
        requests = [
            GenerateRequest(id=f"r{n}", prompt=prompt, seeds=(n,), sampling=FREE) for n, prompt in enumerate(prompts)
        ]
        forward, backward = by_id(engine.generate(requests)), by_id(engine.generate(requests[::-1]))
        assert {id_: texts(result) for id_, result in forward.items()} == {
            id_: texts(result) for id_, result in backward.items()
        }

    @pytest.mark.parametrize("sampling", [GREEDY, FREE], ids=["greedy", "free"])
    def test_the_rest_of_the_batch_does_not_matter(
        self, engine: Engine, prompts: list[Dialogue | str], sampling: Sampling
    ) -> None:
        if not self.batch_invariant:
            pytest.skip("this engine's results depend on the batch by the rounding of floats")
        requests = [GenerateRequest(id=f"r{n}", prompt=p, seeds=(n,), sampling=sampling) for n, p in enumerate(prompts)]
        together = by_id(engine.generate(requests))
        for request in requests:
            alone = by_id(engine.generate([request]))
            assert tokens(alone[request.id]) == tokens(together[request.id])

    def test_seeds_are_samples(self, engine: Engine) -> None:
        request = GenerateRequest(id="a", prompt=asked("What do you think?"), seeds=(3, 1, 3, 2), sampling=FREE)
        result = by_id(engine.generate([request]))["a"]
        first, second, third, fourth = tokens(result)
        assert first == third
        assert len({first, second, fourth}) == 3
        other = GenerateRequest(id="b", prompt=request.prompt, seeds=(1,), sampling=FREE)
        assert tokens(by_id(engine.generate([other]))["b"]) == [second]

    def test_greedy_needs_no_seed(self, engine: Engine) -> None:
        request = GenerateRequest(id="a", prompt=asked("What do you think?"), seeds=(1, 2), sampling=GREEDY)
        one, other = tokens(by_id(engine.generate([request]))["a"])
        assert one == other

    def test_top_k_of_one_is_greedy(self, engine: Engine) -> None:
        prompt = asked("The lazy dog")
        sampling = Sampling(top_k=1, max_new_tokens=GREEDY.max_new_tokens)
        requests = [
            GenerateRequest(id="greedy", prompt=prompt, sampling=GREEDY),
            GenerateRequest(id="k", prompt=prompt, sampling=sampling),
        ]
        found = by_id(engine.generate(requests))
        assert tokens(found["greedy"]) == tokens(found["k"])

    def test_limits_and_usage(self, engine: Engine) -> None:
        for limit in (1, 5):
            sampling = Sampling(max_new_tokens=limit, min_new_tokens=limit)
            request = GenerateRequest(id="a", prompt=asked("What?"), seeds=(1, 2), sampling=sampling)
            result = by_id(engine.generate([request]))["a"]
            assert [len(completion.token_ids) for completion in result.completions] == [limit] * 2
            assert {completion.finish_reason for completion in result.completions} == {"length"}
            assert result.usage.completion == 2 * limit
            assert result.usage.prompt > 0

    def test_a_stop_string_ends_the_text_before_it(self, engine: Engine) -> None:
        sampling = Sampling(temperature=0, max_new_tokens=24, min_new_tokens=24)
        prompt = asked("The quick brown")
        free = by_id(engine.generate([GenerateRequest(id="a", prompt=prompt, sampling=sampling)]))["a"].completions[0]
        stop = free.text[len(free.text) // 2 :][:2]
        cut = Sampling(temperature=0, max_new_tokens=24, min_new_tokens=24, stop=("no such text", stop))
        request = GenerateRequest(id="b", prompt=prompt, sampling=cut, logprobs=self.scores)
        stopped = by_id(engine.generate([request]))["b"].completions[0]
        assert stopped.text == free.text[: free.text.index(stop)]
        assert stopped.finish_reason == "stop"
        assert len(stopped.token_ids) < len(free.token_ids)
        if self.scores:
            assert stopped.logprobs is not None
            assert len(stopped.logprobs) == len(stopped.token_ids)

    def test_a_prefill_begins_the_answer(self, engine: Engine) -> None:
        prefill = GenerateRequest(id="p", prompt=asked("What?"), prefill="I think it is", sampling=GREEDY)
        free = GenerateRequest(id="f", prompt=asked("What?"), sampling=GREEDY)
        found = by_id(engine.generate([prefill, free]))
        assert found["p"].usage.prompt > found["f"].usage.prompt
        assert not found["p"].completions[0].text.startswith("I think it is")

    def test_unicode_goes_through(self, engine: Engine) -> None:
        prompt = asked("naïve café — 日本語 🙂 \u202e \x00")
        result = by_id(engine.generate([GenerateRequest(id="a", prompt=prompt, sampling=FREE)]))["a"]
        assert result.completions[0].text.encode()

    # --- failures

    def test_an_empty_prompt_is_a_failure(self, engine: Engine) -> None:
        prompts: list[Dialogue | str] = ["", (), asked("")]
        good = GenerateRequest(id="good", prompt="yes", sampling=GREEDY)
        requests = [GenerateRequest(id=f"r{n}", prompt=prompt) for n, prompt in enumerate(prompts)]
        results = {result.id: result for result in engine.generate([*requests, good])}
        assert isinstance(results.pop("good"), Generated)
        assert all(isinstance(result, Failure) and result.reason == "empty" for result in results.values())
        scored = list(engine.score([ScoreRequest(id="a", prompt="", candidates=("x",))]))
        assert isinstance(scored[0], Failure)

    def test_a_prompt_longer_than_the_context_names_the_lengths(self, engine: Engine) -> None:
        long = "yes no " * self.context
        results = {
            result.id: result
            for result in engine.generate(
                [GenerateRequest(id="long", prompt=long), GenerateRequest(id="short", prompt="yes", sampling=GREEDY)]
            )
        }
        failure = results["long"]
        assert isinstance(failure, Failure)
        assert failure.reason == "too_long"
        assert str(self.context) in failure.message
        assert isinstance(results["short"], Generated)

    def test_the_context_limits_what_is_written(self, engine: Engine) -> None:
        prompt = " yes" * 4
        request = GenerateRequest(id="a", prompt=prompt, sampling=Sampling(max_new_tokens=10 * self.context))
        result = by_id(engine.generate([request]))["a"]
        assert result.usage.prompt + len(result.completions[0].token_ids) <= self.context

    # --- score

    @pytest.fixture
    def _can_score(self) -> None:
        if not self.scores:
            pytest.skip("this engine gives no log-probabilities")

    @pytest.mark.usefixtures("_can_score")
    def test_log_probs_are_the_score_of_the_same_text(self, engine: Engine, prompts: list[Dialogue | str]) -> None:
        sampling = Sampling(max_new_tokens=3)
        requests = [
            GenerateRequest(id=f"r{n}", prompt=prompt, seeds=tuple(range(16)), sampling=sampling, logprobs=True)
            for n, prompt in enumerate(prompts)
        ]
        far: list[float] = []
        for id_, result in by_id(engine.generate(requests)).items():
            prompt = requests[int(id_[1:])].prompt
            for completion in result.completions:
                assert completion.logprobs is not None
                assert len(completion.logprobs) == len(completion.token_ids)
                end = completion.finish_reason == "stop"
                again = ScoreRequest(id="s", prompt=prompt, candidates=(completion.text,), end_of_turn=end)
                score = by_id(engine.score([again]))["s"].scores[0]
                # A text that was drawn in an unusual way of cutting words is another text in tokens.
                if len(score.logprobs) == len(completion.token_ids) and "\ufffd" not in completion.text:
                    far.append(abs(score.total - sum(completion.logprobs)))
        assert len(far) > 10
        close = sum(distance < self.tolerance for distance in far)
        assert close > 0.9 * len(far), far

    @pytest.mark.usefixtures("_can_score")
    def test_candidates_do_not_matter_to_each_other(self, engine: Engine, prompts: list[Dialogue | str]) -> None:
        candidates = ("(A)", " yes, it is.", "no", "The quick brown fox jumps over the lazy dog.", "日本語")
        requests = [
            ScoreRequest(id=f"r{n}", prompt=prompt, candidates=candidates[: 1 + n % 5], end_of_turn=n % 2 == 0)
            for n, prompt in enumerate(prompts)
        ]
        together = by_id(engine.score(requests))
        for request in requests:
            for place, candidate in enumerate(request.candidates):
                one = ScoreRequest(
                    id="one", prompt=request.prompt, candidates=(candidate,), end_of_turn=request.end_of_turn
                )
                alone = by_id(engine.score([one]))["one"].scores[0]
                assert together[request.id].scores[place].logprobs == pytest.approx(alone.logprobs, abs=self.tolerance)

    @pytest.mark.usefixtures("_can_score")
    def test_scores_are_log_probabilities(self, engine: Engine) -> None:
        request = ScoreRequest(id="a", prompt=asked("What?"), candidates=("yes", "no, no"), end_of_turn=True)
        for score in by_id(engine.score([request]))["a"].scores:
            assert all(logprob < 0 for logprob in score.logprobs)
            assert score.total == pytest.approx(sum(score.logprobs))

    # --- sharing

    def test_sharing_changes_no_text(self, engine: Engine) -> None:
        if not self.batch_invariant:
            pytest.skip("this engine's results depend on the batch by the rounding of floats")
        found = [by_id(engine.generate(shared_requests(shared))) for shared in (0, len(FEW_SHOT))]
        assert {id_: tokens(result) for id_, result in found[0].items()} == {
            id_: tokens(result) for id_, result in found[1].items()
        }

    @pytest.mark.usefixtures("_can_score")
    def test_sharing_changes_no_score(self, engine: Engine) -> None:
        scores = []
        for shared in (0, len(FEW_SHOT)):
            requests = [
                ScoreRequest(id=request.id, prompt=request.prompt, candidates=("(A)", "(B)", "yes"), shared=shared)
                for request in shared_requests(shared)
            ]
            scores.append(by_id(engine.score(requests)))
        for id_, one in scores[0].items():
            for score, other in zip(one.scores, scores[1][id_].scores, strict=True):
                assert score.logprobs == pytest.approx(other.logprobs, abs=self.tolerance / 10)

    # --- streams

    def test_results_stream(self, engine: Engine) -> None:
        """The first result comes before the source is used up, and a stream that is dropped asks for no more."""
        taken = 0

        def source() -> Iterator[GenerateRequest]:
            nonlocal taken
            for taken in range(1, 100_000):
                yield GenerateRequest(id=str(taken), prompt="yes", sampling=Sampling(temperature=0, max_new_tokens=1))

        stream = engine.generate(source())
        assert not isinstance(next(stream), Failure)
        so_far = taken
        del stream
        gc.collect()
        assert taken == so_far < 10_000
        assert by_id(engine.generate([GenerateRequest(id="after", prompt="yes", sampling=GREEDY)]))

    def test_memory_does_not_grow(self, engine: Engine) -> None:
        sampling = Sampling(max_new_tokens=2)
        peaks = []
        for _ in range(3):
            requests = (
                GenerateRequest(id=str(n), prompt=asked("yes " * (n % 13 + 1)), seeds=(n,), sampling=sampling)
                for n in range(self.many // 3)
            )
            assert len(by_id(engine.generate(requests))) == self.many // 3
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        assert peaks[2] - peaks[1] < 64 * 1024  # KiB


def shared_requests(shared: int) -> list[GenerateRequest]:
    """Return requests that begin alike."""
    return [
        GenerateRequest(id=f"r{n}", prompt=(*FEW_SHOT, Message("user", text)), sampling=GREEDY, shared=shared)
        for n, text in enumerate(["yes", "What do you think of the lazy dog?", "no " * 30] * 4)
    ]


def tokens(result: Generated) -> list[tuple[int, ...]]:
    return [completion.token_ids for completion in result.completions]


def texts(result: Generated) -> list[Completion | str]:
    return [completion.text for completion in result.completions]
