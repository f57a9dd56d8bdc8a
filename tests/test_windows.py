from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.windows import windows


@given(st.lists(st.integers()), st.integers(1, 12))
def test_windows_hold_every_item_once_in_order_and_only_the_last_is_short(items: list[int], size: int) -> None:
    cut = list(windows(items, size))
    assert [item for window in cut for item in window] == items
    assert all(len(window) == size for window in cut[:-1])
    assert all(window for window in cut)


def test_a_stream_is_taken_one_window_at_a_time() -> None:
    taken: list[int] = []

    def stream() -> Iterator[int]:
        for number in range(10):
            taken.append(number)
            yield number

    assert next(windows(stream(), 3)) == (0, 1, 2)
    assert taken == [0, 1, 2]


@pytest.mark.parametrize("size", [0, -1])
def test_a_size_that_would_lose_everything_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="lose everything"):
        list(windows("abc", size))
