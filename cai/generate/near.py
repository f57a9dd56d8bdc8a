"""Near-duplicates in a stream of texts: MinHash (Broder 1997) finds who may be alike, their shingles say who is.

Each text is a set of shingles. Sixty minima of it under fixed hashes are cut into bands; texts that agree in a whole
band are compared by their shingles themselves. All is kept in a file on disk, so memory is the same for a thousand
texts and a million, and nothing is drawn: the same texts in the same order always give the same duplicates.
"""

import re
from hashlib import blake2b
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from cai.records.index import open_table
from cai.storage import seed_from

HASHES = 60
"""Minima per text."""

Shingles = NDArray[np.uint32]

_FACTORS = np.array([seed_from("minhash", "factor", i) * 2 + 1 for i in range(HASHES)], dtype=np.uint64)[:, None]
_SHIFTS = np.array([seed_from("minhash", "shift", i) for i in range(HASHES)], dtype=np.uint64)[:, None]


def plain(text: str) -> str:
    """Return a text's words in small letters, one space between them: what equal texts share.

    >>> plain("Who,  then, ARE you?")
    'who then are you'
    """
    return " ".join(re.findall(r"\w+", text.casefold()))


def shingles(text: str, *, unit: Literal["words", "letters"]) -> Shingles:
    """Return the hashes of a text's runs of three words, or of four letters, each once and sorted.

    A text shorter than a run is one shingle of its own.
    """
    said = plain(text)
    if unit == "words":
        words = said.split()
        runs = {" ".join(words[i : i + 3]) for i in range(len(words) - 2)} or {said}
    else:
        runs = {said[i : i + 4] for i in range(len(said) - 3)} or {said}
    hashes = (int.from_bytes(blake2b(run.encode("utf-8", "surrogatepass"), digest_size=4).digest()) for run in runs)
    return np.unique(np.fromiter(hashes, dtype=np.uint32))


def jaccard(a: Shingles, b: Shingles) -> float:
    """Return the share of all shingles of two texts that both have."""
    both = np.intersect1d(a, b, assume_unique=True).size
    return both / (a.size + b.size - both)


class NearDuplicates:
    """The texts so far; each new one is told apart from them, or is like one of them.

    >>> with NearDuplicates(0.7, unit="letters") as seen:
    ...     [seen.like("a", "Shall we go out today?"), seen.like("b", "shall we go out today")]
    [None, 'a']
    """

    def __init__(self, threshold: float, *, unit: Literal["words", "letters"] = "words") -> None:
        """Open an empty index.

        `threshold` is the share of shingles from which two texts are near-duplicates, 0.5 to 1. Of pairs that are just
        there, more than 95 in 100 agree in a band.
        """
        if not 0.5 <= threshold <= 1:
            raise ValueError(f"a threshold of {threshold} is not from 0.5 to 1")
        self._threshold: float = threshold
        self._unit: Literal["words", "letters"] = unit
        self._rows = 5 if threshold >= 0.8 else 3
        self._index = open_table(
            "CREATE TABLE texts (number INTEGER PRIMARY KEY, name TEXT, shingles BLOB)",
            "CREATE TABLE bands (band INTEGER, value INTEGER, number INTEGER, PRIMARY KEY (band, value, number))"
            " WITHOUT ROWID",
        )

    def like(self, name: str, text: str, *, keep: bool = True) -> str | None:
        """Return the name of the first text that this one is a near-duplicate of, or None.

        One that is like no other is added under its name, unless `keep` is False.
        """
        own = shingles(text, unit=self._unit)
        bands = self._bands(own)
        found = self._first_alike(own, bands)
        if found is None and keep:
            cursor = self._index.execute("INSERT INTO texts (name, shingles) VALUES (?, ?)", (name, own.tobytes()))
            rows = [(band, value, cursor.lastrowid) for band, value in enumerate(bands)]
            self._index.executemany("INSERT INTO bands VALUES (?, ?, ?)", rows)
        return found

    def _first_alike(self, own: Shingles, bands: list[int]) -> str | None:
        among = " OR ".join("(band = ? AND value = ?)" for _ in bands)
        values: list[Any] = [part for pair in enumerate(bands) for part in pair]
        numbers = f"SELECT DISTINCT number FROM bands WHERE {among}"
        query = f"SELECT name, shingles FROM texts WHERE number IN ({numbers}) ORDER BY number"
        for name, blob in self._index.execute(query, values):
            if jaccard(own, np.frombuffer(blob, dtype=np.uint32)) >= self._threshold:
                return str(name)
        return None

    def _bands(self, own: Shingles) -> list[int]:
        minima = ((own.astype(np.uint64)[None, :] * _FACTORS + _SHIFTS) >> np.uint64(32)).min(axis=1)
        cut = np.ascontiguousarray(minima.astype(np.uint32).reshape(-1, self._rows))
        return [int.from_bytes(blake2b(band.tobytes(), digest_size=8).digest(), signed=True) for band in cut]

    def close(self) -> None:
        """Forget everything."""
        self._index.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the index."""
        self.close()
