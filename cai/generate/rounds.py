"""What each round of revision did: the answers as they stand after it, measured, checked and judged against the drafts.

A round that gave a chain no revision leaves its answer as it was, so every round is measured on the same chains.
Answers to helpful prompts are in no round and are left out.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cai.constitution import Constitution, draw
from cai.judges.base import Comparison, Judge
from cai.records.journal import of_type, read_ranks
from cai.records.schema import Critique, Draft, Dropped, Prompt, Revision
from cai.stats import wilson
from cai.storage import seed_from
from cai.types import FinishReason

Measures = Mapping[str, Callable[[str, FinishReason], float]]
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


def read_standings(folder: Path) -> list[Standing]:
    """Join the journals of a folder, by the ids of its records."""
    drafts, critiques, revisions = (read_ranks(folder, name).values() for name in ("drafts", "critiques", "revisions"))
    answer_of = {critique.id: critique.answer for critique in of_type(critiques, Critique)}
    made = {(answer_of.get(each.critique, each.critique), each.round): each for each in of_type(revisions, Revision)}
    rounds = max(
        (*(each.round for each in of_type(critiques, Critique)), *(number for _, number in made)),
        default=0,
    )
    worked_on = {each.prompt for each in (*critiques, *revisions) if isinstance(each, Critique | Revision | Dropped)}
    standings = []
    for draft in of_type(drafts, Draft):
        if draft.prompt not in worked_on:
            continue
        answers: list[Draft | Revision] = [draft]
        for number in range(1, rounds + 1):
            answers.append(made.get((answers[-1].id, number), answers[-1]))
        standings.append(Standing(tuple(answers)))
    return standings


def judge_rounds(
    judge: Judge, standings: Sequence[Standing], prompts: Sequence[Prompt], constitution: Constitution, *, seed: int
) -> list[list[float | None]]:
    """Return, per round after the draft, how probable it is for each chain that its answer is better than the draft.

    None is an abstention. All rounds of a chain are judged by one principle. An answer that is its draft is a tie, and
    nobody is asked.
    """
    dialogues = {prompt.id: prompt.messages for prompt in prompts}
    rounds = len(standings[0].answers) if standings else 0
    found: list[list[float | None]] = [[0.5] * len(standings) for _ in range(1, rounds)]
    asked = []
    for index, standing in enumerate(standings):
        principle = draw(constitution, seed_from(seed, "rounds", standing.draft.id))
        for number in range(1, rounds):
            text = standing.answers[number].text
            if standing.draft.prompt not in dialogues:
                found[number - 1][index] = None
            elif text != standing.draft.text:
                asked.append(
                    Comparison(
                        id=f"{number}/{index}",
                        prompt=dialogues[standing.draft.prompt],
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
    standings: Sequence[Standing],
    measures: Measures,
    constitution: Constitution | None = None,
    judged: Sequence[Sequence[float | None]] | None = None,
) -> list[RoundView]:
    """Return the table, one line per round."""
    views = []
    for number in range(len(standings[0].answers) if standings else 0):
        answers = [standing.answers[number] for standing in standings]
        votes = judged[number - 1] if judged and number else []
        views.append(
            RoundView(
                round=number,
                chains=len(answers),
                revised=sum(number > 0 and each.answers[number] is not each.answers[number - 1] for each in standings),
                measures={
                    name: sum(measure(answer.text, answer.finish_reason) for answer in answers) / len(answers)
                    for name, measure in measures.items()
                },
                passes=_passes([answer.text for answer in answers], constitution),
                wins=_wins(votes) if judged and number else None,
                abstained=sum(vote is None for vote in votes),
            )
        )
    return views


def _passes(texts: Sequence[str], constitution: Constitution | None) -> Share | None:
    checked = [principle for principle in (constitution.principles if constitution else ()) if principle.checker]
    told = []
    for text in texts:
        verdicts = [verdict for principle in checked if (verdict := principle.check(text)) is not None]
        told += [all(verdicts)] if verdicts else []
    return (sum(told) / len(told), *wilson(sum(told), len(told))) if told else None


def _wins(votes: Sequence[float | None]) -> Share | None:
    given = [vote for vote in votes if vote is not None]
    wins = sum(1.0 if vote > 0.5 else 0.5 if vote == 0.5 else 0.0 for vote in given)
    return (wins / len(given), *wilson(wins, len(given))) if given else None
