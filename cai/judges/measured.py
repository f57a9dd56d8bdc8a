"""How often judges were seen to agree with people, for what ships with the library: figures of benchmarks/judges.py.

They hold for one model under one constitution, as the digests say; any other judge is measured by `cai judge audit`.
"""

import json
from collections.abc import Iterator
from importlib.resources import files
from typing import NamedTuple


class Measured(NamedTuple):
    """A judge on a set of pairs that people labelled."""

    judge: str
    model: str
    """Digest of the weights."""
    constitution: str
    """Digest."""
    contrasts: int
    """How many it learned from; 0: it does not learn."""
    data: str
    pairs: int
    agreement: float
    low: float
    high: float
    """Bounds of the 95 % interval."""

    def __str__(self) -> str:
        """Say it in percent.

        >>> str(Measured("direction", "m", "c", 96, "hh-rlhf", 400, 0.566, 0.517, 0.614))
        '57 % of 400 pairs (95 %: 52 to 61)'
        """
        shares = [round(100 * share) for share in (self.agreement, self.low, self.high)]
        return "{} % of {} pairs (95 %: {} to {})".format(shares[0], self.pairs, *shares[1:])


def measured(judge: str, model: str, constitution: str, *, contrasts: int) -> Iterator[Measured]:
    """Yield what is known of a judge that learned from so many contrasts, or from a quarter fewer than then."""
    for row in json.loads((files("cai.judges") / "measured.json").read_text(encoding="utf-8")):
        known = Measured(**row)
        same = (known.judge, known.model, known.constitution) == (judge, model, constitution)
        if same and contrasts >= 0.75 * known.contrasts:
            yield known
