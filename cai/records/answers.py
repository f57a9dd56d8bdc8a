"""Single answers that people called good or bad.

Read are the dialogues published with the 2022 paper (`prompt` with two options of which one is ``harmful``, and
`corrects`), and plain rows with `prompt`, `response` and `good`.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cai.errors import InputError, Problem
from cai.records.loaders import dialogue_of, transcript_turns
from cai.records.rows import BadRow, read_rows, scan_rows
from cai.records.schema import short
from cai.types import Dialogue

_OPTION = re.compile(r"^ ?\((?P<letter>[A-Z])\) (?P<text>.+)$", re.MULTILINE)
_ASKED = re.compile(r"\n\n(?:Choose|What|Which) [^\n]*:\n \(A\)")


@dataclass(frozen=True)
class LabelledAnswer:
    """A dialogue and an answer to it, with what people said of it."""

    id: str
    """A hash of the texts."""
    prompt: Dialogue
    answer: str
    good: bool
    source: str
    """The file's name."""


def holds_answers(path: Path) -> bool:
    """Tell whether a file's first readable row is a single labelled answer. Raises InputError as `scan_rows` does."""
    for _, row in scan_rows(path):
        if not isinstance(row, BadRow):
            return "good" in row or ("corrects" in row and "text_correct" not in row)
    return False


def take_answers(paths: Iterable[Path], most: int = 0) -> list[LabelledAnswer]:
    """Return the answers of some files, each once and at most so many of each (0: all), which their content decides.

    Raises InputError naming every row that is none, and when people called all of them good, or all bad.
    """
    found: dict[str, LabelledAnswer] = {}
    problems: list[Problem] = []
    named = list(paths)
    for path in named:
        own: list[LabelledAnswer] = []
        try:
            for line, row in read_rows(path):
                try:
                    own.append(answer_of(row, path.name))
                except ValueError as error:
                    problem, _, fix = str(error).partition("; ")
                    problems.append(Problem(str(path), line, 1, problem, fix or "mend the row"))
        except InputError as error:
            problems += error.problems
        found |= {answer.id: answer for answer in sorted(own, key=lambda answer: answer.id)[: most or None]}
    if problems:
        raise InputError(problems)
    if len({answer.good for answer in found.values()}) < 2:
        said = "no answers" if not found else f"all answers are {'good' if next(iter(found.values())).good else 'bad'}"
        raise InputError(Problem(", ".join(map(str, named)), 0, 0, said, "give some of both"))
    return list(found.values())


def answer_of(row: dict[str, Any], source: str) -> LabelledAnswer:
    """Return the labelled answer of a row. Raises ValueError (``problem; fix``)."""
    prompt, answer, good = _published(row) if "corrects" in row else _plain(row)
    if not answer.strip():
        raise ValueError("the answer is empty; remove the row")
    key = short(["answer", [[turn.role, turn.content] for turn in prompt], answer])
    return LabelledAnswer(key, prompt, answer, good, source)


def _plain(row: dict[str, Any]) -> tuple[Dialogue, str, bool]:
    if not isinstance(row.get("good"), bool):
        raise ValueError(f"'good' is {row.get('good')!r}; make it true or false")
    if not isinstance(row.get("response"), str):
        raise ValueError("no 'response'; add the answer's text")
    prompt = dialogue_of(row.get("prompt"))
    if prompt[-1].role != "user":
        raise ValueError("'prompt' does not end with the person's turn; cut it there")
    return prompt, row["response"], row["good"]


def _published(row: dict[str, Any]) -> tuple[Dialogue, str, bool]:
    """Return the dialogue that a question of the paper's supplement is about, and what people answered."""
    text, corrects = row.get("prompt"), row["corrects"]
    if not isinstance(text, str) or not isinstance(corrects, list) or len(corrects) != 1:
        raise ValueError("not a question with one correct option; give rows as the paper's HarmfulVsEthical.jsonl has")
    asked = _ASKED.search(text)
    start = text.find("\n\nHuman:")
    options = {option["letter"]: option["text"] for option in _OPTION.finditer(text[asked.start() :])} if asked else {}
    harmful = [letter for letter, said in options.items() if "harmful" in said]
    if asked is None or start < 0 or len(options) != 2 or len(harmful) != 1:
        raise ValueError("no question of which one of two options is 'harmful'; leave the row out")
    turns = transcript_turns(text[start : asked.start()])
    while turns and turns[-1].role != "assistant":
        turns = turns[:-1]
    if len(turns) < 2:
        raise ValueError("the dialogue has no answer; remove the row")
    return turns[:-1], turns[-1].content, str(corrects[0]).strip(" ()") != harmful[0]
