"""Rows leave when they stop and others take their place; what a row writes does not depend on it."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from cai.engines.base import Sampling
from cai.engines.decoding import HELD, Decoder, PlainLanes, Row, SharedLanes
from cai.engines.network import Network
from cai.engines.render import Renderer
from tests.engines import tiny


@pytest.fixture
def network() -> Network:
    return Network(tiny.llama())


@pytest.fixture
def renderer() -> Renderer:
    return Renderer(tiny.shared_tokenizer())


def row(ids: list[int], limit: int = 6, *, seed: int = 0, stop: tuple[str, ...] = (), temperature: float = 0.0) -> Row:
    return Row(
        owner=0,
        ids=ids,
        sampling=Sampling(temperature=temperature, max_new_tokens=limit, min_new_tokens=limit),
        seed=seed,
        limit=limit,
        logprobs_wanted=True,
        turn=False,
        stop=stop,
    )


def write(network: Network, renderer: Renderer, rows: Sequence[Row], capacity: int = 3) -> None:
    with network.inference():
        lanes = SharedLanes(network, [row.ids for row in rows], capacity, 64, 0)
        decoder = Decoder(rows, lanes, renderer, capacity)
        ended: list[Row] = []
        while not decoder.done:
            ended += decoder.advance(2)
    assert sorted(map(id, ended)) == sorted(map(id, rows))


@pytest.mark.parametrize("common", [0, 20, HELD + 5])
def test_a_row_writes_the_same_alone_and_in_a_crowd(network: Network, renderer: Renderer, common: int) -> None:
    prefix = [5 + place % 60 for place in range(common)]
    prompts = [[*prefix, *range(10 + n, 12 + 3 * n)] for n in range(1, 8)]
    limits = [1, 9, 4, 17, 2, 9, 5]
    crowd = [
        row(ids, limit, seed=n, temperature=n % 2) for n, (ids, limit) in enumerate(zip(prompts, limits, strict=True))
    ]
    write(network, renderer, crowd)
    for n, (ids, limit) in enumerate(zip(prompts, limits, strict=True)):
        alone = row(ids, limit, seed=n, temperature=n % 2)
        write(network, renderer, [alone])
        assert crowd[n].tokens == alone.tokens
        assert crowd[n].logprobs == pytest.approx(alone.logprobs, abs=1e-4)
        assert len(alone.tokens) == limit


def test_a_prompt_that_comes_several_times_is_read_once(
    network: Network, renderer: Renderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = 0
    hidden = network.hidden

    def counted(ids: Tensor, *args: object) -> Tensor:
        nonlocal read
        read += ids.numel() if ids.shape[1] > 1 else 0
        return hidden(ids, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(network, "hidden", counted)
    rows = [row(list(range(7, 13)), 3, seed=seed, temperature=1.0) for seed in range(3)]
    write(network, renderer, [*rows, row([3, 4], 3)])
    assert read <= 3 * len(rows[0].ids)
    assert len({tuple(row.tokens) for row in rows}) > 1


def test_the_plain_way_writes_the_same(network: Network, renderer: Renderer) -> None:
    prompts = [[5, 6, 7], [8, 9, 10, 11, 12], [13]]
    shared, plain = ([row(ids, 3 + n) for n, ids in enumerate(prompts)] for _ in range(2))
    write(network, renderer, shared)
    with network.inference():
        decoder = Decoder(plain, PlainLanes(network, 0), renderer, 2)
        while not decoder.done:
            decoder.advance(1)
    assert [one.tokens for one in shared] == [one.tokens for one in plain]


def test_a_stop_string_over_several_tokens_is_cut_with_its_tokens(renderer: Renderer) -> None:
    ids = renderer.answer_ids("yes no\n\nHuman: more", end_of_turn=False, turn=False)
    one = row([1], 100, stop=("\n\nHuman:",))
    ended = [one.accept(token, -1.0, renderer) for token in ids[: ids.index(ids[-1])] if one.completion is None]
    assert ended[-1]
    assert one.completion is not None
    assert one.completion.text == "yes no"
    assert one.completion.finish_reason == "stop"
    assert renderer.decode(one.completion.token_ids) == "yes no"
    assert one.completion.logprobs == (-1.0,) * len(one.completion.token_ids)


def test_the_end_of_turn_counts_as_a_token_and_not_as_text(renderer: Renderer) -> None:
    one = row([1], 100)
    for token in renderer.answer_ids("yes", end_of_turn=True, turn=False):
        one.accept(token, None, renderer)
    assert one.completion is not None
    assert one.completion.text == "yes"
    assert one.completion.token_ids[-1] in renderer.end_ids


def test_a_row_that_starts_again_writes_the_same(network: Network, renderer: Renderer) -> None:
    one = row([5, 6], 5, seed=3, temperature=1.0)
    write(network, renderer, [one])
    first, one.completion = list(one.tokens), None
    one.restart()
    write(network, renderer, [one])
    assert one.tokens == first
    assert torch.is_grad_enabled()
