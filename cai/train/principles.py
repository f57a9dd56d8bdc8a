"""The principle that a row of training data was judged by: its text, or its id in a constitution."""

from collections.abc import Mapping, Sequence
from typing import Any

from cai.constitution import load_constitution
from cai.errors import InputError, Problem
from cai.train.checks import Item


def principle_texts(constitution: str | None) -> dict[str, str]:
    """Return the texts of a constitution's principles by their ids; none without one."""
    return {each.id: each.text for each in load_constitution(constitution).principles} if constitution else {}


def principle_of(row: Mapping[str, Any], texts: Mapping[str, str]) -> str:
    """Return the text of a row's `principle` (a text or an id) or `principles` (a list of them); "" where it has none.

    Raises ValueError (``problem; fix``) for an id that is in no constitution.
    """
    given = row.get("principle", row.get("principles"))
    if not given:
        return ""
    each = [given] if isinstance(given, str) else given
    if not isinstance(each, Sequence) or not all(isinstance(one, str) and one.strip() for one in each):
        raise ValueError(f"'principle' is {given!r:.40}; make it a text, or 'principles' a list of texts or ids")
    unknown = [one for one in each if one not in texts and " " not in one.strip()]
    if unknown:
        where = "name the one that has it under 'constitution', or write the principle's text"
        raise ValueError(f"{unknown[0]!r} is the id of no principle that is known; {where}")
    return "\n".join(texts.get(one, one).strip() for one in each)


def check_told(items: Sequence[Item]) -> None:
    """Raise InputError when no row has a principle."""
    if items and not any(item.principle for item in items):
        place, _, line = items[0].place.rpartition(":")
        fix = "give rows a 'principle', or leave out 'principle_conditioned'"
        raise InputError(Problem(place, int(line), 1, "neither this row nor any other names a principle", fix))
