"""Shards of one run joined, journal by journal: what any stage that works in windows needs of it.

A window is taken whole from one folder. Should two hold it (a shard that was run twice), the fuller one counts, and of
equals the first: chains of the two are never mixed.
"""

import json
import re
import weakref
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from cai.errors import InputError, Problem
from cai.records.index import Place, Records, line_at, open_table
from cai.records.inputs import NAME as INPUTS
from cai.records.inputs import noted_inputs
from cai.records.journal import rank_paths
from cai.records.loaders import Position, PromptSet
from cai.records.shard import Shard
from cai.storage import AtomicFile

SHARD = re.compile(r"shard-\d+-of-\d+")


class Sharded(Protocol):
    """Settings that may be a shard's."""

    @property
    def shard(self) -> str | None:
        """Which share, as ``number/of``."""
        ...


C = TypeVar("C", bound=Sharded)


def shard_folders(folders: Sequence[Path]) -> list[Path]:
    """Return the shards' folders among those given and those right below them."""
    found: list[Path] = []
    for folder in folders:
        below = sorted(path for path in folder.glob("shard-*-of-*") if SHARD.fullmatch(path.name) and path.is_dir())
        if not below and not (folder / INPUTS).is_file():
            raise _problem(folder, "no shard of a run is here", "name the folders that the shards were written to")
        found += below or [folder]
    return found


def one_run(
    folders: Sequence[Path], read: Callable[[Path], C], ending: Callable[[C], list[Any]]
) -> tuple[C, dict[str, Any]]:
    """Return the settings and inputs that all folders share; raises InputError when they are no whole run.

    `read` reads a config.json; `ending` returns what it says of the rows: what it says of records is in the inputs.
    """
    first: C | None = None
    inputs = noted_inputs(folders[0]) if folders else None
    there: dict[Shard, Path] = {}
    for folder in folders:
        if not (folder / "result.json").is_file() or not (folder / "config.json").is_file():
            raise _problem(folder, "this shard is not finished", "give its command again, then merge")
        own = read(folder / "config.json")
        if own.shard is None:
            raise _problem(folder, "this is a whole run, not a shard of one", "leave it out")
        first = first or own
        if noted_inputs(folder) != inputs or _said(ending(own)) != _said(ending(first)):
            raise _problem(folder, f"made with other settings or prompts than {folders[0]}", "merge shards of one run")
        there.setdefault(Shard.of_text(own.shard), folder)
    if first is None or inputs is None:
        raise _problem(Path("folders"), "no shards are given", "name the folders of all of them")
    sizes = sorted({shard.of for shard in there})
    if len(sizes) > 1:
        raise _problem(folders[0], f"shares of {sizes[0]} and of {sizes[1]}", "merge shards of one division")
    missing = [number for number in range(1, sizes[0] + 1) if Shard(number, sizes[0]) not in there]
    if missing:
        named = ", ".join(f"{number}/{sizes[0]}" for number in missing[:10]) + (", …" if len(missing) > 10 else "")
        raise _problem(folders[0].parent, f"{len(missing)} shards are missing: {named}", "run them, then merge")
    return first, inputs


class Windows:
    """Which records belong to which window, and which folder's are taken."""

    def __init__(
        self,
        folders: Sequence[Path],
        names: Sequence[str],
        prompts: PromptSet,
        window_of: Callable[[Position], int],
    ) -> None:
        """Look through the journals of these names in all folders."""
        self._names, self._prompts, self._window_of = names, prompts, window_of
        self._paths: list[Path] = []
        self._table = open_table(
            "CREATE TABLE records (number INTEGER PRIMARY KEY, name TEXT, window INTEGER, place INTEGER,"
            " folder INTEGER, file INTEGER, line INTEGER, start INTEGER, length INTEGER)"
        )
        weakref.finalize(self, self._table.close)
        for number, folder in enumerate(folders):
            for name in names:
                records = Records()
                for path in rank_paths(folder, name):
                    self._paths.append(path)
                    for record, place in records.scan(path):
                        self._add(name, number, str(getattr(record, "prompt", "")), place)
        self._table.execute("CREATE INDEX by_window ON records (name, window, folder, number)")
        self._table.execute("CREATE TABLE taken (window INTEGER PRIMARY KEY, folder INTEGER)")
        counted = "SELECT window, folder FROM records GROUP BY window, folder ORDER BY window, COUNT(*) DESC, folder"
        self._table.execute(f"INSERT OR IGNORE INTO taken {counted}")

    def _add(self, name: str, folder: int, prompt: str, place: Place) -> None:
        position = self._prompts.position(prompt)
        if position is not None:
            row = (name, self._window_of(position), position.place, folder, len(self._paths) - 1, *place[1:])
            columns = "name, window, place, folder, file, line, start, length"
            self._table.execute(f"INSERT INTO records ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)

    def write(self, out: Path, *, in_turns: Collection[str] = ()) -> None:
        """Write each journal, window by window; one that is made `in_turns` has every window once, then once again.

        A turn is a pass over all prompts that leaves a record of each, such as that of the second of two models.
        """
        turn = "ROW_NUMBER() OVER (PARTITION BY place ORDER BY number)"
        for name in self._names:
            taken = f"SELECT records.*, {turn if name in in_turns else 0} AS turn FROM records NATURAL JOIN taken"
            query = f"SELECT file, line, start, length FROM ({taken} WHERE name = ?) ORDER BY turn, window, number"
            with AtomicFile(out / f"{name}.jsonl") as file:
                for number, *where in self._table.execute(query, (name,)):
                    file.write(line_at(Place(self._paths[number], *where)))


def join_files(folders: Sequence[Path], name: str, out: Path) -> None:
    """Write the lines that all processes of all shards wrote to their files of a name, one after the other."""
    with AtomicFile(out / f"{name}.jsonl") as file:
        for path in (path for folder in folders for path in rank_paths(folder, name) if path.is_file()):
            file.write(path.read_bytes())


def _said(settings: list[Any]) -> str:
    return json.dumps(settings, default=str)


def _problem(folder: Path, problem: str, fix: str) -> InputError:
    return InputError(Problem(str(folder), 0, 0, problem, fix))
