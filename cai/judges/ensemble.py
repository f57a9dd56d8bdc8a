"""Several preference models as one, and how far they disagree: where they do, none of them is to be believed.

Members trained from other seeds or other parts of the data agree where the data decides and differ elsewhere (Coste et
al. 2023, arXiv 2310.02743; Gleave and Irving 2022, arXiv 2203.07472, section 3). Heads of one model are members, too:
trained on parts of the data they disagree less than models do, for they share a trunk; trained for several objectives
they disagree where these pull apart.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from cai.judges.preference_model import PreferenceModel
from cai.storage import digest
from cai.types import Dialogue


class Spread(NamedTuple):
    """What the members say: their mean, and their standard deviation (by their number, not by one less)."""

    mean: float
    std: float


class PreferenceEnsemble:
    """Scores answers by the mean of several preference models; they may have different tokenizers.

    Members are made by `PreferenceModel.load`, or are the heads of one: ``[model.at(head) for head in model.heads]``.
    """

    def __init__(self, members: Sequence[PreferenceModel]) -> None:
        """Raises ValueError for fewer than two members, and where some are to be told a principle and some are not."""
        if len(members) < 2:
            raise ValueError(f"an ensemble of {len(members)}; give at least two preference models")
        if len({member.wording is None for member in members}) > 1:
            raise ValueError("some members judge by a principle and some read none; give models of one kind")
        self.members = tuple(members)
        self.revision = digest([member.revision for member in members])
        self.wording = self.members[0].wording

    def score(self, answers: Sequence[tuple[Dialogue, str]], *, principles: Sequence[str] | None = None) -> list[float]:
        """Return the mean score per (dialogue, answer), in their order; `principles` as in `PreferenceModel.score`."""
        return [spread.mean for spread in self.spread(answers, principles=principles)]

    def spread(
        self, answers: Sequence[tuple[Dialogue, str]], *, principles: Sequence[str] | None = None
    ) -> list[Spread]:
        """Return mean and standard deviation per (dialogue, answer).

        A score means something only against another of the same dialogue, and members' zeros differ: this deviation
        holds that difference, too. That of `margins` does not.
        """
        columns = [member.score(answers, principles=principles) for member in self.members]
        return [spread_of(row) for row in zip(*columns, strict=True)]

    def margins(
        self, pairs: Sequence[tuple[Dialogue, str, str]], *, principles: Sequence[str] | None = None
    ) -> list[Spread]:
        """Return mean and standard deviation of score(a) - score(b) per (dialogue, a, b), in log-odds.

        `principles` has a text for each pair.
        """
        answers = [(dialogue, text) for dialogue, *both in pairs for text in both]
        twice = None if principles is None else [text for text in principles for _ in range(2)]
        columns = [member.score(answers, principles=twice) for member in self.members]
        gaps = [[a - b for a, b in zip(column[::2], column[1::2], strict=True)] for column in columns]
        return [spread_of(row) for row in zip(*gaps, strict=True)]


def spread_of(values: Sequence[float]) -> Spread:
    """Return mean and standard deviation of what the members say of one thing.

    >>> spread_of([1.0, 3.0])
    Spread(mean=2.0, std=1.0)
    """
    mean = math.fsum(values) / len(values)
    return Spread(mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values)))
