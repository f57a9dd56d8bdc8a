"""A share of the work: several starts of one command, on one machine or many, that need not know of each other."""

import re
from dataclasses import dataclass
from typing import Self


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
