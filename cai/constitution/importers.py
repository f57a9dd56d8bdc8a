"""Constitutions out of other people's files: each format is known by its content, and nothing of a file is left behind.

- The files published with the 2022 paper: critique and revision instructions, comparison instructions, their examples.
- The JSON of alignment-handbook and llm-swarm: ``{"constitutions": [{"critic": …, "revision": …}], "system_chat": …}``.
- Inverse constitutional AI: a list, a mapping or a numbered text of principles in JSON, or a CSV with a column of them.
- Plain text: one principle a line.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel

from cai.constitution.model import ComparisonShot, Constitution, FewShot, Principle
from cai.constitution.prose import checked, slug
from cai.errors import InputError, Problem
from cai.strict_yaml import Location, Place, Tree, suggestion, validate
from cai.strict_yaml import _read as read_text

Format = Literal["paper", "handbook", "inverse", "text"]
SUFFIXES = (".json", ".csv", ".txt")
COLUMNS = ("constitution", "principle", "principles", "text")
"""Names of the CSV column that holds the principles; the first that is there counts."""

_SPEAKER = re.compile(r"(?:^|\n\n)(Human|Assistant|CritiqueRequest|Critique|RevisionRequest|Revision): ?")
_TURNS = ("CritiqueRequest", "Critique", "RevisionRequest", "Revision")
_REASONED = re.compile(
    r"Human: [^\n]*\n+(?P<dialogue>.*?)\s*\{\}\s*\(A\) \[\[\[(?P<a>.*?)\]\]\]\s*\(B\) \[\[\[(?P<b>.*?)\]\]\]\s*"
    r"Assistant: (?P<reasons>.*?)\s*Human:\s*So the answer is: \((?P<answer>[AB])\)",
    re.S,
)
"""The paper's comparison with reasons: a dialogue, two options, thoughts, and the answer."""

_LONG = {"H": "Human: ", "A": "Assistant: "}
_LIST_MARK = re.compile(r"\s*(?:[-*•+]\s+|\(?\d{1,4}[.):]\s+)")
_FILLER = re.compile(r"^(please |(choose|select) the (assistant )?response (that |which )?(is |the )?)+", re.I)


@dataclass
class _Found:
    """What the files gave so far."""

    principles: list[dict[str, Any]] = field(default_factory=list)
    few_shots: list[dict[str, Any]] = field(default_factory=list)
    comparisons: list[dict[str, Any]] = field(default_factory=list)
    """Examples of comparisons."""

    def add(self, file: "_File", where: Place, given: dict[str, Any], key: str = "") -> None:
        """Take a principle, with an id that no other has; raises InputError for one that can't be."""
        wanted = key or slug(_FILLER.sub("", given["text"]), 48) or "principle"
        taken = {item["id"] for item in self.principles}
        free = wanted
        number = 2
        while free in taken:
            free, number = f"{wanted}-{number}", number + 1
        given = {"id": free, **given}
        _valid(Principle, given, file, where)
        self.principles.append(given)


@dataclass(frozen=True)
class _File:
    """A file as it was read."""

    name: str
    text: str
    data: Any = None
    """Its JSON, if it is JSON."""

    def place(self, needle: str) -> Place:
        """Return where a string of the file's JSON stands: its first place is near enough for a person."""
        at = max(0, *(self.text.find(json.dumps(needle, ensure_ascii=only)) for only in (True, False)))
        return self.text.count("\n", 0, at) + 1, at - self.text.rfind("\n", 0, at)

    def bad(self, problem: str, fix: str, near: str | None = None) -> InputError:
        line, col = self.place(near) if near is not None else (1, 1)
        return InputError(Problem(self.name, line, col, problem, fix))


def _valid(model: type[BaseModel], given: dict[str, Any], file: _File, where: Place) -> dict[str, Any]:
    """Return what was given if the model takes it; raises InputError with its place in the file."""
    values: dict[Location, Place] = {(): where}
    validate(model, Tree(file.name, given, values, {}))
    return given


def import_constitution(
    paths: str | Path | Sequence[str | Path], *, format: str | None = None, name: str = ""
) -> Constitution:
    """Read one constitution from files, or folders of files, of other projects.

    `format` is one of `Format`; None: what the content says. `name` is the new constitution's; "": the first file's.

    Raises InputError with path, line and column for what can't be read.
    """
    if format is not None and format not in get_args(Format):
        raise InputError(Problem("--format", 0, 0, f"unknown format {format!r}", suggestion(format, get_args(Format))))
    given = [paths] if isinstance(paths, (str, Path)) else list(paths)
    files = [file for path in given for file in _files(Path(path))]
    found = _Found()
    problems: list[Problem] = []
    for path in files:
        try:
            file = _loaded(path, format)
            _READERS[_format(file, format)](file, found)
        except InputError as error:
            problems.extend(error.problems)
    if problems:
        raise InputError(problems)
    shown = str(files[0] if len(files) == 1 else given[0])
    if not found.principles:
        problem, fix = "no principle here, only examples", "name the file with the instructions, too"
        raise InputError(Problem(shown, 0, 0, problem, fix))
    data = {
        "name": slug(name or Path(given[0]).stem) or "imported",
        "version": "1",
        "principles": found.principles,
        "few_shots": found.few_shots,
        "comparison_shots": found.comparisons,
    }
    return validate(Constitution, Tree(shown, data, {(): (1, 1)}, {}))


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(item for item in path.iterdir() if item.suffix.lower() in SUFFIXES and item.is_file())
    if not files:
        raise InputError(Problem(str(path), 0, 0, "nothing to import in this folder", f"put {SUFFIXES} files there"))
    return files


def _loaded(path: Path, format: str | None) -> _File:
    name = str(path)
    text = checked(read_text(path, name), name)
    if not text.strip():
        raise InputError(Problem(name, 1, 1, "the file is empty", "write at least one principle"))
    wanted = format in ("paper", "handbook") or path.suffix.lower() == ".json"
    if not (wanted or (format is None and text.lstrip()[0] in '[{"' and path.suffix.lower() not in (".csv", ".txt"))):
        return _File(name, text)
    try:
        data = json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        problem = Problem(name, error.lineno, error.colno, f"bad JSON: {error.msg}", "mend the line")
        raise InputError(problem) from error
    except (RecursionError, ValueError) as error:
        said = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise InputError(Problem(name, 1, 1, f"bad JSON: {said}", "mend it")) from error
    return _File(name, text, data)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in names if names.count(key) > 1)!r} is there twice")
    return found


def _no_constant(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


def _format(file: _File, format: str | None) -> str:
    """Return a file's format by what is in it."""
    data = file.data
    if format:
        return format
    if isinstance(data, dict) and "constitutions" in data:
        return "handbook"
    if isinstance(data, dict) and any(isinstance(item, dict) and "edit_request" in item for item in data.values()):
        return "paper"
    if isinstance(data, list) and data:
        first = data[0]
        if isinstance(first, dict) and "prompt" in first:
            return "paper"
        if isinstance(first, str) and ("CritiqueRequest:" in first or first.rstrip().endswith("Options:")):
            return "paper"
    if data is not None or file.name.lower().endswith(".csv"):
        return "inverse"
    return "text"


def _paper(file: _File, found: _Found) -> None:
    """Read a file of the supplement of arXiv 2212.08073."""
    data = file.data
    if isinstance(data, dict):
        for key, item in data.items():
            _paper_pair(file, found, key, item)
        return
    if not isinstance(data, list):
        raise file.bad("not a list or a mapping", "give a file of the paper's supplement")
    for item in data:
        if isinstance(item, str) and "CritiqueRequest:" in item:
            found.few_shots.append(_valid(FewShot, _chain(file, item), file, file.place(item)))
        elif isinstance(item, str):
            text = re.sub(r"\s*Options:\s*$", "", item).strip()
            found.add(file, file.place(item), {"text": text, "comparison": text, "tags": ["comparison"]})
        elif isinstance(item, dict) and "prompt" in item:
            example = _comparison_example(file, item)
            found.comparisons.append(_valid(ComparisonShot, example, file, file.place(item["prompt"])))
        else:
            raise file.bad(f"neither an instruction nor an example: {str(item)[:60]!r}", "remove it")


def _paper_pair(file: _File, found: _Found, key: str, item: Any) -> None:
    prompts = item.get("prompt") if isinstance(item, dict) else None
    prompts = [prompts] if isinstance(prompts, str) else prompts
    revision = item.get("edit_request") if isinstance(item, dict) else None
    if not isinstance(prompts, list) or not prompts or not isinstance(revision, str):
        raise file.bad(f"{key!r} has no 'prompt' and 'edit_request'", "add them", near=key)
    revision = _stripped(revision, "RevisionRequest", "Revision")
    for number, prompt in enumerate(prompts):
        if not isinstance(prompt, str):
            raise file.bad(f"a prompt of {key!r} is not a text", "write a text", near=key)
        critique = _stripped(prompt, "CritiqueRequest", "Critique")
        given = {"text": revision, "critique": critique, "revision": revision, "tags": ["critique"]}
        found.add(file, file.place(key), given, slug(key if len(prompts) == 1 else f"{key}-{number}"))


def _stripped(text: str, before: str, after: str) -> str:
    return re.sub(rf"\s*{after}:\s*$", "", re.sub(rf"^\s*{before}:\s*", "", text)).strip()


def _chain(file: _File, text: str) -> dict[str, Any]:
    """Return a few-shot example of a critique and a revision from the paper's transcript of one."""
    parts = _SPEAKER.split(text)
    turns = list(zip(parts[1::2], (part.strip() for part in parts[2::2]), strict=True))
    if turns and turns[-1] == ("Human", ""):  # where the next example was to begin
        turns.pop()
    names = [who for who, _ in turns]
    if names[-4:] != list(_TURNS) or names[-5:-4] != ["Assistant"] or names[:1] != ["Human"] or len(names) < 6:
        raise file.bad("an example without all of its turns", f"write Human, Assistant, {', '.join(_TURNS)}", near=text)
    dialogue = turns[:-4]
    prompt = "\n\n".join(f"{who}: {said}" for who, said in dialogue[:-1]).removeprefix("Human: ")
    return {
        "prompt": prompt,
        "response": dialogue[-1][1],
        "critique_request": turns[-4][1],
        "critique": turns[-3][1],
        "revision_request": turns[-2][1],
        "revision": turns[-1][1],
    }


def _comparison_example(file: _File, item: dict[str, Any]) -> dict[str, Any]:
    """Return an example of a comparison: the dialogue, the better answer, the worse one, and what is said of them."""
    prompt = item["prompt"]
    if not isinstance(prompt, str):
        raise file.bad("a prompt is not a text", "write a text")
    reasons = place = ""
    if reasoned := _REASONED.fullmatch(prompt.strip()):
        options = {"A": reasoned["a"], "B": reasoned["b"]}
        better = options.pop(reasoned["answer"])
        worse = next(iter(options.values()))
        dialogue, reasons, place = reasoned["dialogue"], reasoned["reasons"].strip(), reasoned["answer"]
    else:
        better, worse = (_first(file, item, key) for key in ("corrects", "incorrects"))
        dialogue = prompt
    dialogue = re.sub(r"(?m)^(H|A): *", lambda match: _LONG[match.group(1)], dialogue)
    dialogue = re.sub(r"\n\nAssistant:\s*$", "", re.sub(r"^\s*Human: ?", "", dialogue)).strip()
    return {"prompt": dialogue, "chosen": better.strip(), "rejected": worse.strip(), "reasons": reasons, "place": place}


def _first(file: _File, item: dict[str, Any], key: str) -> str:
    answers = item.get(key)
    if not isinstance(answers, list) or not answers or not isinstance(answers[0], str):
        raise file.bad(f"an example without {key!r}", f"write {key!r} as a list of answers", near=item["prompt"])
    return answers[0]


def _handbook(file: _File, found: _Found) -> None:
    """Read the JSON of llm-swarm, which alignment-handbook uses."""
    data = file.data
    pairs = data.get("constitutions") if isinstance(data, dict) else None
    if not isinstance(pairs, list):
        raise file.bad("no list 'constitutions'", 'write {"constitutions": [{"critic": …, "revision": …}]}')
    for number, item in enumerate(pairs, start=1):
        both = [item.get(key) for key in ("critic", "revision")] if isinstance(item, dict) else []
        parts = [part for part in both if isinstance(part, str) and part.strip()]
        if len(parts) != 2:
            problem = f"constitution {number} needs a 'critic' and a 'revision'"
            raise file.bad(problem, "write both as texts", near=parts[0] if parts else "constitutions")
        critique, revision = parts
        found.add(file, file.place(critique), {"text": revision, "critique": critique, "revision": revision})
    chats = data.get("system_chat", [])
    if not isinstance(chats, list):
        raise file.bad("'system_chat' is not a list", "write a list of chats", near="system_chat")
    found.few_shots.extend(_chat(file, number, chat) for number, chat in enumerate(chats, start=1))


def _chat(file: _File, number: int, chat: Any) -> dict[str, Any]:
    turns = chat if isinstance(chat, list) else []
    said = [turn.get("content") for turn in turns if isinstance(turn, dict) and turn.get("role") != "system"]
    texts = [text for text in said if isinstance(text, str) and text.strip()]
    if len(texts) < 6 or len(texts) % 2 or len(texts) != len(said):
        problem = f"chat {number} is not a question, an answer, a critique and a revision, each asked for and given"
        near = texts[0] if texts else "system_chat"
        raise file.bad(problem, "write user and assistant turns in turn, six or more", near=near)
    names = ("Human", "Assistant")
    prompt = "\n\n".join(f"{names[index % 2]}: {text}" for index, text in enumerate(texts[:-5]))
    keys = ("response", "critique_request", "critique", "revision_request", "revision")
    example = {"prompt": prompt.removeprefix("Human: "), **dict(zip(keys, texts[-5:], strict=True))}
    return _valid(FewShot, example, file, file.place(texts[0]))


def _inverse(file: _File, found: _Found) -> None:
    """Read what inverse constitutional AI found: its principles say which response to select."""
    entries = _column(file) if file.data is None else _strings(file, file.data)
    for text, where in entries:
        if text := _LIST_MARK.sub("", text, count=1).strip():
            chosen = {"comparison": text} if re.match(r"(please )?(select|choose)\b", text, re.I) else {}
            found.add(file, where, {"text": text, **chosen})


def _strings(file: _File, data: Any, depth: int = 0) -> Iterator[tuple[str, Place]]:
    """Yield the principles in any of the shapes that they come in, with their places."""
    if isinstance(data, str):
        where = file.place(data)
        lines = [line for line in data.splitlines() if line.strip()]
        yield from ((line, where) for line in lines)
        return
    if isinstance(data, dict):
        known = next((data[key] for key in (*COLUMNS, "summaries", "description") if key in data), None)
        items: Iterable[Any] = data.values() if known is None else [known]
    elif isinstance(data, list):
        items = data
    else:
        raise file.bad(f"not a text: {data!r}", "write principles as texts")
    if depth > 32:
        raise file.bad("nested too deep", "write a list of texts")
    for item in items:
        yield from _strings(file, item, depth + 1)


def _column(file: _File) -> Iterator[tuple[str, Place]]:
    reader = csv.reader(io.StringIO(file.text), strict=True)
    header: list[str] | None = None
    column = -1
    try:
        for row in reader:
            line = reader.line_num
            if header is None:
                header = [cell.strip().lower() for cell in row]
                column = next((header.index(name) for name in COLUMNS if name in header), -1)
                if column < 0:
                    raise InputError(
                        Problem(file.name, 1, 1, f"no column of principles among {header}", f"name one of {COLUMNS}")
                    )
            elif row and column >= len(row):
                problem = f"{len(row)} cells, and the principle should be in cell {column + 1}"
                raise InputError(Problem(file.name, line, 1, problem, "fill the row, or quote the commas"))
            elif row:
                yield from ((part, (line, 1)) for part in row[column].splitlines() if part.strip())
    except csv.Error as error:
        raise InputError(Problem(file.name, reader.line_num, 1, f"bad CSV: {error}", "mend the row")) from error


def _text(file: _File, found: _Found) -> None:
    """Read one principle a line; blank lines and those that begin with # say nothing."""
    for number, line in enumerate(file.text.split("\n"), start=1):
        text = _LIST_MARK.sub("", line, count=1).strip()
        if text and not text.startswith("#"):
            found.add(file, (number, len(line) - len(line.lstrip()) + 1), {"text": text})


_READERS: dict[str, Callable[[_File, _Found], None]] = {
    "paper": _paper,
    "handbook": _handbook,
    "inverse": _inverse,
    "text": _text,
}
