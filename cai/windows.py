"""Cut a stream into pieces without holding it whole."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def windows(items: Iterable[T], size: int) -> Iterator[tuple[T, ...]]:
    """Yield tuples of `size` items, the last one perhaps shorter. Raises ValueError for a size below one.

    >>> list(windows("abcde", 2))
    [('a', 'b'), ('c', 'd'), ('e',)]
    """
    if size < 1:
        raise ValueError(f"windows of {size} items would lose everything")
    iterator = iter(items)
    while window := tuple(islice(iterator, size)):
        yield window
