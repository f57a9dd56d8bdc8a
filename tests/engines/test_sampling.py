"""Draws follow the distribution that was asked for, and depend on the row's own number alone."""

import pytest
import torch
from torch import Tensor

from cai.engines.base import Sampling
from cai.engines.sampling import BLOCK, NUCLEUS, Uniforms, draw

LOGITS = torch.tensor([2.0, 0.0, -1.0, 1.0, -torch.inf, 0.5])


def shares(sampling: Sampling, logits: Tensor, count: int = 4000) -> Tensor:
    """Return how often each token comes for evenly spread numbers."""
    numbers = [(place + 0.5) / count for place in range(count)]
    tokens = draw(logits.expand(count, -1).clone(), [sampling] * count, numbers)
    return torch.bincount(tokens, minlength=len(logits)) / count


@pytest.mark.parametrize("size", [6, BLOCK, 3 * BLOCK + 7])
def test_tokens_come_as_often_as_they_should(size: int) -> None:
    logits = torch.randn(size, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(shares(Sampling(), logits), logits.softmax(-1), atol=6e-4, rtol=0)


def test_temperature_sharpens() -> None:
    expected = (LOGITS / 0.5).softmax(-1)
    torch.testing.assert_close(shares(Sampling(temperature=0.5), LOGITS), expected, atol=6e-4, rtol=0)


def test_top_k_keeps_the_likeliest() -> None:
    kept = LOGITS.masked_fill(LOGITS < 1, -torch.inf).softmax(-1)
    torch.testing.assert_close(shares(Sampling(top_k=2), LOGITS), kept, atol=6e-4, rtol=0)


def test_top_p_keeps_the_fewest_that_hold_it() -> None:
    probs = LOGITS.softmax(-1)
    # The first alone holds 0.52, the first two 0.71: 0.6 needs both.
    kept = torch.where(LOGITS >= 1, probs, 0.0)
    torch.testing.assert_close(shares(Sampling(top_p=0.6), LOGITS), kept / kept.sum(), atol=6e-4, rtol=0)
    assert shares(Sampling(top_p=0.01), LOGITS)[0] == 1


def test_top_p_looks_further_where_the_first_tokens_hold_too_little() -> None:
    logits = torch.zeros(8 * NUCLEUS)
    count = (shares(Sampling(top_p=0.5), logits, 10 * len(logits)) > 0).sum()
    assert count == pytest.approx(len(logits) / 2, abs=2)


def test_impossible_tokens_never_come_even_at_the_edges() -> None:
    logits = torch.full((2 * BLOCK + 3,), -torch.inf)
    logits[[3, BLOCK + 1]] = 0.0
    for number in (0.0, 0.5 - 1e-12, 0.5, 1 - 1e-16, 1.0):
        for sampling in (Sampling(), Sampling(top_p=0.9), Sampling(top_k=5)):
            assert draw(logits[None].clone(), [sampling], [number]).item() in (3, BLOCK + 1)


def test_rows_of_all_kinds_share_a_batch() -> None:
    samplings = [Sampling(temperature=0), Sampling(), Sampling(top_k=2), Sampling(temperature=2.0, top_p=0.9)] * 2
    numbers = [place / 8 for place in range(8)]
    logits = torch.randn(8, 50, generator=torch.Generator().manual_seed(0))
    together = draw(logits.clone(), samplings, numbers).tolist()
    alone = [
        draw(logits[[row]].clone(), [sampling], [number]).item()
        for row, (sampling, number) in enumerate(zip(samplings, numbers, strict=True))
    ]
    assert together == alone
    assert together[0] == logits[0].argmax()


def test_a_seed_is_a_stream() -> None:
    one, other, third = Uniforms(5), Uniforms(5), Uniforms(2**63 - 1)
    first = [one.next() for _ in range(200)]
    assert first == [other.next() for _ in range(200)]
    assert first != [third.next() for _ in range(200)]
    assert len(set(first)) == 200
    assert all(0 <= number < 1 for number in first)
