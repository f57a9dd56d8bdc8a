"""What each round of revision did: the answers as they stand after it, measured, checked and judged against the drafts.

A round that gave a chain no revision leaves its answer as it was, so every round is measured on the same chains.
Answers to helpful prompts are in no round and are left out.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cai.constitution import Constitution, draw
from cai.judges.base import Comparison, Judge
from cai.records.index import Place, Records, open_table, read_at
from cai.records.journal import rank_paths
from cai.records.loaders import PromptSet
from cai.records.schema import Critique, Draft, Dropped, Record, Revision
from cai.stats import wilson
from cai.storage import seed_from
from cai.types import FinishReason

Measures = Mapping[str, Callable[[str, FinishReason], float]]
PLACE = "file INTEGER, line INTEGER, start INTEGER, length INTEGER"

Share = tuple[float, float, float]
"""A proportion and its 95 % interval."""


@dataclass(frozen=True)
class Standing:
    """One chain: the draft, then its answer as it stands after each round."""

    answers: tuple[Draft | Revision, ...]

    @property
    def draft(self) -> Draft | Revision:
        """The answer that the chain began with."""
        return self.answers[0]


@dataclass(frozen=True, kw_only=True)
class RoundView:
    """One line of the table."""

    round: int
    """0 is the draft."""
    chains: int
    revised: int
    """Chains that this round gave a new answer."""
    measures: dict[str, float] = field(default_factory=dict)
    """Means over the chains."""
    passes: Share | None = None
    """Answers that pass all checkers of the constitution which can tell; None without checkers."""
    wins: Share | None = None
    """How often the judge prefers the answer to the draft, ties counting half; None without a judge."""
    abstained: int = 0
    """Chains on which the judge gave no verdict."""


class Standings:
    """The chains of a folder, in the order of their drafts: read one by one, as often as they are asked for."""

    def __init__(self, folder: Path) -> None:
        """Join the journals of a folder, by the ids of its records."""
        self.rounds = 0
        self._paths: list[Path] = []
        self._table = open_table(
            f"CREATE TABLE drafts (number INTEGER PRIMARY KEY, prompt TEXT, {PLACE})",
            "CREATE TABLE answers (critique TEXT PRIMARY KEY, answer TEXT) WITHOUT ROWID",
            "CREATE TABLE worked_on (prompt TEXT PRIMARY KEY) WITHOUT ROWID",
            f"CREATE TABLE revisions (parent TEXT, round INTEGER, {PLACE}, PRIMARY KEY (parent, round)) WITHOUT ROWID",
        )
        weakref.finalize(self, self._table.close)
        for name in ("drafts", "critiques", "revisions"):
            records = Records()
            for path in rank_paths(folder, name):
                self._paths.append(path)
                for record, place in records.scan(path):
                    self._add(name, record, place)

    def _add(self, name: str, record: Record, place: Place) -> None:
        where = (len(self._paths) - 1, *place[1:])
        if isinstance(record, Draft):
            query = "INSERT INTO drafts (prompt, file, line, start, length) VALUES (?, ?, ?, ?, ?)"
            self._table.execute(query, (record.prompt, *where))
        elif isinstance(record, Critique):
            self._table.execute("INSERT OR IGNORE INTO answers VALUES (?, ?)", (record.id, record.answer))
        elif isinstance(record, Revision):
            # A revision made at once follows from the answer itself.
            found = self._table.execute("SELECT answer FROM answers WHERE critique = ?", (record.critique,)).fetchone()
            parent = found[0] if found else record.critique
            query = "INSERT OR REPLACE INTO revisions VALUES (?, ?, ?, ?, ?, ?)"
            self._table.execute(query, (parent, record.round, *where))
        if isinstance(record, Critique | Revision):
            self.rounds = max(self.rounds, record.round)
        if name != "drafts" and isinstance(record, Critique | Revision | Dropped):
            self._table.execute("INSERT OR IGNORE INTO worked_on VALUES (?)", (record.prompt,))

    def __iter__(self) -> Iterator[Standing]:
        """Yield the chains; drafts that were never to be revised are none."""
        query = "SELECT file, line, start, length FROM drafts NATURAL JOIN worked_on ORDER BY number"
        for where in self._table.execute(query):
            answers = [self._read(where)]
            for number in range(1, self.rounds + 1):
                query = "SELECT file, line, start, length FROM revisions WHERE parent = ? AND round = ?"
                found = self._table.execute(query, (answers[-1].id, number)).fetchone()
                answers.append(self._read(found) if found else answers[-1])
            yield Standing(tuple(answers))

    def _read(self, where: tuple[int, int, int, int]) -> Draft | Revision:
        record = read_at(Place(self._paths[where[0]], *where[1:]))
        assert isinstance(record, Draft | Revision)
        return record


def judge_rounds(
    judge: Judge, standings: Sequence[Standing], prompts: PromptSet, constitution: Constitution, *, seed: int
) -> list[list[float | None]]:
    """Return, per round after the draft, how probable it is for each chain that its answer is better than the draft.

    None is an abstention. All rounds of a chain are judged by one principle. An answer that is its draft is a tie, and
    nobody is asked.
    """
    asked_of = {standing.draft.prompt: prompts.by_id(standing.draft.prompt) for standing in standings}
    rounds = len(standings[0].answers) if standings else 0
    found: list[list[float | None]] = [[0.5] * len(standings) for _ in range(1, rounds)]
    asked = []
    for index, standing in enumerate(standings):
        principle = draw(constitution, seed_from(seed, "rounds", standing.draft.id))
        prompt = asked_of[standing.draft.prompt]
        for number in range(1, rounds):
            text = standing.answers[number].text
            if prompt is None:
                found[number - 1][index] = None
            elif text != standing.draft.text:
                asked.append(
                    Comparison(
                        id=f"{number}/{index}",
                        prompt=prompt.messages,
                        response_a=text,
                        response_b=standing.draft.text,
                        principle=principle,
                    )
                )
    for verdict in judge.compare(asked):
        place, _, chain = verdict.id.partition("/")
        found[int(place) - 1][int(chain)] = verdict.prob_a
    return found


def round_views(
    standings: Iterable[Standing],
    measures: Measures,
    constitution: Constitution | None = None,
    judged: Sequence[Sequence[float | None]] | None = None,
) -> list[RoundView]:
    """Return the table, one line per round."""
    rows: list[_Row] = []
    for standing in standings:
        rows = rows or [_Row(measures, constitution) for _ in standing.answers]
        for number, (row, answer) in enumerate(zip(rows, standing.answers, strict=True)):
            row.add(answer, revised=number > 0 and answer is not standing.answers[number - 1])
    return [row.view(number, judged[number - 1] if judged and number else None) for number, row in enumerate(rows)]


class _Row:
    """One line of the table while its chains go by."""

    def __init__(self, measures: Measures, constitution: Constitution | None) -> None:
        self._measures = measures
        self._checked = [each for each in (constitution.principles if constitution else ()) if each.checker]
        self._sums = dict.fromkeys(measures, 0.0)
        self._chains = self._revised = self._told = self._passed = 0

    def add(self, answer: Draft | Revision, *, revised: bool) -> None:
        self._chains += 1
        self._revised += revised
        for name, measure in self._measures.items():
            self._sums[name] += measure(answer.text, answer.finish_reason)
        verdicts = [found for each in self._checked if (found := each.check(answer.text)) is not None]
        self._told += bool(verdicts)
        self._passed += bool(verdicts) and all(verdicts)

    def view(self, number: int, votes: Sequence[float | None] | None) -> RoundView:
        passes = (self._passed / self._told, *wilson(self._passed, self._told)) if self._told else None
        return RoundView(
            round=number,
            chains=self._chains,
            revised=self._revised,
            measures={name: total / self._chains for name, total in self._sums.items()},
            passes=passes,
            wins=_wins(votes) if votes is not None else None,
            abstained=sum(vote is None for vote in votes or ()),
        )


def _wins(votes: Sequence[float | None]) -> Share | None:
    given = [vote for vote in votes if vote is not None]
    wins = sum(1.0 if vote > 0.5 else 0.5 if vote == 0.5 else 0.0 for vote in given)
    return (wins / len(given), *wilson(wins, len(given))) if given else None
