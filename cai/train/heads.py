"""Which of a preference model's heads a row teaches: the one that names its file, or else its `kind`."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from pydantic import ValidationError
from transformers import AutoConfig

from cai.config import problems_of
from cai.errors import InputError, Problem
from cai.judges.heads import heads_of, is_classifier
from cai.train.configs import RewardConfig

Heads = Mapping[str, Sequence[str]]
"""As `RewardConfig.heads`: names, each with the files and kinds of its rows."""


class Taught(Protocol):
    """A row of data, measured or as a pair of ids."""

    @property
    def head(self) -> int:
        """The place of its head."""
        ...


def head_of(place: str, row: Mapping[str, Any], heads: Heads) -> int:
    """Return the place among the heads of the one that a row (at ``path:line``) teaches.

    Raises ValueError (``problem; fix``) for a row that none of them names.

    >>> head_of("pairs.jsonl:1", {"kind": "helpful"}, {"harmless": ["red_team"], "helpful": ["helpful"]})
    1
    """
    path, kind = Path(place.rpartition(":")[0]), row.get("kind")
    for number, sources in enumerate(heads.values()):
        if any(path == Path(source) for source in sources):
            return number
    for number, sources in enumerate(heads.values()):
        if kind in sources:
            return number
    if not kind:
        fix = "add it, or name the file under one of 'heads'"
        raise ValueError(f"no 'kind' to tell by which head ({', '.join(heads)}) it teaches; {fix}")
    fix = f"name it under one of 'heads' ({', '.join(heads)}), or leave the row out"
    raise ValueError(f"no head learns from rows of the kind {kind!r}; {fix}")


def count_heads(rows: Iterable[Taught], heads: Heads) -> dict[str, int]:
    """Return how many rows each head has; raises InputError for one that has none."""
    counts = Counter(row.head for row in rows)
    found = {name: counts[number] for number, name in enumerate(heads)}
    if empty := [name for name, count in found.items() if not count]:
        fix = "give it some, or leave the head out"
        raise InputError([Problem(f"heads.{name}", 0, 0, "no row teaches it", fix) for name in empty])
    return found


def check_start(model: str, path: str, heads: Heads) -> None:
    """Raise InputError when training starts from a preference model that has other heads; `model` is its given name.

    One score stays what it is called where no heads are asked for.
    """
    config = AutoConfig.from_pretrained(path)
    fits = heads_of(config) == tuple(heads) if heads else config.num_labels == 1
    if is_classifier(config) and not fits:
        has = ", ".join(heads_of(config)) or "no names"
        fix = "give 'heads' those names in that order, or start from another model"
        raise InputError(Problem("heads", 0, 0, f"the {config.num_labels} scores of {model} have {has}", fix))


def parse_heads(words: Sequence[str]) -> dict[str, list[str]]:
    """Return the heads that a command line names, ``NAME=KIND,KIND`` each; raises InputError as their config does.

    >>> parse_heads(["harmless=red_team,benign", "helpful=helpful"])
    {'harmless': ['red_team', 'benign'], 'helpful': ['helpful']}
    """
    for word in words:
        if "=" not in word:
            raise InputError(Problem("--head", 0, 0, f"{word!r} names no rows", "write it as harmless=red_team"))
    named = {name: rows.split(",") for name, _, rows in (word.partition("=") for word in words)}
    if len(named) < len(words):
        raise InputError(Problem("--head", 0, 0, "a head is given twice", "name all its rows at once, with commas"))
    try:
        return RewardConfig(out=Path(), data=[], heads=named).heads
    except ValidationError as error:
        raise InputError(problems_of("--head", error, RewardConfig)) from error
