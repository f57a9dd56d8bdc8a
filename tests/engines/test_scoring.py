"""Scores in batches equal scores one by one, and the vocabulary is projected for candidates only."""

import pytest
from torch import Tensor

from cai.engines.network import Network
from cai.engines.scoring import Item, Scorer
from tests.engines import tiny


def items(common: int = 0) -> list[Item]:
    prefix = [5 + place % 60 for place in range(common)]
    return [
        Item(n, [*prefix, *range(10, 12 + 2 * n)], [list(range(20, 20 + count)) for count in counts])
        for n, counts in enumerate([(1, 1), (3, 0, 7), (2,), (1, 1), (5,), (4, 4, 1), (1, 6)])
    ]


def scored(network: Network, todo: list[Item], batch_tokens: int = 128) -> dict[int, list[list[float]]]:
    scorer = Scorer(network, todo, batch_tokens, 0)
    found = {}
    for batch in scorer.batches(todo):
        with network.inference():
            for item, scores in zip(batch, scorer.logprobs(batch), strict=True):
                found[item.owner] = scores
    return found


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("common", [0, 40])
def test_batches_change_nothing(common: int, plain: bool) -> None:
    network = Network(tiny.llama())
    together = scored(network, items(common))
    network._shared = not plain
    for item in items(common):
        alone = scored(network, [item])[item.owner]
        assert [len(scores) for scores in alone] == [len(candidate) for candidate in item.candidates]
        for one, other in zip(alone, together[item.owner], strict=True):
            assert one == pytest.approx(other, abs=1e-4)


def test_every_item_is_in_one_batch_of_limited_size() -> None:
    todo = items(40)
    scorer = Scorer(Network(tiny.llama()), todo, 30, 0)
    batches = list(scorer.batches(todo))
    assert sorted(item.owner for batch in batches for item in batch) == list(range(len(todo)))
    for batch in batches:
        assert len({len(item.candidates) for item in batch}) == 1
        assert len(batch) == 1 or len(batch) * max(item.cost - 40 for item in batch) <= 30


def test_logits_are_computed_for_candidates_only(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(tiny.llama())
    assert network.shared
    positions = 0
    logits = network.logits

    def counted(hidden: Tensor) -> Tensor:
        nonlocal positions
        positions += len(hidden)
        return logits(hidden)

    monkeypatch.setattr(network, "logits", counted)
    scored(network, [Item(n, list(range(5, 100)), [[1], [2], [3]]) for n in range(4)])
    assert positions == 4  # one position predicts the first token of all three candidates
