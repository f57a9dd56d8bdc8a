"""Constitutions out of other people's files: each format is known by its content, and nothing of a file is left behind.

- The files published with the 2022 paper: critique and revision instructions, comparison instructions, their examples.
- The JSON of alignment-handbook and llm-swarm: ``{"constitutions": [{"critic": …, "revision": …}], "system_chat": …}``.
- Inverse constitutional AI: lists, mappings and numbered texts of principles in JSON, its annotated pairs, its CSVs.
- Plain text: a list of principles, numbered, bulleted or one a line.

Every principle says in its `source` which file it is from. One format per module; each has a reader of a file.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, get_args

from cai.constitution.importers.base import File, Found, load_file
from cai.constitution.importers.handbook import is_handbook, read_handbook
from cai.constitution.importers.inverse import read_inverse
from cai.constitution.importers.lists import read_list
from cai.constitution.importers.paper import is_paper, read_paper
from cai.constitution.model import Constitution
from cai.constitution.prose import slug
from cai.errors import InputError, Problem
from cai.strict_yaml import Tree, suggestion, validate

Format = Literal["paper", "handbook", "inverse", "text"]
SUFFIXES = (".json", ".csv", ".txt")

_READERS: dict[str, Callable[[File, Found], None]] = {
    "paper": read_paper,
    "handbook": read_handbook,
    "inverse": read_inverse,
    "text": read_list,
}


def import_constitution(
    paths: str | Path | Sequence[str | Path], *, format: str | None = None, name: str = ""
) -> Constitution:
    """Read one constitution from files, or folders of files, of other projects.

    `format` is one of `Format`; None: what the content says. `name` is the new constitution's; "": the first file's.

    Raises InputError with path, line and column for what can't be read.
    """
    if format is not None and format not in get_args(Format):
        raise InputError(Problem("--format", 0, 0, f"unknown format {format!r}", suggestion(format, get_args(Format))))
    given = [Path(path) for path in ([paths] if isinstance(paths, (str, Path)) else paths)]
    files = [file for path in given for file in _files(path)]
    found = Found()
    problems: list[Problem] = []
    for path in files:
        try:
            file = load_file(path, as_json=_as_json(path, format))
            _READERS[format or format_of(file)](file, found)
        except InputError as error:
            problems.extend(error.problems)
    if problems:
        raise InputError(problems)
    shown = str(files[0] if len(files) == 1 else given[0])
    if not found.principles:
        problem, fix = "no principle here, only examples", "name the file with the instructions, too"
        if not found.few_shots and not found.comparison_shots:
            problem, fix = "no principle here", "write at least one"
        raise InputError(Problem(shown, 0, 0, problem, fix))
    data = {
        "name": slug(name or given[0].resolve().stem) or "imported",
        "version": "1",
        "description": "\n\n".join(found.notes),
        "principles": found.principles,
        "few_shots": found.few_shots,
        "comparison_shots": found.comparison_shots,
    }
    return validate(Constitution, Tree(shown, data, {(): (1, 1)}, {}))


def format_of(file: File) -> Format:
    """Return a file's format by what is in it."""
    if is_handbook(file.data):
        return "handbook"
    if is_paper(file.data):
        return "paper"
    return "text" if file.data is None and not file.name.lower().endswith(".csv") else "inverse"


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(item for item in path.iterdir() if item.suffix.lower() in SUFFIXES and item.is_file())
    if not files:
        raise InputError(Problem(str(path), 0, 0, "nothing to import in this folder", f"put {SUFFIXES} files there"))
    return files


def _as_json(path: Path, format: str | None) -> bool | None:
    """Tell whether a file is to be read as JSON; None leaves it to how the file begins."""
    suffix = path.suffix.lower()
    if format in ("paper", "handbook") or suffix == ".json":
        return True
    return False if format == "text" or suffix == ".csv" or (suffix == ".txt" and format is None) else None
