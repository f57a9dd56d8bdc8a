"""Shards of one run joined: what comes out is, byte for byte, what one process would have made of all of it.

A window is taken whole from one folder. Should two hold it (a shard that was run twice), the fuller one counts, and of
equals the first: chains of the two are never mixed.
"""

import json
import re
import weakref
from collections.abc import Sequence
from pathlib import Path

from cai.config import load_config
from cai.engines.spending import NAME as COSTS
from cai.errors import InputError, Problem
from cai.generate.config import GenerateConfig
from cai.generate.finish import JOURNALS, finish
from cai.generate.plan import window_of
from cai.generate.shard import Shard
from cai.records.index import Place, Records, line_at, open_table
from cai.records.inputs import NAME as INPUTS
from cai.records.inputs import check_unchanged, hold_inputs, noted_inputs
from cai.records.journal import rank_paths
from cai.records.loaders import PromptSet
from cai.records.schema import Record
from cai.storage import AtomicFile

SHARD = re.compile(r"shard-\d+-of-\d+")


def merge_shards(folders: Sequence[Path], out: Path, *, prompts: Sequence[Path] = ()) -> None:
    """Join the folders of all shards of a run, or those below a folder, and finish the whole in `out`.

    `prompts` says where the prompt files are now; by default where the shards found them. Raises InputError when a
    shard is missing, not finished, or of another run.
    """
    found = shard_folders(folders)
    config, inputs = _one_run(found)
    paths = list(prompts) or config.prompts
    given = {"out": out, "shard": None, "prompts": paths}
    config = config.model_copy(update=given)
    check_unchanged(paths, inputs["prompts"])
    rejected = out / "rejected.jsonl" if config.keep_going else None
    asked = PromptSet.load(paths, held_out=config.held_out, rejected=rejected)
    hold_inputs(out, inputs)
    Windows(config, asked, found).write(out)
    with AtomicFile(out / f"{COSTS}.jsonl") as file:
        for path in (path for folder in found for path in rank_paths(folder, COSTS) if path.is_file()):
            file.write(path.read_bytes())
    finish(config, asked)


def shard_folders(folders: Sequence[Path]) -> list[Path]:
    """Return the shards' folders among those given and those right below them."""
    found: list[Path] = []
    for folder in folders:
        below = sorted(path for path in folder.glob("shard-*-of-*") if SHARD.fullmatch(path.name) and path.is_dir())
        if not below and not (folder / INPUTS).is_file():
            raise _problem(folder, "no shard of a run is here", "name the folders that the shards were written to")
        found += below or [folder]
    return found


def _one_run(folders: Sequence[Path]) -> tuple[GenerateConfig, dict[str, list[str]]]:
    """Return the settings and inputs that all folders share; raises InputError when they are no whole run."""
    first: GenerateConfig | None = None
    inputs = noted_inputs(folders[0]) if folders else None
    there: dict[Shard, Path] = {}
    for folder in folders:
        if not (folder / "result.json").is_file() or not (folder / "config.json").is_file():
            raise _problem(folder, "this shard is not finished", "give its command again, then merge")
        own = load_config(GenerateConfig, folder / "config.json")
        if own.shard is None:
            raise _problem(folder, "this is a whole run, not a shard of one", "leave it out")
        first = first or own
        if noted_inputs(folder) != inputs or _ending(own) != _ending(first):
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


def _ending(config: GenerateConfig) -> str:
    """Return what the settings say of the rows; what they say of the records is in the inputs."""
    return json.dumps([config.keep, config.near_duplicates, config.train_on_thinking, config.keep_going])


class Windows:
    """Which records belong to which window, and which folder's are taken."""

    def __init__(self, config: GenerateConfig, prompts: PromptSet, folders: Sequence[Path]) -> None:
        """Look through the journals of all folders."""
        self._config, self._prompts = config, prompts
        self._paths: list[Path] = []
        self._table = open_table(
            "CREATE TABLE records (number INTEGER PRIMARY KEY, name TEXT, window INTEGER, folder INTEGER,"
            " file INTEGER, line INTEGER, start INTEGER, length INTEGER)"
        )
        weakref.finalize(self, self._table.close)
        for number, folder in enumerate(folders):
            for name in JOURNALS:
                records = Records()
                for path in rank_paths(folder, name):
                    self._paths.append(path)
                    for record, place in records.scan(path):
                        self._add(name, number, record, place)
        self._table.execute("CREATE INDEX by_window ON records (name, window, folder, number)")
        self._table.execute("CREATE TABLE taken (window INTEGER PRIMARY KEY, folder INTEGER)")
        counted = "SELECT window, folder FROM records GROUP BY window, folder ORDER BY window, COUNT(*) DESC, folder"
        self._table.execute(f"INSERT OR IGNORE INTO taken {counted}")

    def _add(self, name: str, folder: int, record: Record, place: Place) -> None:
        position = self._prompts.position(str(getattr(record, "prompt", "")))
        if position is not None:
            window = window_of(self._config, self._prompts.counts, position)
            row = (name, window, folder, len(self._paths) - 1, *place[1:])
            query = "INSERT INTO records (name, window, folder, file, line, start, length) VALUES (?, ?, ?, ?, ?, ?, ?)"
            self._table.execute(query, row)

    def write(self, out: Path) -> None:
        """Write each journal, window by window."""
        query = (
            "SELECT file, line, start, length FROM records NATURAL JOIN taken WHERE name = ? ORDER BY window, number"
        )
        for name in JOURNALS:
            with AtomicFile(out / f"{name}.jsonl") as file:
                for number, *where in self._table.execute(query, (name,)):
                    file.write(line_at(Place(self._paths[number], *where)))


def _problem(folder: Path, problem: str, fix: str) -> InputError:
    return InputError(Problem(str(folder), 0, 0, problem, fix))
