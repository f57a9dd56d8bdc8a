"""Readers of prompts and of dialogues: JSONL, CSV, Parquet, and the sets that come with the package.

A row of a prompt file has `prompt` (a text, or an hh-rlhf transcript) or `messages` (a list of role and content), and
may have `category` and `kind`. Bad rows are all named by line before anything else happens.
"""

import csv
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast, get_args

from cai.errors import InputError, MissingDependencyError, Problem
from cai.records.schema import Prompt, PromptKind
from cai.types import Dialogue, Message, Role

PACKAGED: dict[str, PromptKind] = {"red_team": "red_team", "benign": "benign", "helpful": "helpful"}
"""The prompt sets that come with the package, and what kind they are."""

_DATA = Path(__file__).parent.parent / "data" / "prompts"
_TURN = re.compile(r"\n\n(Human|Assistant): ?")
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
        for line, row in read_rows(path):
            try:
                prompt = prompt_of(row, kind=kind, source=path.name)
                prompts.setdefault(prompt.key, prompt)
            except ValueError as error:
                problem, _, fix = str(error).partition("; ")
                problems.append(Problem(str(path), line, 1, problem, fix))
    if problems:
        raise InputError(problems)
    return list(prompts.values())


def prompt_of(row: dict[str, Any], *, kind: PromptKind, source: str) -> Prompt:
    """Return the prompt of one row; raises ValueError (``problem; fix``) when it has none."""
    if row.get("type") == "prompt":
        return Prompt.from_json(row)
    given = row.get("messages", row.get("prompt"))
    if given is None:
        known = ", ".join(sorted(row)) or "none"
        raise ValueError(f"no 'prompt' and no 'messages' (fields: {known}); add one of them")
    said = row.get("kind", kind)
    if said not in get_args(PromptKind):
        raise ValueError(f"unknown kind {said!r}; use one of {', '.join(get_args(PromptKind))}")
    category = row.get("category") or ""
    if not isinstance(category, str):
        raise ValueError(f"'category' is a {type(category).__name__}; make it a text")
    messages = dialogue_of(given)
    if messages[-1].role != "user":
        raise ValueError("the dialogue ends with the assistant's turn; cut it after the last turn of the person")
    return Prompt.of(messages, kind=cast(PromptKind, said), category=category, source=str(row.get("source") or source))


def dialogue_of(given: Any) -> Dialogue:
    """Return a dialogue from a list of messages, an hh-rlhf transcript, or a plain text (one turn of a person)."""
    if isinstance(given, list):
        return _from_messages(given)
    if not isinstance(given, str):
        raise ValueError(f"'prompt' is a {type(given).__name__}; make it a text or a list of messages")
    _check_text(given)
    turns = transcript_turns(given) if given.startswith("\n\nHuman:") else (Message("user", given.strip()),)
    if turns and turns[-1] == Message("assistant", ""):
        turns = turns[:-1]
    return turns


def transcript_turns(text: str) -> Dialogue:
    """Read hh-rlhf's form: turns that begin with a blank line and ``Human:`` or ``Assistant:``."""
    pieces = _TURN.split(text)
    return tuple(
        Message(_SPEAKERS[speaker], said.strip()) for speaker, said in zip(pieces[1::2], pieces[2::2], strict=True)
    )


def _from_messages(given: list[Any]) -> Dialogue:
    messages: list[Message] = []
    for number, item in enumerate(given, start=1):
        if (
            not isinstance(item, dict)
            or item.get("role") not in get_args(Role)
            or not isinstance(item.get("content"), str)
        ):
            raise ValueError(
                f"message {number} is not a role (system, user, assistant) with a text as content; mend it"
            )
        _check_text(item["content"])
        messages.append(Message(item["role"], item["content"]))
    if not messages:
        raise ValueError("'messages' is empty; give at least one turn of the person")
    return tuple(messages)


def _check_text(text: str) -> None:
    if not text.strip():
        raise ValueError("the prompt is empty; remove the row or fill it")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("the text holds half of a surrogate pair; save it as proper UTF-8")


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line, row) of a .jsonl, .csv or .parquet file; in Parquet, the line is the row's number.

    Raises InputError for a file that is missing or of another kind, and for lines that can't be read.
    """
    readers = {".jsonl": _read_jsonl, ".csv": _read_csv, ".parquet": _read_parquet}
    if path.suffix not in readers:
        raise InputError(Problem(str(path), 0, 0, "not a prompt file", f"use one of {', '.join(readers)}"))
    if not path.is_file():
        raise InputError(Problem(str(path), 0, 0, "no such file", "check the path"))
    yield from readers[path.suffix](path)


def _read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    problems: list[Problem] = []
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            try:
                line = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                problems.append(Problem(str(path), number, error.start + 1, "not UTF-8", "save the file as UTF-8"))
                continue
            if not line.strip():
                continue
            try:
                row = json.loads(line, parse_constant=_refuse_constant)
            except json.JSONDecodeError as error:
                problems.append(Problem(str(path), number, error.colno, f"bad JSON: {error.msg}", "mend the line"))
            except ValueError as error:
                problems.append(Problem(str(path), number, 1, f"bad JSON: {error}", "mend the line"))
            else:
                if isinstance(row, dict):
                    yield number, row
                else:
                    problems.append(Problem(str(path), number, 1, "not a JSON object", "write one object per line"))
    if problems:
        raise InputError(problems)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _read_csv(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        for row in reader:
            yield reader.line_num, {name: value for name, value in row.items() if name is not None}


def _read_parquet(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise MissingDependencyError("pyarrow", "dev") from error
    number = 0
    for batch in parquet.ParquetFile(path).iter_batches(batch_size=1024):
        for row in batch.to_pylist():
            number += 1
            yield number, row


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
