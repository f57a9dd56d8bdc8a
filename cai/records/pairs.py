"""Pairs of answers of which one is known to be better: by people, or by labels that were made before.

Read are hh-rlhf's two transcripts, RewardBench's and TRL's `prompt`, `chosen` and `rejected` (texts or messages), a
journal of preferences, and the comparisons published with the 2022 paper (`text_correct`, `text_incorrect`).
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cai.errors import InputError, Problem
from cai.records.export import preference_rows
from cai.records.loaders import dialogue_of
from cai.records.rows import read_rows
from cai.records.schema import Dropped, Preference, short
from cai.types import Dialogue


@dataclass(frozen=True)
class LabelledPair:
    """A dialogue and two answers to it, the better one first."""

    id: str
    """A hash of the three texts."""
    prompt: Dialogue
    chosen: str
    rejected: str
    source: str
    """The file's name, or the row's own ``subset``."""


def load_labelled(paths: Iterable[Path]) -> tuple[list[LabelledPair], Counter[str]]:
    """Return the pairs of some files, each once, and how many rows were left out, by reason.

    Left out are ties, equal or empty answers and repetitions. Raises InputError naming every row that is no pair, or
    when nothing is left.
    """
    pairs: dict[str, LabelledPair] = {}
    dropped: Counter[str] = Counter()
    problems: list[Problem] = []
    named = list(paths)
    for path in named:
        try:
            for line, row in read_rows(path):
                try:
                    found = _labelled(row, path.name)
                except ValueError as error:
                    problem, _, fix = str(error).partition("; ")
                    problems.append(Problem(str(path), line, 1, problem, fix or "mend the row"))
                    continue
                if isinstance(found, LabelledPair) and found.id in pairs:
                    found = "repeated"
                if isinstance(found, str):
                    dropped[found] += 1
                else:
                    pairs[found.id] = found
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    if not pairs:
        names = ", ".join(map(str, named)) or "no file"
        raise InputError(Problem(names, 0, 0, "no pairs", "give rows with 'prompt', 'chosen' and 'rejected'"))
    return list(pairs.values()), dropped


def take_pairs(paths: Iterable[Path], most: int) -> list[LabelledPair]:
    """Return the pairs of some files, at most so many of each (0: all), which their content decides, not their order.

    Raises InputError as `load_labelled` does.
    """
    pairs: dict[str, LabelledPair] = {}
    for path in paths:
        own, _ = load_labelled([path])
        for pair in sorted(own, key=lambda pair: pair.id)[: most or None]:
            pairs.setdefault(pair.id, pair)
    return list(pairs.values())


def _labelled(row: dict[str, Any], source: str) -> LabelledPair | str:
    if "text_correct" in row and "text_incorrect" in row:
        row = {"chosen": row["text_correct"], "rejected": row["text_incorrect"]}
    exported = as_exported(row)
    if isinstance(exported, str):
        return exported
    prompt, chosen, rejected, target = pair_of(exported)
    if target == 0.5:
        return "a tie"
    if target < 0.5:
        chosen, rejected = rejected, chosen
    if not chosen.strip() or not rejected.strip():
        return "an empty answer"
    if chosen.strip() == rejected.strip():
        return "both answers are equal"
    key = short(["labelled", [[turn.role, turn.content] for turn in prompt], chosen, rejected])
    return LabelledPair(key, prompt, chosen, rejected, str(row.get("subset") or source))


def as_exported(row: dict[str, Any]) -> dict[str, Any] | str:
    """Return a record of a journal in the columns of its export, or why it gives no row; other rows as they are.

    Raises ValueError (``problem; fix``) for a record of another kind or a damaged one.
    """
    if not row.keys() >= {"type", "schema", "id"}:
        return row
    if row["type"] == Dropped.kind_name:
        return f"not labelled: {row.get('reason')}"
    if row["type"] != Preference.kind_name:
        raise ValueError(f"a record of the type {row['type']!r}; give the file that holds the preferences")
    try:
        rows = preference_rows([Preference.from_json(row)])
    except ValueError as error:
        said = " ".join(str(error).replace(";", ",").split()[:40])
        raise ValueError(f"a damaged preference record ({said}); make the file again") from error
    return rows[0] if rows else "a tie"


def pair_of(row: dict[str, Any]) -> tuple[Dialogue, str, str, float]:
    """Return the dialogue, the two answers, and the probability that `chosen` is the better one (1 if not given).

    Without `prompt`, `chosen` and `rejected` are whole dialogues that share all but the last turn. Raises ValueError
    (``problem; fix``).
    """
    if "chosen" not in row or "rejected" not in row:
        raise ValueError(f"no 'chosen' and 'rejected' (fields: {', '.join(sorted(row)) or 'none'}); add them")
    target = row.get("chosen_prob", 1.0)
    if isinstance(target, bool) or not isinstance(target, (int, float)) or not 0 <= target <= 1:
        raise ValueError(f"'chosen_prob' is {target!r}; make it a number from 0 to 1")
    if "prompt" in row:
        prompt = dialogue_of(row["prompt"])
        if prompt[-1].role != "user":
            raise ValueError("'prompt' does not end with the person's turn; cut it there")
        return prompt, _answer_of(row["chosen"]), _answer_of(row["rejected"]), float(target)
    chosen, rejected = dialogue_of(row["chosen"]), dialogue_of(row["rejected"])
    if chosen == rejected[:-1] and chosen[-1].role == "user":  # an empty answer, which hh-rlhf has some of
        return chosen, "", rejected[-1].content, float(target)
    if rejected == chosen[:-1] and rejected[-1].role == "user":
        return rejected, chosen[-1].content, "", float(target)
    if chosen[-1].role != "assistant" or rejected[-1].role != "assistant" or chosen[:-1] != rejected[:-1]:
        raise ValueError("'chosen' and 'rejected' do not share all but the assistant's last turn; give 'prompt' apart")
    return chosen[:-1], chosen[-1].content, rejected[-1].content, float(target)


def _answer_of(given: Any) -> str:
    if isinstance(given, list) and len(given) == 1 and isinstance(given[0], dict):
        given = given[0].get("content")
    if not isinstance(given, str):
        raise ValueError("'chosen' and 'rejected' must be a text or a list of one message; mend them")
    try:
        given.encode()
    except UnicodeEncodeError as error:
        raise ValueError("the text holds half of a surrogate pair; save it as proper UTF-8") from error
    return given
