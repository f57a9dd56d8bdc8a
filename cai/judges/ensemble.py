"""Several preference models as one, and how far they disagree: where they do, none of them is to be believed.

Members trained from other seeds or other parts of the data agree where the data decides and differ elsewhere (Coste et
al. 2023, arXiv 2310.02743; Gleave and Irving 2022, arXiv 2203.07472, section 3).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from cai.engines.loading import Dtype, Quantization
from cai.judges.preference_model import PreferenceModel
from cai.storage import digest
from cai.types import Dialogue


class Spread(NamedTuple):
    """What the members say: their mean, and their standard deviation (by their number, not by one less)."""

    mean: float
    std: float


class PreferenceEnsemble:
    """Scores answers by the mean of several preference models; they may have different tokenizers."""

    def __init__(self, members: Sequence[PreferenceModel]) -> None:
        """Raises ValueError for fewer than two members: one has no spread."""
        if len(members) < 2:
            raise ValueError(f"an ensemble of {len(members)}; give at least two preference models")
        self.members = tuple(members)
        self.revision = digest([member.revision for member in members])
        self.wording = self.members[0].wording

    @classmethod
    def load(
        cls,
        folders: Sequence[str],
        *,
        dtype: Dtype = "float32",
        device: str = "auto",
        quantization: Quantization = "none",
    ) -> "PreferenceEnsemble":
        """Load what several reward stages saved; raises InputError as `PreferenceModel.load` does."""
        return cls(
            [PreferenceModel.load(each, dtype=dtype, device=device, quantization=quantization) for each in folders]
        )

    def score(
        self,
        answers: Sequence[tuple[Dialogue, str]],
        *,
        principles: Sequence[str] | None = None,
        batch_tokens: int = 4096,
    ) -> list[float]:
        """Return the mean score per (dialogue, answer), in their order; `principles` as in `PreferenceModel.score`."""
        return [spread.mean for spread in self.spread(answers, principles=principles, batch_tokens=batch_tokens)]

    def spread(
        self,
        answers: Sequence[tuple[Dialogue, str]],
        *,
        principles: Sequence[str] | None = None,
        batch_tokens: int = 4096,
    ) -> list[Spread]:
        """Return mean and standard deviation per (dialogue, answer).

        A score means something only against another of the same dialogue, and members' zeros differ: this deviation
        holds that difference, too. That of `margins` does not.
        """
        columns = [member.score(answers, principles=principles, batch_tokens=batch_tokens) for member in self.members]
        return [spread_of(row) for row in zip(*columns, strict=True)]

    def margins(self, pairs: Sequence[tuple[Dialogue, str, str]], *, batch_tokens: int = 4096) -> list[Spread]:
        """Return mean and standard deviation of score(a) - score(b) per (dialogue, a, b), in log-odds."""
        answers = [(dialogue, text) for dialogue, *both in pairs for text in both]
        columns = [member.score(answers, batch_tokens=batch_tokens) for member in self.members]
        gaps = [[a - b for a, b in zip(column[::2], column[1::2], strict=True)] for column in columns]
        return [spread_of(row) for row in zip(*gaps, strict=True)]


def spread_of(values: Sequence[float]) -> Spread:
    """Return mean and standard deviation of what the members say of one thing.

    >>> spread_of([1.0, 3.0])
    Spread(mean=2.0, std=1.0)
    """
    mean = math.fsum(values) / len(values)
    return Spread(mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values)))
