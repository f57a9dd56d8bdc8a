"""Attention in parts equals attention over the whole; slots hold what was put in them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cai.engines import attention
from cai.engines.attention import Block, Memory, Slots

Kernel = Callable[..., tuple[Tensor, Tensor]]
HEADS, KEY_HEADS, WIDTH = 6, 2, 8


class Module(torch.nn.Module):
    layer_idx = 0


def made(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def whole(query: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
    """Return attention as the textbook has it, ``[B, L, H, D]``."""
    key, value = (tensor.repeat_interleave(HEADS // KEY_HEADS, dim=1) for tensor in (key, value))
    scores = (query @ key.transpose(-1, -2) / WIDTH**0.5).masked_fill(~visible, -torch.inf)
    out: Tensor = (scores.softmax(-1) @ value).transpose(1, 2)
    return out


@pytest.fixture(params=["fused", "spelled out"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "spelled out":

        def spelled_out(*args: object, causal: bool, alone: bool) -> tuple[Tensor, Tensor]:
            return attention._spelled_out(*args, causal=causal)  # type: ignore[arg-type]

        monkeypatch.setattr(attention, "CHUNK", 500)
        monkeypatch.setattr(attention, "_kernel", spelled_out)


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("parents", [1, 2, 4])
def test_rows_see_their_ancestors_and_their_own_past(parents: int) -> None:
    rows, length, before = 4, 5, 7
    query, key, value = (made(rows, length, heads, WIDTH).transpose(1, 2) for heads in (HEADS, KEY_HEADS, KEY_HEADS))
    keys, values = made(parents, KEY_HEADS, before, WIDTH), made(parents, KEY_HEADS, before, WIDTH) + 1
    held = torch.tensor([7, 3, 5, 1])[:parents]
    hidden = torch.arange(before) >= held[:, None]
    bias = torch.zeros(parents, 1, 1, before).masked_fill(hidden[:, None, None], -torch.inf)
    block = Block([keys], [values], bias)
    out, _ = attention.attention_forward(Module(), query, key, value, None, memory=Memory([block]))
    index = torch.arange(parents).repeat_interleave(rows // parents)
    causal = torch.ones(length, length).tril().bool().expand(rows, 1, -1, -1)
    seen = (~hidden)[index][:, None, None].expand(-1, -1, length, -1)
    expected = whole(
        query,
        torch.cat([keys[index], key], dim=2),
        torch.cat([values[index], value], dim=2),
        torch.cat([seen, causal], dim=3),
    )
    torch.testing.assert_close(out, expected)


@pytest.mark.usefixtures("kernel")
def test_slots_grow_by_a_token_per_step_and_close_up() -> None:
    slots = Slots(capacity=4)
    keys, values = made(3, KEY_HEADS, 6, WIDTH), made(3, KEY_HEADS, 6, WIDTH) - 1
    slots.add([(Block([keys], [values]), torch.tensor([0, 1, 2]))], 6, [6, 2, 4])
    slots.keep([0, 2])
    assert slots.lengths == [6, 4]
    past = [(keys[0, :, :6], values[0, :, :6]), (keys[2, :, :4], values[2, :, :4])]
    for step in range(Slots.STEP + 3):  # past the room that there was at first
        assert slots.begin_step().tolist() == [6 + step, 4 + step]
        query = made(2, 1, HEADS, WIDTH).transpose(1, 2)
        key, value = made(2, 1, KEY_HEADS, WIDTH).transpose(1, 2) + step, made(2, 1, KEY_HEADS, WIDTH).transpose(1, 2)
        out, _ = attention.attention_forward(Module(), query, key, value, None, memory=Memory(slots=slots))
        past = [
            (torch.cat([old[0], key[row]], dim=1), torch.cat([old[1], value[row]], dim=1))
            for row, old in enumerate(past)
        ]
        for row, (held_keys, held_values) in enumerate(past):
            everything = torch.ones(1, 1, 1, held_keys.shape[1], dtype=torch.bool)
            expected = whole(query[[row]], held_keys[None], held_values[None], everything)
            torch.testing.assert_close(out[[row]], expected, atol=1e-5, rtol=1e-5)


def test_a_short_prefix_is_copied_in_front_of_each_row() -> None:
    slots = Slots(capacity=2)
    prefix, own = made(1, KEY_HEADS, 3, WIDTH), made(1, KEY_HEADS, 2, WIDTH)
    parts = [(Block([prefix], [prefix]), None), (Block([own], [own]), torch.tensor([0, 0]))]
    slots.add(parts, 5, [5, 5])
    for row in range(2):
        assert torch.equal(slots.block.keys[0][row, :, :5], torch.cat([prefix, own], dim=2)[0])


@pytest.mark.parametrize("keyword", ["softcap", "sliding_window", "s_aux"])
def test_what_it_cannot_do_it_refuses(keyword: str) -> None:
    tensor = made(1, 2, 3, WIDTH)
    with pytest.raises(NotImplementedError, match=keyword):
        attention.attention_forward(Module(), tensor, tensor, tensor, None, memory=Memory(), **{keyword: 4})
