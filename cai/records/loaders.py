"""Readers of prompts and of dialogues: JSONL, CSV, Parquet, and the sets that come with the package.

A row of a prompt file has `prompt` (a text, or an hh-rlhf transcript) or `messages` (a list of role and content), and
may have `category` and `kind`. Bad rows are all named by line before anything else happens.
"""

import json
import re
import weakref
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self, cast, get_args

from cai.errors import InputError, Problem
from cai.records.index import open_table
from cai.records.rows import MOST_SHOWN, BadRow, Row, scan_rows
from cai.records.schema import Prompt, PromptKind
from cai.records.splits import said_in
from cai.storage import AtomicFile
from cai.types import Dialogue, Message, Role

PACKAGED: dict[str, PromptKind] = {"red_team": "red_team", "benign": "benign", "helpful": "helpful"}
"""The prompt sets that come with the package, and what kind they are."""

_DATA = Path(__file__).parent.parent / "data" / "prompts"
_TURN = re.compile(r"\n\n(Human|Assistant): ?")
_TRANSCRIPT = re.compile(r"\r?\n\r?\nHuman:|\s*Human:.*?\n\r?\nAssistant:", re.DOTALL)
_SPEAKERS: dict[str, Role] = {"Human": "user", "Assistant": "assistant"}


def packaged_prompts(name: str) -> Path:
    """Return the file of a packaged set (``red_team``, ``benign``, ``helpful``)."""
    return _DATA / f"{name}.jsonl"


MOST_PROBLEMS = 1_000
"""Bad rows whose problem is remembered; more are counted."""


class Position(NamedTuple):
    """Where a prompt stands in its set."""

    place: int
    """Among all, from 0."""
    kind: PromptKind
    number: int
    """Among those of its kind, from 0."""


class PromptSet:
    """The prompts of some files, each once and in their order, in a table on disk: memory is the same for any number.

    `read` counts the rows, `repeated` those that said an earlier prompt again, `rejected` those that were of no use.
    """

    def __init__(self, prompts: Iterable[Prompt] = ()) -> None:
        """Hold these prompts."""
        self.read = self.repeated = self.rejected = 0
        self._holds_out = False
        self.counts: dict[PromptKind, int] = dict.fromkeys(get_args(PromptKind), 0)
        self._table = open_table(
            "CREATE TABLE prompts (place INTEGER PRIMARY KEY, key TEXT UNIQUE, id TEXT UNIQUE, kind TEXT,"
            " number INTEGER, row TEXT, origin TEXT, UNIQUE (kind, number))",
            "CREATE TABLE names (name TEXT PRIMARY KEY, key TEXT, line INTEGER) WITHOUT ROWID",
            "CREATE TABLE held_out (said TEXT PRIMARY KEY, origin TEXT) WITHOUT ROWID",
        )
        weakref.finalize(self, self._table.close)
        for prompt in prompts:
            self._add(prompt, "")

    @classmethod
    def load(
        cls,
        paths: Iterable[Path],
        *,
        kind: PromptKind = "red_team",
        held_out: Iterable[Path] = (),
        rejected: Path | None = None,
    ) -> Self:
        """Read prompt files; `kind` is what a row is that does not say so itself.

        Raises InputError naming every bad row (up to 20 are shown), those among them whose prompt is in the files
        `held_out`. With `rejected`, bad rows and repeated ones are written to that file with their reasons instead, and
        what is raised is only what concerns a whole file.
        """
        found = cls()
        for path in held_out:
            for prompt in cls.load([path], kind=kind):
                said = said_in(prompt)
                found._table.execute("INSERT OR IGNORE INTO held_out VALUES (?, ?)", (said, str(path)))
                found._holds_out = True
        if rejected is None:
            found._load(paths, kind, None)
        else:
            with AtomicFile(rejected) as file:
                found._load(paths, kind, file)
        return found

    def _load(self, paths: Iterable[Path], kind: PromptKind, rejected: AtomicFile | None) -> None:
        problems: list[Problem] = []
        for path in paths:
            before = self.read
            try:
                for bad in self._bad_rows(path, kind, every=rejected is not None):
                    if rejected is not None:
                        rejected.write(_rejection(bad))
                    elif len(problems) < MOST_PROBLEMS:
                        problems.append(bad.problem)
                if self.read == before:
                    raise InputError(Problem(str(path), 0, 0, "no prompts", "give a file with at least one"))
            except InputError as error:
                problems += error.problems
        if problems:
            raise InputError(problems, more=max(0, self.rejected - MOST_PROBLEMS) if rejected is None else 0)
        if not len(self) and self.read:
            names = ", ".join(sorted({str(path) for path in paths}))
            raise InputError(Problem(names, 0, 0, f"none of {self.read} rows is a prompt", "see rejected.jsonl"))

    def _bad_rows(self, path: Path, kind: PromptKind, *, every: bool) -> Iterator[BadRow]:
        """Take in the rows of a file and yield those that are of no use; also repeated ones if `every`."""
        for line, row in scan_rows(path):
            self.read += 1
            if isinstance(row, BadRow):
                self.rejected += 1
                yield row
                continue
            if path.suffix.lower() != ".jsonl" and not row.keys() & {"prompt", "messages"}:
                # A table without the column lacks it in every row: said once.
                raise InputError(_problem(path, 1, _no_prompt(row)))
            try:
                prompt = prompt_of(row, kind=kind, source=path.name)
                self._check_name(row, prompt, path, line)
                self._check_held_out(prompt)
            except ValueError as error:
                self.rejected += 1
                yield BadRow(_problem(path, line, error), _shown(row))
                continue
            first = self._add(prompt, f"{path}:{line}")
            if first is not None:
                self.repeated += 1
                if every:
                    problem = f"the prompt of {first} again"
                    yield BadRow(Problem(str(path), line, 1, problem, "each prompt is taken once"), _shown(row))

    def _check_name(self, row: Row, prompt: Prompt, path: Path, line: int) -> None:
        """Raise ValueError when another row of the file has this row's id and another prompt."""
        name = row.get("id")
        if "schema" in row or not isinstance(name, str | int):
            return
        named = f"{path}\n{name}"
        insert = "INSERT OR IGNORE INTO names VALUES (?, ?, ?)"
        if not self._table.execute(insert, (named, prompt.key, line)).rowcount:
            key, first = self._table.execute("SELECT key, line FROM names WHERE name = ?", (named,)).fetchone()
            if key != prompt.key:
                raise ValueError(f"the id {name!r} is there already, in line {first}; give each row its own")

    def _check_held_out(self, prompt: Prompt) -> None:
        if not self._holds_out:
            return
        found = self._table.execute("SELECT origin FROM held_out WHERE said = ?", (said_in(prompt),)).fetchone()
        if found is not None:
            raise ValueError(f"held out for evaluation in {found[0]}; take the row out")

    def _add(self, prompt: Prompt, origin: str) -> str | None:
        """Add a prompt; return where it stands already, if it does."""
        found = self._table.execute("SELECT origin FROM prompts WHERE key = ?", (prompt.key,)).fetchone()
        if found is not None:
            return str(found[0])
        place, number = len(self), self.counts[prompt.kind]
        row = (place, prompt.key, prompt.id, prompt.kind, number, prompt.model_dump_json(), origin)
        self._table.execute("INSERT INTO prompts VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        self.counts[prompt.kind] += 1
        return None

    def __len__(self) -> int:
        """Return how many different prompts there are."""
        return sum(self.counts.values())

    def __iter__(self) -> Iterator[Prompt]:
        """Yield the prompts in their order."""
        for (row,) in self._table.execute("SELECT row FROM prompts ORDER BY place"):
            yield _prompt(row)

    def part(self, kind: PromptKind, start: int, stop: int) -> tuple[Prompt, ...]:
        """Return the prompts of a kind from one number to the one before another."""
        query = "SELECT row FROM prompts WHERE kind = ? AND number >= ? AND number < ? ORDER BY number"
        return tuple(_prompt(row) for (row,) in self._table.execute(query, (kind, start, stop)))

    def position(self, identity: str) -> Position | None:
        """Return where the prompt of an id stands; None for one that is not here."""
        query = "SELECT place, kind, number FROM prompts WHERE id = ?"
        found = self._table.execute(query, (identity,)).fetchone()
        return Position(*found) if found else None

    def by_id(self, identity: str) -> Prompt | None:
        """Return the prompt of an id; None for one that is not here."""
        found = self._table.execute("SELECT row FROM prompts WHERE id = ?", (identity,)).fetchone()
        return _prompt(found[0]) if found else None


def _prompt(row: str) -> Prompt:
    return Prompt.model_validate_json(row, strict=False)


def _shown(row: Row) -> str:
    return json.dumps(row, ensure_ascii=True, default=str)[:MOST_SHOWN]


def _rejection(bad: BadRow) -> bytes:
    problem = bad.problem
    place = {"path": problem.path, "line": problem.line, "col": problem.col}
    row = {**place, "reason": problem.problem, "fix": problem.fix, "row": bad.raw}
    return json.dumps(row, ensure_ascii=True).encode() + b"\n"


def load_prompts(paths: Iterable[Path], *, kind: PromptKind = "red_team") -> list[Prompt]:
    """Read prompt files in their order, each prompt once.

    `kind` is what a row is that does not say so itself. Raises InputError naming every bad row (up to 20 are shown).
    """
    return list(PromptSet.load(paths, kind=kind))


def _problem(path: Path, line: int, error: ValueError) -> Problem:
    problem, _, fix = str(error).partition("; ")
    return Problem(str(path), line, 1, problem, fix)


def _no_prompt(row: dict[str, Any]) -> ValueError:
    return ValueError(f"no 'prompt' and no 'messages' (fields: {', '.join(sorted(row)) or 'none'}); add one of them")


def prompt_of(row: dict[str, Any], *, kind: PromptKind, source: str) -> Prompt:
    """Return the prompt of one row; raises ValueError (``problem; fix``) when it has none."""
    if "id" in row and "schema" in row:
        if row.get("type") != Prompt.kind_name:
            raise ValueError(f"a record of the type {row.get('type')!r}; give the file that holds the prompts")
        try:
            return Prompt.from_json(row)
        except ValueError as error:
            said = " ".join(str(error).replace(";", ",").split()[:40])
            raise ValueError(f"a damaged prompt record ({said}); make the file again") from error
    given = row.get("messages")
    if isinstance(given, str):
        raise ValueError("'messages' is a text; put it into 'prompt', or make it a list of messages")
    if given is None:
        given = row.get("prompt")
    if given is None:
        raise _no_prompt(row)
    said = row.get("kind") or kind
    if said not in get_args(PromptKind):
        raise ValueError(f"unknown kind {said!r}; use one of {', '.join(get_args(PromptKind))}")
    category = row.get("category") or ""
    if not isinstance(category, str):
        raise ValueError(f"'category' is a {type(category).__name__}; make it a text")
    origin = str(row.get("source") or source)
    _check_unicode(category)
    _check_unicode(origin)
    messages = dialogue_of(given)
    if messages[-1].role != "user":
        raise ValueError("the dialogue ends with the assistant's turn; cut it after the last turn of the person")
    return Prompt.of(messages, kind=cast(PromptKind, said), category=category, source=origin)


def dialogue_of(given: Any) -> Dialogue:
    """Return a dialogue from a list of messages, an hh-rlhf transcript, or a plain text (one turn of a person).

    An empty last turn of the assistant, as hh-rlhf's prompts have one, is left out. Raises ValueError
    (``problem; fix``) for turns that are empty or out of order.
    """
    if isinstance(given, list):
        turns = _from_messages(given)
    elif isinstance(given, str):
        turns = transcript_turns(given) if _TRANSCRIPT.match(given) else (Message("user", given.strip()),)
        if len(turns) > 1 and turns[-1] == Message("assistant", ""):
            turns = turns[:-1]
    else:
        raise ValueError(f"'prompt' is a {type(given).__name__}; make it a text or a list of messages")
    _check_turns(turns)
    return turns


def transcript_turns(text: str) -> Dialogue:
    """Read hh-rlhf's form: turns that begin with a blank line and ``Human:`` or ``Assistant:``.

    Turns of one speaker in a row are one turn: the set has answers that quote the form itself.
    """
    pieces = _TURN.split("\n\n" + text.replace("\r\n", "\n").lstrip())
    turns: list[Message] = []
    for speaker, piece in zip(pieces[1::2], pieces[2::2], strict=True):
        role, said = _SPEAKERS[speaker], piece.strip()
        if turns and turns[-1].role == role:
            said = f"{turns.pop().content}\n\n{said}".strip()
        turns.append(Message(role, said))
    return tuple(turns)


def _from_messages(given: list[Any]) -> Dialogue:
    messages: list[Message] = []
    for number, item in enumerate(given, start=1):
        known = isinstance(item, dict) and item.get("role") in get_args(Role) and isinstance(item.get("content"), str)
        if not known:
            raise ValueError(f"message {number} is not a role (system, user, assistant) with a text; mend it")
        messages.append(Message(item["role"], item["content"]))
    if not messages:
        raise ValueError("'messages' is empty; give at least one turn of the person")
    return tuple(messages)


def _check_turns(turns: Dialogue) -> None:
    """Raise ValueError unless person and assistant take turns, after at most one system turn, and each says something.

    An empty last answer is let through: whoever trains on it drops it and counts it.
    """
    system = turns[0].role == "system"
    if len(turns) == system:
        raise ValueError("there is no turn of the person; add it")
    for number, message in enumerate(turns, start=1):
        last_answer = number == len(turns) and message.role == "assistant"
        if not message.content.strip() and not last_answer:
            raise ValueError("the prompt is empty; remove the row or fill it" if len(turns) == 1 else _empty(number))
        _check_unicode(message.content)
        expected = "system" if number == system else ("user", "assistant")[(number - system - 1) % 2]
        if message.role != expected:
            raise ValueError(f"turn {number} is the {message.role}'s, not the {expected}'s; put the turns in order")


def _empty(number: int) -> str:
    return f"turn {number} is empty; remove the row or fill it"


def _check_unicode(text: str) -> None:
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("the text holds half of a surrogate pair; save it as proper UTF-8")


def take_evenly(prompts: Sequence[Prompt], count: int) -> list[Prompt]:
    """Return `count` prompts that cover the categories as evenly as they allow, in a fixed order.

    Within a category the order is that of the keys' hashes, so a larger count adds prompts and drops none.
    """
    by_category: dict[str, list[Prompt]] = {}
    for prompt in sorted(prompts, key=lambda item: item.key):
        by_category.setdefault(prompt.category, []).append(prompt)
    queues = [by_category[name] for name in sorted(by_category)]
    taken: list[Prompt] = []
    for turn in range(max(map(len, queues), default=0)):
        taken.extend(queue[turn] for queue in queues if turn < len(queue))
    return taken[:count]
