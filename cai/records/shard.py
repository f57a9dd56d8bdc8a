"""A share of the work: several starts of one command, on one machine or many, that need not know of each other."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Self, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Shard:
    """One of several starts of the same command that share the windows: window i is shard i mod `of`'s.

    >>> Shard.of_text("3/16").folder
    'shard-03-of-16'
    """

    number: int
    """From 1."""
    of: int

    @classmethod
    def of_text(cls, text: str) -> Self:
        """Read ``number/of``; raises ValueError (``problem; fix``)."""
        found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise ValueError(f"{text!r} is no share of the work; write it as number/all, such as 3/16")
        return cls(int(found[1]), int(found[2]))

    @property
    def folder(self) -> str:
        """The folder, below that of the whole, that the shard works in."""
        return f"shard-{self.number:0{len(str(self.of))}}-of-{self.of}"


def share(planned: Iterator[T], shard: Shard | None, *, rank: int = 0, world: int = 1) -> Iterator[T]:
    """Yield the windows of one process of one shard."""
    own = islice(planned, shard.number - 1, None, shard.of) if shard else planned
    return islice(own, rank, None, world)


def own_folder(out: Path, shard: str | None) -> Path:
    """Return the folder that is really written to: a shard's lies in that of the whole."""
    return out if shard is None else out / Shard.of_text(shard).folder
