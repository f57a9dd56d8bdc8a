"""Which way a model is run, that both ways agree, and that padding changes nothing."""

import pytest
import torch

from cai.engines.attention import Block, Memory
from cai.engines.network import Network, common_length, left_padded, right_padded
from tests.engines import tiny


@pytest.fixture
def network() -> Network:
    return Network(tiny.llama())


def positions(start: int, count: int) -> torch.Tensor:
    return torch.arange(start, start + count)[None]


def test_a_llama_is_run_with_shared_attention(network: Network) -> None:
    assert network.shared
    assert network.context == tiny.CONTEXT


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_prefix_computed_once_gives_the_same_logits(dtype: torch.dtype) -> None:
    network = Network(tiny.llama(dtype))
    assert network.shared
    ids = torch.arange(5, 25)[None]
    with network.inference():
        block = Block()
        network.hidden(ids[:, :9], positions(0, 9), Memory(written=block))
        ours = network.logits(network.hidden(ids[:, 9:], positions(9, 11), Memory([block]))[0])
        theirs = network.plain(ids, torch.ones_like(ids)).logits[0, 9:].float()
    torch.testing.assert_close(ours, theirs, atol=1e-4 if dtype == torch.float32 else 0.3, rtol=0)


def test_what_stands_in_the_padding_does_not_matter(network: Network) -> None:
    rows = [[5, 6, 7], [8, 9, 10, 11, 12, 13]]
    results = []
    for pad in (0, 77):
        with network.inference():
            ids, mask = left_padded(rows, pad, network.device)
            left = network.plain(ids, mask, last=1).logits[:, -1]
            ids = right_padded(rows, pad, network.device)
            hidden = network.hidden(ids, positions(0, 6).expand(2, -1), Memory())
            right = network.logits(hidden[torch.arange(2), torch.tensor([2, 5])])
        torch.testing.assert_close(left, right, atol=1e-4, rtol=1e-4)
        results.append((left, right))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_log_probs_in_half_precision_tell_close_answers_apart() -> None:
    """The logit of a target is a float32 product; a bfloat16 one would be rounded to the next of few values."""
    network = Network(tiny.llama(torch.bfloat16))
    hidden = torch.randn(1, 48, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16) * 8
    targets = torch.arange(300)
    with network.inference():
        ours = network.logprobs(hidden, torch.zeros(300, dtype=torch.long), targets)
    weights = network.causal.lm_head.weight.float()
    exact = (hidden.float() @ weights.T)[0].log_softmax(-1)[:300]
    torch.testing.assert_close(ours - ours.mean(), exact - exact.mean(), atol=1e-4, rtol=1e-4)


def test_the_way_of_a_scaled_output_layer_is_plain() -> None:
    model = tiny.llama()
    model.config.logits_scaling = 8.0
    assert not Network(model).shared


def test_a_model_that_ignores_the_memory_is_run_the_plain_way(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(tiny.llama())
    honest = network.hidden
    monkeypatch.setattr(network, "hidden", lambda ids, places, memory: honest(ids, places, Memory(written=Block())))
    assert not network.shared


def test_a_model_is_run_its_own_way_from_the_first_call_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Network, "_try_shared", lambda network: False)
    network = Network(tiny.llama())
    with network.inference():
        assert network.config._attn_implementation == "sdpa"
    assert not network.shared


def test_common_length() -> None:
    assert common_length([[1, 2, 3], [1, 2, 4, 5], [1, 2]]) == 2
    assert common_length([[1, 2]]) == 2
    assert common_length([[1], [2]]) == 0
