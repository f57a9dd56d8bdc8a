import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.utils._python_dispatch import TorchDispatchMode

from cai.losses.logprobs import (
    Moments,
    masked_mean,
    masked_moments,
    masked_sum,
    masked_whiten,
    merge_moments,
    projected_logprobs,
    projected_logprobs_and_entropy,
    selected_logprobs,
)

NAN = float("nan")
INF = float("inf")


class Largest(TorchDispatchMode):
    """Watches every operation, those of the backward too: the largest tensor made, and the types of matrix products."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.allocated = 0
        self.products: list[torch.dtype] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {a.untyped_storage().data_ptr() for a in args if isinstance(a, Tensor)}
        if isinstance(result, Tensor) and result.untyped_storage().data_ptr() not in given:
            self.allocated = max(self.allocated, result.numel())
        if func in (torch.ops.aten.mm.default, torch.ops.aten.addmm_.default):
            self.products.append(result.dtype)
        return result


def naive_logprobs(logits: Tensor, labels: Tensor, temperature: float = 1.0) -> Tensor:
    """Log-softmax of everything in float64, then the label's; 0 for a label that is negative."""
    everything = torch.log_softmax(logits.double() / temperature, dim=-1)
    chosen = everything.gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return torch.where(labels < 0, 0.0, chosen)


def test_four_tokens_by_hand() -> None:
    # softmax of (0, ln 3) is (1/4, 3/4) and of (0, 0) is (1/2, 1/2).
    logits = torch.tensor([[[0.0, math.log(3)], [0.0, math.log(3)], [0.0, 0.0], [5.0, 5.0]]])
    labels = torch.tensor([[1, 0, 1, 0]])
    expected = [[math.log(0.75), math.log(0.25), math.log(0.5), math.log(0.5)]]
    torch.testing.assert_close(selected_logprobs(logits, labels), torch.tensor(expected))
    # At temperature 1/2 the logits double: softmax of (0, 2 ln 3) is (1/10, 9/10).
    cooler = selected_logprobs(logits, labels, temperature=0.5)
    torch.testing.assert_close(cooler[0, :2], torch.tensor([math.log(0.9), math.log(0.1)]))
    # The same logits as a product: hidden states are the unit vectors, so the head's columns are the logits.
    head_VH = logits[0].T.contiguous()
    projected = projected_logprobs(torch.eye(4), head_VH, labels[0], tile=3)
    torch.testing.assert_close(projected, torch.tensor(expected[0]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_selected_logprobs_are_float32_and_match_float64_arithmetic(dtype: torch.dtype) -> None:
    for seed in range(60):
        generator = torch.Generator().manual_seed(seed)
        batch, tokens, vocabulary = (int(torch.randint(1, high, (), generator=generator)) for high in (4, 7, 20))
        temperature = 1.0 if seed % 2 else 0.7
        logits = (8 * torch.randn(batch, tokens, vocabulary, generator=generator)).to(dtype).requires_grad_()
        labels = torch.randint(-1, vocabulary, (batch, tokens), generator=generator)
        upstream = torch.randn(batch, tokens, generator=generator)
        logprobs = selected_logprobs(logits, labels, temperature=temperature, tile=1 + seed % 5)
        assert logprobs.dtype == torch.float32
        exact_logits = logits.detach().double().requires_grad_()
        exact = naive_logprobs(exact_logits, labels, temperature)
        torch.testing.assert_close(logprobs.double(), exact, atol=1e-5, rtol=1e-6)
        (gradient,) = torch.autograd.grad(logprobs, logits, upstream)
        (exact_gradient,) = torch.autograd.grad(exact, exact_logits, upstream.double())
        assert gradient.dtype == dtype
        rounding = 1e-6 if dtype.itemsize >= 4 else torch.finfo(dtype).eps
        torch.testing.assert_close(gradient.double(), exact_gradient, atol=2e-6, rtol=rounding)


def test_selected_logprobs_of_a_slice_equal_those_of_its_copy() -> None:
    logits = torch.randn(3, 6, 11, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, 11, (3, 5))
    sliced = selected_logprobs(logits[:, :-1], labels, tile=2)
    assert torch.equal(sliced, selected_logprobs(logits[:, :-1].contiguous(), labels, tile=2))


def test_a_row_without_a_label_is_zero_and_takes_no_gradient_even_from_nan() -> None:
    logits = torch.randn(1, 4, 5)
    labels = torch.tensor([[2, -100, 1, -1]])
    clean = logits.clone().requires_grad_()
    dirty = logits.clone()
    dirty[0, 1], dirty[0, 3] = NAN, INF
    dirty.requires_grad_()
    for leaf in (clean, dirty):
        logprobs = selected_logprobs(leaf, labels)
        assert logprobs[0, 1] == logprobs[0, 3] == 0
        torch.autograd.backward(logprobs.sum())
    assert clean.grad is not None
    assert dirty.grad is not None
    assert torch.equal(clean.grad, dirty.grad)
    assert not dirty.grad[0, 1].any()
    hidden, head = torch.randn(4, 3), torch.randn(5, 3)
    hidden[1] = NAN
    hidden.requires_grad_()
    head.requires_grad_()
    projected = projected_logprobs(hidden, head, labels[0], tile=2)
    torch.autograd.backward(projected.sum())
    assert projected.isfinite().all()
    assert projected[1] == 0
    assert hidden.grad is not None
    assert head.grad is not None
    assert not hidden.grad[1].any()
    assert head.grad.isfinite().all()


def test_a_token_ruled_out_by_minus_infinity_leaves_the_others_finite() -> None:
    logits = torch.tensor([[[0.0, -INF, math.log(3)]]], requires_grad=True)
    logprobs = selected_logprobs(logits, torch.tensor([[2]]))
    torch.testing.assert_close(logprobs, torch.tensor([[math.log(0.75)]]))
    (gradient,) = torch.autograd.grad(logprobs.sum(), logits)
    torch.testing.assert_close(gradient, torch.tensor([[[-0.25, 0.0, 0.25]]]))


def capped(logits: Tensor, softcap: float | None) -> Tensor:
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


@pytest.mark.parametrize("softcap", [None, 2.5])
def test_projected_logprobs_match_a_plain_head_in_value_and_gradient(softcap: float | None) -> None:
    for seed in range(100):
        generator = torch.Generator().manual_seed(seed)
        positions, width, vocabulary = (int(torch.randint(1, high, (), generator=generator)) for high in (9, 7, 20))
        shaping: dict[str, Any] = {"temperature": 1.0 if seed % 2 else 1.3, "softcap": softcap}
        hidden = torch.randn(positions, width, generator=generator, requires_grad=True)
        head = (2 * torch.randn(vocabulary, width, generator=generator)).requires_grad_()
        labels = torch.randint(-1, vocabulary, (positions,), generator=generator)
        upstream, above = torch.randn(2, positions, generator=generator)
        exact_hidden, exact_head = (leaf.detach().double().requires_grad_() for leaf in (hidden, head))
        exact_logits = capped(linear(exact_hidden, exact_head), softcap)
        exact = naive_logprobs(exact_logits, labels, shaping["temperature"])
        every = torch.log_softmax(exact_logits / shaping["temperature"], -1)
        exact_entropy = torch.where(labels < 0, 0.0, -(every.exp() * every).sum(-1))
        logprobs = projected_logprobs(hidden, head, labels, tile=1 + seed % 10, **shaping)
        both = projected_logprobs_and_entropy(hidden, head, labels, tile=1 + seed % 10, **shaping)
        assert torch.equal(both[0], logprobs)
        torch.testing.assert_close(logprobs, exact.float(), atol=2e-5, rtol=1e-6)
        torch.testing.assert_close(both[1], exact_entropy.float(), atol=2e-5, rtol=1e-5)
        for found, wanted in (
            ((logprobs * upstream).sum(), (exact * upstream).sum()),
            ((both[0] * upstream + both[1] * above).sum(), (exact * upstream + exact_entropy * above).sum()),
        ):
            gradients = torch.autograd.grad(found, (hidden, head), retain_graph=True)
            exact_gradients = torch.autograd.grad(wanted, (exact_hidden, exact_head), retain_graph=True)
            for gradient, exact_gradient in zip(gradients, exact_gradients, strict=True):
                torch.testing.assert_close(gradient, exact_gradient.float(), atol=3e-5, rtol=1e-5)


def test_a_cap_by_hand() -> None:
    # The head gives logits (0, 3); with a cap of 2 the second is 2 tanh(1.5), and at temperature 1/2 twice that.
    hidden, head, labels = torch.ones(2, 1), torch.tensor([[0.0], [3.0]]), torch.tensor([1, 0])
    for temperature in (1.0, 0.5):
        second = 2 * math.tanh(1.5) / temperature
        expected = [second - math.log(1 + math.exp(second)), -math.log(1 + math.exp(second))]
        found = projected_logprobs(hidden, head, labels, softcap=2.0, temperature=temperature)
        torch.testing.assert_close(found, torch.tensor(expected))


def test_projected_logprobs_of_no_position_are_empty_and_give_zero_gradients() -> None:
    hidden, head = torch.randn(0, 3, requires_grad=True), torch.randn(5, 3, requires_grad=True)
    logprobs = projected_logprobs(hidden, head, torch.zeros(0, dtype=torch.int64))
    assert logprobs.shape == (0,)
    torch.autograd.backward(logprobs.sum())
    assert head.grad is not None
    assert not head.grad.any()


def test_memory_stays_within_a_tile() -> None:
    positions, width, vocabulary, tile = 64, 3, 50, 4
    labels = torch.randint(0, vocabulary, (positions,))
    hidden = torch.randn(positions, width, requires_grad=True)
    head = torch.randn(vocabulary, width, requires_grad=True)
    for softcap in (None, 3.0):
        with Largest() as watch:
            logprobs, entropy = projected_logprobs_and_entropy(hidden, head, labels, tile=tile, softcap=softcap)
            torch.autograd.backward((logprobs + entropy).sum())
        # A tile of logits, or the head's own gradient; all logits would be 64 x 50.
        assert watch.allocated == tile * vocabulary

    batch = torch.randn(4, positions // 4, vocabulary)
    for logits in (batch, torch.randn(4, 1 + positions // 4, vocabulary)[:, 1:]):
        with Largest() as watch:
            selected_logprobs(logits, labels.view(4, -1), tile=tile)
        assert watch.allocated == tile * vocabulary


def test_nothing_of_the_vocabularys_size_is_kept_for_the_backward_of_bfloat16() -> None:
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    logits = torch.randn(2, 8, 30).bfloat16().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        selected_logprobs(logits, torch.zeros(2, 8, dtype=torch.int64), tile=4)
    large = [tensor for tensor in kept if tensor.numel() > 2 * 8]
    assert [tensor.data_ptr() for tensor in large] == [logits.data_ptr()]


def test_a_frozen_head_gets_no_gradient_and_costs_no_product() -> None:
    hidden = torch.randn(6, 3, requires_grad=True)
    head, labels = torch.randn(9, 3), torch.randint(0, 9, (6,))
    products = []
    for trains_head in (False, True):
        leaf = head.clone().requires_grad_(trains_head)
        with Largest() as watch:
            torch.autograd.backward(projected_logprobs(hidden, leaf, labels, tile=6).sum())
        products.append(len(watch.products))
        assert (leaf.grad is not None) == trains_head
    assert products == [3, 4]


def test_under_autocast_the_head_behaves_as_a_linear_layer() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(7, 16, generator=generator, requires_grad=True)
    head = torch.randn(12, 16, generator=generator, requires_grad=True)
    labels = torch.randint(0, 12, (7,), generator=generator)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logprobs = projected_logprobs(hidden, head, labels, tile=3)
        plain = naive_logprobs(linear(hidden, head), labels)
    assert logprobs.dtype == torch.float32
    torch.testing.assert_close(logprobs, plain.float(), atol=1e-5, rtol=1e-5)
    with Largest() as watch:
        gradients = torch.autograd.grad(logprobs.sum(), (hidden, head))
    assert watch.products == [torch.bfloat16] * 9  # three tiles: the logits again, and two gradients
    plain_gradients = torch.autograd.grad(plain.sum(), (hidden, head))
    for gradient, plain_gradient in zip(gradients, plain_gradients, strict=True):
        assert gradient.dtype == torch.float32
        torch.testing.assert_close(gradient, plain_gradient, atol=0.03, rtol=0.03)


def test_the_heads_gradient_is_summed_in_float32_over_tiles() -> None:
    # 512 tiles of one position, each adding the same gradient: bfloat16 would stop growing at 256 of its steps.
    hidden = torch.ones(512, 1, dtype=torch.bfloat16)
    head = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    torch.autograd.backward(projected_logprobs(hidden, head, torch.zeros(512, dtype=torch.int64), tile=1).sum())
    assert head.grad is not None
    # d log p(0) / d logit 0 = 1 - 1/2, and hidden is 1: 512 / 2.
    assert head.grad.tolist() == [[256.0], [-256.0]]


def test_entropy_by_hand() -> None:
    # Uniform over 4 tokens: ln 4. A sure token: 0. No label: 0, and no gradient.
    head = torch.tensor([[7.0, 7.0, 7.0, 7.0], [0.0, -1e4, -1e4, -1e4]]).T.contiguous().requires_grad_()
    labels = torch.tensor([2, 0, -100])
    _, entropy = projected_logprobs_and_entropy(torch.eye(2), head, labels[:2])
    torch.testing.assert_close(entropy, torch.tensor([math.log(4), 0.0]))
    (gradient,) = torch.autograd.grad(entropy.sum(), head)
    torch.testing.assert_close(gradient, torch.zeros(4, 2))  # both are extremes
    hidden = torch.tensor([[1.0], [NAN]], requires_grad=True)
    logprobs, entropy = projected_logprobs_and_entropy(hidden, torch.tensor([[0.0], [math.log(3)]]), labels[1:])
    assert logprobs.tolist() == [pytest.approx(math.log(0.25)), 0.0]
    assert entropy.tolist() == [pytest.approx(-0.25 * math.log(0.25) - 0.75 * math.log(0.75)), 0.0]
    (gradient,) = torch.autograd.grad(logprobs.sum() + entropy.sum(), hidden)
    assert gradient.isfinite().all()
    assert gradient[1] == 0


@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"temperature": -1.0}, {"tile": 0}])
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any]) -> None:
    logits, labels = torch.zeros(1, 2, 3), torch.zeros(1, 2, dtype=torch.int64)
    with pytest.raises(ValueError, match="must be above 0"):
        selected_logprobs(logits, labels, **settings)
    with pytest.raises(ValueError, match="must be above 0"):
        projected_logprobs(logits[0], torch.zeros(4, 3), labels[0], **settings)
    with pytest.raises(ValueError, match="softcap is 0"):
        projected_logprobs(logits[0], torch.zeros(4, 3), labels[0], softcap=0.0)


def test_shapes_that_disagree_are_refused() -> None:
    with pytest.raises(ValueError, match="one label per row"):
        selected_logprobs(torch.zeros(1, 3, 4), torch.zeros(1, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="one label per row"):
        projected_logprobs(torch.zeros(3, 4), torch.zeros(5, 4), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="doesn't fit a head"):
        projected_logprobs(torch.zeros(3, 4), torch.zeros(4, 5), torch.zeros(3, dtype=torch.int64))


def test_masked_statistics_by_hand() -> None:
    values = torch.tensor([[1.0, 2.0, NAN], [3.0, INF, 4.0]])
    mask = torch.tensor([[True, True, False], [True, False, True]])
    assert masked_sum(values, mask) == 10  # 1 + 2 + 3 + 4
    assert masked_mean(values, mask) == 2.5  # 10 / 4
    assert masked_sum(values, mask, dim=1).tolist() == [3, 7]
    assert masked_mean(values, mask, dim=1).tolist() == [1.5, 3.5]
    moments = masked_moments(values, mask)
    # (1.5^2 + 0.5^2 + 0.5^2 + 1.5^2) / 4 = 5 / 4
    assert moments == Moments(torch.tensor(4.0), torch.tensor(2.5), torch.tensor(1.25))
    whitened = masked_whiten(values, mask)
    scale = math.sqrt(1.25)
    expected = torch.tensor([[-1.5 / scale, -0.5 / scale, 0.0], [0.5 / scale, 0.0, 1.5 / scale]])
    torch.testing.assert_close(whitened, expected)
    kept = masked_whiten(values, mask, shift_mean=False)
    torch.testing.assert_close(kept, torch.where(mask, expected + 2.5, 0.0))


def test_masked_values_get_no_gradient_and_do_not_poison_the_others() -> None:
    values = torch.tensor([1.0, NAN, 3.0], requires_grad=True)
    mask = torch.tensor([True, False, True])
    torch.autograd.backward(masked_mean(values, mask))
    assert values.grad is not None
    assert values.grad.tolist() == [0.5, 0.0, 0.5]


def test_statistics_of_nothing() -> None:
    values, mask = torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor([False, False])
    mean = masked_mean(values, mask)
    assert mean.isnan()
    torch.autograd.backward(mean)
    assert values.grad is not None
    assert values.grad.tolist() == [0.0, 0.0]
    assert [float(field) for field in masked_moments(values, mask)] == [0, 0, 0]
    assert masked_whiten(values, mask).tolist() == [0, 0]


def test_merged_moments_of_microbatches_are_those_of_the_whole_batch() -> None:
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        values = 3 + 10 * torch.randn(6, 5, generator=generator)
        mask = torch.rand(6, 5, generator=generator) < 0.6
        mask[2:4] = False  # one part is empty
        parts = [masked_moments(values[i : i + 2], mask[i : i + 2]) for i in range(0, 6, 2)]
        merged = merge_moments(Moments(*(torch.stack(field) for field in zip(*parts, strict=True))))
        valid = [float(v) for v, m in zip(values.flatten(), mask.flatten(), strict=True) if m]
        mean = sum(valid) / len(valid)
        variance = sum((v - mean) ** 2 for v in valid) / len(valid)
        assert merged.token_count == len(valid)
        assert float(merged.mean) == pytest.approx(mean, rel=1e-5, abs=1e-5)
        assert float(merged.variance) == pytest.approx(variance, rel=1e-5, abs=1e-4)
        whole = masked_whiten(values, mask)
        halves = [masked_whiten(values[i : i + 2], mask[i : i + 2], moments=merged) for i in range(0, 6, 2)]
        torch.testing.assert_close(torch.cat(halves), whole, atol=1e-5, rtol=1e-5)


def test_masks_are_boolean_and_shaped_as_the_values() -> None:
    with pytest.raises(TypeError, match="bool"):
        masked_sum(torch.zeros(2), torch.ones(2))
    with pytest.raises(ValueError, match="they must agree"):
        masked_mean(torch.zeros(2, 1), torch.ones(2, dtype=torch.bool))
    with pytest.raises(ValueError, match="they must agree"):
        masked_whiten(torch.zeros(2, 1), torch.ones(2, dtype=torch.bool))
