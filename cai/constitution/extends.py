"""`extends`: a constitution that takes over another's principles, and changes, adds and removes some.

    extends: harmless            # a shipped one, or the path of a file beside this one; or a list of them
    remove: [no-crime]
    principles:
      - id: no-violence          # an id that is there: what is given here replaces what stood there
        weight: 2
      - id: local-law            # a new one: it comes after those taken over
        text: Name the country whose law you speak of.

Files are merged before they are read as a constitution, so what comes out is as if it had been written in one piece.
The name, the version and the description are the new file's own.
"""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from cai.errors import InputError, Problem
from cai.strict_yaml import Location, Place, Tree, suggestion

DEEPEST = 16
"""Files that stand on each other."""

_WORDINGS = ("critique", "revision", "comparison", "contrast")
_FROM_TEXT = (*_WORDINGS, "title", "framing")
_INHERITED = ("licence", "wordings", "few_shots", "comparison_shots")


@dataclass(frozen=True)
class Files:
    """How files are found and read; each raises InputError."""

    find: Callable[[str, Path | None], Path]
    """From what `extends` says, and the folder of the file that says it, to a file."""
    read: Callable[[Path], Tree]
    check: Callable[[Tree], object]
    """Looks for faults in a file that is extended: they are its own, and named there."""


def merged(tree: Tree, files: Files, *, above: tuple[Path, ...] = ()) -> Tree:
    """Return a tree without `extends` and `remove`: those of the files it stands on, with its own changes.

    Raises InputError: an unknown file, a circle, an id to remove that is not there.
    """
    if "extends" not in tree.data:
        _refuse_others(tree)
        return tree
    parents = [_parent(tree, place, said, files, above) for place, said in _named(tree)]
    inherited = _together(tree, parents)
    _remove(tree, inherited)
    data = {key: value for key, value in tree.data.items() if key not in ("extends", "remove")}
    for key in _INHERITED:
        given = [parent.data[key] for parent in parents if key in parent.data]
        if given and key not in data:
            data[key] = given[-1]
        elif key == "wordings" and isinstance(data.get(key), dict):
            data[key] = {name: wording for each in (*given, data[key]) for name, wording in each.items()}
    if not isinstance(tree.data.get("principles", []), list):
        return Tree(tree.name, data, tree.values, tree.keys)
    data["principles"], origin = _overlaid(inherited, tree.data.get("principles", []))
    return Tree(tree.name, data, _placed(tree.values, origin, tree.place(("extends",))), _placed(tree.keys, origin))


def _overlaid(inherited: dict[str, dict[str, Any]], own: list[Any]) -> tuple[list[Any], list[int | None]]:
    """Return all principles, and for each its number among the file's own; None for one taken over as it is."""
    items: list[Any] = list(inherited.values())
    origin: list[int | None] = [None] * len(items)
    index_of = {key: index for index, key in enumerate(inherited)}
    for number, item in enumerate(own):
        index = index_of.get(str(item.get("id"))) if isinstance(item, dict) else None
        if index is not None and origin[index] is None:
            items[index], origin[index] = _overridden(items[index], item), number
        else:  # new; or a second override, whole, so that the reader names both by their line
            items.append(item if index is None else _overridden(items[index], item))
            origin.append(number)
    return items, origin


def _placed(
    places: Mapping[Location, Place], origin: list[int | None], at: Place | None = None
) -> dict[Location, Place]:
    """Return places with principles numbered as in the whole; those taken over are at `at`, if it is given."""
    index_of = {number: index for index, number in enumerate(origin) if number is not None}
    found: dict[Location, Place] = {}
    for key, place in places.items():
        if key[:1] == ("principles",) and len(key) > 1:
            found["principles", index_of[int(key[1])], *key[2:]] = place
        else:
            found[key] = place
    if at:
        found.setdefault(("principles",), at)
        found.update({("principles", index): at for index, number in enumerate(origin) if number is None})
    return found


def _refuse_others(tree: Tree) -> None:
    """Raise InputError for what needs an `extends`, and for what was meant as one."""
    for key in tree.data:
        place = tree.keys.get((key,), (1, 1))
        if key == "remove":
            raise InputError(Problem(tree.name, *place, "'remove' without 'extends'", "say what it extends"))
        if difflib.get_close_matches(str(key), ["extends"], cutoff=0.8):
            raise InputError(Problem(tree.name, *place, f"unknown key {key!r}", "did you mean 'extends'?"))


def _named(tree: Tree) -> list[tuple[Place, str]]:
    """Return the files that a tree extends, with the places that name them."""
    said = tree.data["extends"]
    given = said if isinstance(said, list) else [said]
    named = []
    problems = []
    for number, item in enumerate(given):
        place = tree.place(("extends", number))
        if not isinstance(item, str) or not item.strip():
            fix = "write the name of a shipped constitution or the path of a file"
            problems.append(Problem(tree.name, *place, "extends: not a name", fix))
        else:
            named.append((place, item.strip()))
    if not given:
        problems.append(Problem(tree.name, *tree.place(("extends",)), "extends nothing", "name one, or remove the key"))
    if problems:
        raise InputError(problems)
    return named


def _parent(tree: Tree, place: Place, said: str, files: Files, above: tuple[Path, ...]) -> Tree:
    here = Path(tree.name)
    folder = here.parent if here.suffix else None
    try:
        if PurePosixPath(said).is_absolute() or Path(said).is_absolute():
            fix = "write the path from this file's folder, or the name of a shipped one"
            raise InputError(Problem(said, 0, 0, "an absolute path: true on one machine only", fix))
        path = files.find(said, folder).resolve()
        if path.is_dir():
            raise InputError(Problem(said, 0, 0, "a folder", "name a file"))
    except InputError as error:
        told = error.problems[0]
        raise InputError(Problem(tree.name, *place, f"extends {said!r}: {told.problem}", told.fix)) from error
    chain = (*above, here.resolve())
    if path in chain:
        circle = " -> ".join(item.name for item in (*chain[chain.index(path) :], path))
        raise InputError(Problem(tree.name, *place, f"extends itself: {circle}", "break the circle"))
    if len(chain) > DEEPEST:
        problem = f"more than {DEEPEST} files that extend each other"
        raise InputError(Problem(tree.name, *place, problem, "write fewer"))
    parent = merged(files.read(path), files, above=chain)
    files.check(parent)
    return parent


def _together(tree: Tree, parents: list[Tree]) -> dict[str, dict[str, Any]]:
    """Return the principles of all parents by id; two parents may share one only if they agree on it."""
    found: dict[str, dict[str, Any]] = {}
    names: dict[str, str] = {}
    settled = {item.get("id") for item in _items(tree.data.get("principles")) if isinstance(item.get("id"), str)} | set(
        _texts(tree.data.get("remove"))
    )
    problems = []
    for number, parent in enumerate(parents):
        for item in _items(parent.data.get("principles")):
            key = str(item.get("id"))
            if key in found and found[key] != item and key not in settled:
                place = tree.place(("extends", number))
                problem = f"{names[key]} and {parent.data.get('name')} both have {key!r}, and they differ"
                problems.append(Problem(tree.name, *place, problem, "override it or remove it here"))
            if key not in found:
                found[key], names[key] = item, str(parent.data.get("name"))
    if problems:
        raise InputError(problems)
    return found


def _items(given: Any) -> list[dict[str, Any]]:
    return [item for item in given if isinstance(item, dict)] if isinstance(given, list) else []


def _texts(given: Any) -> list[str]:
    return [item for item in given if isinstance(item, str)] if isinstance(given, list) else []


def _remove(tree: Tree, inherited: dict[str, dict[str, Any]]) -> None:
    """Take away what `remove` names; raises InputError for an id that was not taken over."""
    given = tree.data.get("remove", [])
    known = list(inherited)
    problems = []
    if not isinstance(given, list):
        fix = "write a list of ids: one '- ' per item"
        raise InputError(Problem(tree.name, *tree.place(("remove",)), "remove: not a list", fix))
    for number, key in enumerate(given):
        if isinstance(key, str) and key in inherited:
            del inherited[key]
        else:
            twice = key in known
            said = f"remove: {key!r} is named twice" if twice else f"remove: there is no {key!r} to remove"
            fix = "name it once" if twice else suggestion(str(key), known)
            problems.append(Problem(tree.name, *tree.place(("remove", number)), said, fix))
    if problems:
        raise InputError(problems)


def _overridden(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return a principle with what is given anew; a new text does away with the wordings of the old one."""
    kept = {key: value for key, value in old.items() if "text" not in new or key not in _FROM_TEXT}
    return {**kept, **new}
