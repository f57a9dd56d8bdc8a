"""Readers of prompts and of dialogues: JSONL, CSV, Parquet, and the sets that come with the package.

A row of a prompt file has `prompt` (a text, or an hh-rlhf transcript) or `messages` (a list of role and content), and
may have `category` and `kind`. Bad rows are all named by line before anything else happens.
"""

import csv
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, cast, get_args

from cai.errors import InputError, Problem
from cai.records.schema import Prompt, PromptKind
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


def load_prompts(paths: Iterable[Path], *, kind: PromptKind = "red_team") -> list[Prompt]:
    """Read prompt files in their order, each prompt once.

    `kind` is what a row is that does not say so itself. Raises InputError naming every bad row (up to 20 are shown).
    """
    prompts: dict[str, Prompt] = {}
    problems: list[Problem] = []
    for path in paths:
        try:
            before = len(problems)
            found = False
            for line, row in read_rows(path):
                found = True
                if path.suffix.lower() != ".jsonl" and not row.keys() & {"prompt", "messages"}:
                    # A table without the column lacks it in every row: said once.
                    problems.append(_problem(path, 1, _no_prompt(row)))
                    break
                try:
                    prompt = prompt_of(row, kind=kind, source=path.name)
                    prompts.setdefault(prompt.key, prompt)
                except ValueError as error:
                    problems.append(_problem(path, line, error))
            if not found and len(problems) == before:
                problems.append(Problem(str(path), 0, 0, "no prompts", "give a file with at least one"))
        except InputError as error:
            problems.extend(error.problems)
    if problems:
        raise InputError(problems)
    return list(prompts.values())


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


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line, row) of a .jsonl, .csv or .parquet file; in Parquet, the line is the row's number.

    Raises InputError for a file that is missing or of another kind and, after the good rows, for lines that can't be
    read.
    """
    readers = {".jsonl": _read_jsonl, ".csv": _read_csv, ".parquet": _read_parquet}
    if path.is_dir():
        raise InputError(Problem(str(path), 0, 0, "this is a folder", "name a file"))
    if path.suffix.lower() not in readers:
        raise InputError(Problem(str(path), 0, 0, "not a file of rows", f"use one of {', '.join(readers)}"))
    if not path.is_file():
        raise InputError(Problem(str(path), 0, 0, "no such file", "check the path"))
    try:
        yield from readers[path.suffix.lower()](path)
    except OSError as error:
        raise InputError(Problem(str(path), 0, 0, f"can't be read: {error.strerror or error}", "check it")) from error


def _read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    problems: list[Problem] = []
    with path.open("rb") as file:
        for number, line in _decoded(file, path, problems):
            if line is None or not line.strip():
                continue
            try:
                row = json.loads(line.rstrip("\r\n"), parse_constant=_refuse_constant)
            except json.JSONDecodeError as error:
                problems.append(Problem(str(path), number, error.colno, f"bad JSON: {error.msg}", "mend the line"))
            except (ValueError, RecursionError) as error:
                why = "nested too deep" if isinstance(error, RecursionError) else str(error)
                problems.append(Problem(str(path), number, 1, f"bad JSON: {why}", "mend the line"))
            else:
                if isinstance(row, dict):
                    yield number, row
                else:
                    problems.append(Problem(str(path), number, 1, "not a JSON object", "write one object per line"))
    if problems:
        raise InputError(problems)


def _decoded(file: IO[bytes], path: Path, problems: list[Problem]) -> Iterator[tuple[int, str | None]]:
    """Yield the lines of a file with their numbers; None for one that is not UTF-8, which is added to the problems."""
    for number, raw in enumerate(file, start=1):
        try:
            yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            problems.append(Problem(str(path), number, error.start + 1, "not UTF-8", "save the file as UTF-8"))
            yield number, None


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _read_csv(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    problems: list[Problem] = []
    with path.open("rb") as file:
        lines = (line if line is not None else "" for _, line in _decoded(file, path, problems))
        reader = csv.DictReader(lines, strict=True)
        try:
            for row in reader:
                within = sum(value.count("\n") for value in row.values() if isinstance(value, str))
                line = reader.line_num - within
                if None in row:
                    fix = "put a text that has commas in quotes"
                    problems.append(Problem(str(path), line, 1, "more fields than the header names", fix))
                else:
                    yield line, row
        except csv.Error as error:
            problems.append(Problem(str(path), reader.reader.line_num, 1, f"bad CSV: {error}", "mend the quotes"))
    if problems:
        raise InputError(problems)


def _read_parquet(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow
    import pyarrow.parquet as parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        why = str(error).partition("\n")[0]
        raise InputError(Problem(str(path), number + 1, 1, f"bad Parquet: {why}", "make the file again")) from error


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
