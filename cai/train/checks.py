"""What can be wrong with training rows, looked for before the first step: one function per check.

A check looks at all rows as measured (`Item`) and returns a `Finding` or None. `check_pairs` and `check_chats` measure
and run all that apply; neither needs the model, only its tokenizer. Rows that can't be read at all are `InputError`s of
the loaders, not findings.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from cai.engines.render import Renderer
from cai.errors import InputError, Problem
from cai.judges.conditioned import WORDING, kept_ids, told, wording_of
from cai.records.loaders import dialogue_of
from cai.records.pairs import as_exported, pair_of
from cai.records.rows import read_rows
from cai.records.splits import said
from cai.storage import digest
from cai.types import Dialogue

SHOWN = 3
"""Places that a finding names."""

UNDECIDED = 0.02
"""How far from one half a label has to be to say something."""

CONTROL = re.compile(r"<\|[a-z_]+\|>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|\n\n(?:Human|Assistant):")
"""What chat templates write, and content shouldn't hold."""


@dataclass(frozen=True)
class Item:
    """One row, measured."""

    place: str
    """``path:line``."""
    prompt: Dialogue
    answers: tuple[str, ...]
    """Chosen and rejected, or the one answer."""
    prompt_tokens: int
    answer_tokens: tuple[int, ...]
    """With the end of turn."""
    target: float = 1.0
    """The probability that the first answer is the better one."""
    ids: tuple[tuple[int, ...], ...] = ()
    """Of the prompt and of each answer; none where only lengths matter."""
    source: str = ""
    """What kind of row it is, by itself or by its file's name."""
    principle: str = ""
    """What it was judged by, where the model is told; the prompt then begins with it."""
    kept: int = 0
    """Leading ids of the prompt that are never cut off: the principle's."""
    head: int = 0
    """Which score of a preference model learns from it, of those with several."""

    @property
    def least(self) -> int:
        """The tokens without any of the prompt that could be cut off."""
        return self.kept + max(self.answer_tokens)

    @property
    def key(self) -> str:
        """The prompt by its words, case and spacing aside."""
        return digest([[turn.role, " ".join(turn.content.lower().split())] for turn in self.prompt])


@dataclass(frozen=True)
class Finding:
    """What a check found."""

    id: str
    severity: Literal["error", "warning"]
    """An error makes training pointless; the rows of a warning are dropped, cut, or to be looked at."""
    count: int
    total: int
    problem: str
    fix: str
    places: tuple[str, ...]

    def __str__(self) -> str:
        """Return it in a line."""
        where = f" ({', '.join(self.places)}{', ...' if self.count > len(self.places) else ''})" if self.places else ""
        rows = f"{self.count} of {self.total} rows: " if self.total else ""  # 0: it is not about rows
        return f"{self.severity} {self.id}: {rows}{self.problem}{where}; {self.fix}"

    def to_json(self) -> dict[str, Any]:
        """Return its fields."""
        return asdict(self)


def rows_of(paths: Iterable[Path]) -> Iterable[tuple[str, dict[str, Any]]]:
    """Yield (``path:line``, row) of some files; raises InputError, after all of them, for what can't be read."""
    problems: list[Problem] = []
    for path in paths:
        try:
            for line, row in read_rows(path):
                yield f"{path}:{line}", row
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)


def measure_pairs(
    rows: Iterable[tuple[str, dict[str, Any]]],
    renderer: Renderer,
    principle: Callable[[dict[str, Any]], str] | None = None,
    head: Callable[[str, dict[str, Any]], int] | None = None,
) -> tuple[list[Item], Counter[str]]:
    """Return pairs, measured, and how many rows of a journal are none (ties, drops), by reason.

    `principle` gives the principle of a row, which its prompt then begins with, `head` that of a place and its row.
    Raises InputError naming all other rows that are none.
    """
    dropped: Counter[str] = Counter()

    def item(place: str, row: dict[str, Any]) -> Item | None:
        exported = as_exported(row)
        if isinstance(exported, str):
            dropped[exported] += 1
            return None
        prompt, chosen, rejected, target = pair_of(exported)
        about = {
            "target": target,
            "principle": principle(row) if principle else "",
            "head": head(place, exported) if head else 0,
        }
        return _measured(place, prompt, (chosen, rejected), renderer, str(exported.get("kind") or ""), **about)

    return _measure(rows, item), dropped


def measure_chats(rows: Iterable[tuple[str, dict[str, Any]]], renderer: Renderer) -> list[Item]:
    """Return dialogues that end with the answer to learn, measured; raises InputError naming rows that are none."""

    def item(place: str, row: dict[str, Any]) -> Item:
        if "messages" not in row:
            raise ValueError(f"no 'messages' (fields: {', '.join(sorted(row)) or 'none'}); add them")
        dialogue = dialogue_of(row["messages"])
        if dialogue[-1].role != "assistant":
            raise ValueError("the dialogue does not end with the assistant; add the answer to learn")
        return _measured(place, dialogue[:-1], (dialogue[-1].content,), renderer)

    return _measure(rows, item)


def _measured(
    place: str, prompt: Dialogue, answers: tuple[str, ...], renderer: Renderer, kind: str = "", **about: Any
) -> Item:
    wording = wording_of(renderer.tokenizer) or WORDING
    prompt = told(prompt, principle := about.get("principle", ""), wording)
    start = tuple(renderer.prompt_ids(prompt))
    ends = [tuple(renderer.answer_ids(answer, end_of_turn=True)) for answer in answers]
    return Item(
        place,
        prompt,
        answers,
        len(start),
        tuple(map(len, ends)),
        ids=(start, *ends),
        source=kind or Path(place.rpartition(":")[0]).name,
        kept=kept_ids(renderer, prompt, principle),
        **about,
    )


def _measure(
    rows: Iterable[tuple[str, dict[str, Any]]], item: Callable[[str, dict[str, Any]], Item | None]
) -> list[Item]:
    items: list[Item] = []
    problems: list[Problem] = []
    try:
        for place, row in rows:
            try:
                found = item(place, row)
            except (ValueError, InputError) as error:
                problems.append(_problem(place, error))
            else:
                items += [found] if found is not None else []
    except InputError as error:  # of files that can't be read
        problems += error.problems
    if problems:
        raise InputError(problems)
    return items


def _problem(place: str, error: ValueError | InputError) -> Problem:
    path, _, line = place.rpartition(":")
    path, line = (path, line) if path and line.isdigit() else (place, "0")
    if isinstance(error, InputError):  # the renderer's, which knows no place
        return Problem(path, int(line), 1, error.problems[0].problem, error.problems[0].fix)
    problem, _, fix = str(error).partition("; ")
    return Problem(path, int(line), 1, problem, fix or "mend the row")


def check_pairs(
    rows: Iterable[tuple[str, dict[str, Any]]],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    *,
    held_out: Iterable[tuple[str, dict[str, Any]]] = (),
) -> list[Finding]:
    """Return what is wrong with pairs to train on, errors first; `held_out` are pairs to measure on.

    Raises InputError naming rows that are no pairs.
    """
    renderer = Renderer(tokenizer)
    (items, _), (held, _) = measure_pairs(rows, renderer), measure_pairs(held_out, renderer)
    return findings(items, max_length, held_out=held, template=tokenizer.chat_template is not None)


def check_chats(
    rows: Iterable[tuple[str, dict[str, Any]]], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> list[Finding]:
    """Return what is wrong with dialogues to train on, errors first; raises InputError naming rows that are none."""
    items = measure_chats(rows, Renderer(tokenizer))
    return findings(items, max_length, template=tokenizer.chat_template is not None)


def findings(
    items: Sequence[Item], max_length: int, *, held_out: Sequence[Item] = (), template: bool = True
) -> list[Finding]:
    """Return what the checks find in measured rows, errors first; `template`: whether the tokenizer has one."""
    found = [
        equal_answers(items),
        empty_answers(items),
        no_room_for_answer(items, max_length),
        prompt_cut(items, max_length),
        no_template(items, template=template),
        already_rendered(items),
        leak(items, held_out),
        undecided_labels(items),
        inverted_labels(items),
        contradictions(items),
        repeated(items),
        length_shortcut(items),
    ]
    return sorted((each for each in found if each), key=lambda each: (each.severity != "error", each.id))


def _found(
    id: str, hits: Sequence[Item], items: Sequence[Item], problem: str, fix: str, *, error: bool = False
) -> Finding | None:
    if not hits:
        return None
    places = tuple(item.place for item in hits[:SHOWN])
    return Finding(id, "error" if error else "warning", len(hits), len(items), problem, fix, places)


def equal_answers(items: Sequence[Item]) -> Finding | None:
    """Two answers that are one teach nothing; trainers drop them. All of them: nothing is left."""
    hits = [item for item in items if len(item.answers) == 2 and item.answers[0].strip() == item.answers[1].strip()]
    fix = "sample responses at a higher temperature"
    return _found("equal-answers", hits, items, "chosen equals rejected", fix, error=len(hits) == len(items))


def empty_answers(items: Sequence[Item]) -> Finding | None:
    """An empty answer has no token to learn but its end; trainers drop the row."""
    hits = [item for item in items if not all(answer.strip() for answer in item.answers)]
    fix = "look at what made them; trainers drop these rows"
    return _found("empty-answer", hits, items, "an answer is empty", fix, error=len(hits) == len(items))


def no_room_for_answer(items: Sequence[Item], max_length: int) -> Finding | None:
    """An answer that leaves no token for its prompt is dropped, and the longest rows with it: a bias against length."""
    hits = [item for item in items if item.least >= max_length]
    longest = max((item.least for item in hits), default=0)
    problem = f"an answer alone fills max_length={max_length}, so the row is dropped"
    fix = f"raise max_length (to {longest + 1} for all)"
    return _found("no-room-for-answer", hits, items, problem, fix, error=len(hits) == len(items))


def prompt_cut(items: Sequence[Item], max_length: int) -> Finding | None:
    """A prompt too long loses its beginning: first the system's turn, then the question."""
    hits = [item for item in items if item.least < max_length < item.prompt_tokens + max(item.answer_tokens)]
    longest = max((item.prompt_tokens + max(item.answer_tokens) for item in hits), default=0)
    problem = f"prompt and answer exceed max_length={max_length}: the prompt's beginning is cut off"
    return _found("prompt-cut", hits, items, problem, f"raise max_length (to {longest} for all)")


def no_template(items: Sequence[Item], *, template: bool) -> Finding | None:
    """A model without a chat template is trained on transcripts (Human:/Assistant:), and must be served so."""
    problem = "the tokenizer has no chat template: rows are rendered as Human:/Assistant: transcripts"
    fix = "take the tokenizer of the chat model, or go on if transcripts are meant"
    return _found("no-template", [] if template else list(items), items, problem, fix)


def already_rendered(items: Sequence[Item]) -> Finding | None:
    """Text that another template rendered already is rendered again, as content: the model sees both."""
    hits = [
        item
        for item in items
        if any(CONTROL.search(text) for text in (*(turn.content for turn in item.prompt), *item.answers))
    ]
    fix = "give plain 'messages' and answers; the model's own template is put on here"
    return _found("already-rendered", hits, items, "the text holds marks of a chat template", fix)


def leak(items: Sequence[Item], held_out: Sequence[Item]) -> Finding | None:
    """A held-out prompt that is trained on makes every held-out figure too good. Another form doesn't hide it."""
    held = {said(item.prompt) for item in held_out}
    hits = [item for item in items if said(item.prompt) in held] if held else []
    return _found("leak", hits, items, "the prompt is held out, too", "hold out other prompts", error=True)


def undecided_labels(items: Sequence[Item]) -> Finding | None:
    """Labels of one half pull every margin to 0; a judge that gives many can't tell the answers apart."""
    hits = [item for item in items if len(item.answers) == 2 and abs(item.target - 0.5) <= UNDECIDED]
    fix = "audit the judge (`cai judge audit`) or leave these rows out"
    problem = "the label is one half"
    return _found("undecided-labels", hits if 5 * len(hits) > len(items) else [], items, problem, fix)


def inverted_labels(items: Sequence[Item]) -> Finding | None:
    """`chosen` is by its name the better one: a file where most labels say otherwise has its columns swapped."""
    hits = [item for item in items if len(item.answers) == 2 and item.target < 0.5 - UNDECIDED]
    problem = "chosen_prob is below one half: the rejected answer is called the better one"
    fix = "look whether columns are swapped; chosen_prob is the probability that 'chosen' is better"
    return _found("inverted-labels", hits if 2 * len(hits) > len(items) else [], items, problem, fix, error=True)


def contradictions(items: Sequence[Item]) -> Finding | None:
    """The same two answers to a prompt, once this way and once the other: noise that no training removes."""
    ways: dict[tuple[str, int, frozenset[str]], set[str]] = {}
    for item in items:
        if len(item.answers) == 2 and item.answers[0] != item.answers[1] and item.target != 0.5:
            winner = item.answers[0] if item.target > 0.5 else item.answers[1]
            ways.setdefault((item.key, item.head, frozenset(item.answers)), set()).add(winner)
    hits = [item for item in items if len(ways.get((item.key, item.head, frozenset(item.answers)), ())) > 1]
    fix = "join them to one row with the mean as chosen_prob"
    return _found("contradiction", hits, items, "the same pair is labelled both ways", fix)


def repeated(items: Sequence[Item]) -> Finding | None:
    """A row that comes again weighs more, and, if it is held out by row, leaks."""
    seen: set[tuple[str, int, tuple[str, ...]]] = set()
    hits = []
    for item in items:
        mark = (item.key, item.head, item.answers)
        hits += [item] if mark in seen else []
        seen.add(mark)
    return _found("repeated", hits, items, "the row was there before", "remove repetitions")


def length_shortcut(items: Sequence[Item]) -> Finding | None:
    """Where the longer answer nearly always wins, length is the easiest thing to learn (Singhal et al. 2023).

    arXiv 2310.03716. Below 20 pairs of unequal length it says nothing.
    """
    uneven = [item for item in items if len(item.answers) == 2 and item.answer_tokens[0] != item.answer_tokens[1]]
    longer = [item for item in uneven if (item.answer_tokens[0] > item.answer_tokens[1]) == (item.target > 0.5)]
    chosen = {id(item) for item in longer}
    shorter = [item for item in uneven if id(item) not in chosen]
    for name, hits in (("longer", longer), ("shorter", shorter)):
        if len(uneven) >= 20 and len(hits) > 0.85 * len(uneven):
            problem = f"the {name} answer is the better one in {100 * len(hits) / len(uneven):.0f} % of the pairs"
            return _found("length-shortcut", hits, items, problem, "balance lengths, or compare with a length baseline")
    return None
