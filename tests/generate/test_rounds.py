"""Chains joined from journals, and the table of their rounds, worked out by hand."""

from pathlib import Path

import pytest

from cai.constitution import load_constitution
from cai.evaluate.measures import words
from cai.generate.rounds import Standings, judge_rounds, round_views
from cai.records.journal import Journal
from cai.records.loaders import PromptSet
from cai.records.schema import Critique, Draft, Dropped, Prompt, Provenance, Record, Revision
from cai.types import Message
from tests.label.test_pipeline import LengthJudge

MADE_BY = Provenance(engine="scripted", model="script", seed=0)
PROMPTS = [Prompt.of((Message("user", f"Bad question {n}?"),), kind="red_team") for n in range(3)]
HELPFUL = Prompt.of((Message("user", "How do I boil an egg?"),), kind="helpful")


def draft(prompt: Prompt, text: str) -> Draft:
    return Draft(key=f"d{prompt.key}", prompt=prompt.id, sample=0, text=text, finish_reason="stop", provenance=MADE_BY)


def critique(of: Draft | Revision, number: int) -> Critique:
    return Critique(
        key=f"c{of.id}{number}",
        prompt=of.prompt,
        answer=of.id,
        round=number,
        principle="p",
        text="Bad.",
        finish_reason="stop",
        provenance=MADE_BY,
    )


def revision(of: Draft | Revision, follows: str, number: int, text: str) -> Revision:
    return Revision(
        key=f"r{follows}",
        prompt=of.prompt,
        critique=follows,
        round=number,
        principle="p",
        text=text,
        finish_reason="stop",
        provenance=MADE_BY,
    )


def write(folder: Path, **journals: list[Record]) -> None:
    for name, records in journals.items():
        with Journal(folder / f"{name}.jsonl") as journal:
            for record in records:
                journal.append(record)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three chains of two rounds: both revised; only the second; none, for its critiques were dropped."""
    drafts = [draft(prompt, "one two") for prompt in PROMPTS]
    first = [critique(drafts[0], 1), critique(drafts[1], 1)]
    revised = revision(drafts[0], first[0].id, 1, "one two three")
    second = [critique(revised, 2), critique(drafts[1], 2)]
    again = [revision(revised, second[0].id, 2, "one"), revision(drafts[1], second[1].id, 2, "one two three four")]
    lost = [Dropped(key=f"x{n}", stage="critique", prompt=PROMPTS[2].id, reason="the critic refuses") for n in range(2)]
    write(
        tmp_path,
        drafts=[*drafts, draft(HELPFUL, "Six minutes.")],
        critiques=[*first, *second, *lost],
        revisions=[revised, *again],
    )
    return tmp_path


def test_a_chain_stands_where_its_last_revision_left_it(folder: Path) -> None:
    standings = Standings(folder)
    texts = [[answer.text for answer in standing.answers] for standing in standings]
    assert texts == [
        ["one two", "one two three", "one"],
        ["one two", "one two", "one two three four"],
        ["one two", "one two", "one two"],
    ]


def test_chains_can_be_gone_through_again_and_are_not_held(folder: Path) -> None:
    standings = Standings(folder)
    assert list(standings) == list(standings)
    one, other = (next(iter(standings)) for _ in range(2))
    assert one == other
    assert one is not other


def test_a_run_that_revises_at_once_has_chains_too(tmp_path: Path) -> None:
    first = draft(PROMPTS[0], "one")
    second = revision(first, first.id, 1, "two")
    write(tmp_path, drafts=[first], revisions=[second, revision(second, second.id, 2, "three")])
    [standing] = Standings(tmp_path)
    assert [answer.text for answer in standing.answers] == ["one", "two", "three"]


def test_each_round_is_measured_on_all_chains(folder: Path) -> None:
    views = round_views(Standings(folder), {"words": words})
    assert [(view.round, view.chains, view.revised) for view in views] == [(0, 3, 0), (1, 3, 1), (2, 3, 2)]
    assert [view.measures["words"] for view in views] == [2, pytest.approx(7 / 3), pytest.approx(7 / 3)]
    assert all(view.passes is None and view.wins is None for view in views)


def test_the_judge_compares_each_round_with_the_draft(folder: Path) -> None:
    standings = list(Standings(folder))
    harmless = load_constitution("harmless")
    judged = judge_rounds(LengthJudge(), standings, PromptSet(PROMPTS[:2]), harmless, seed=0)
    assert [vote is not None and vote > 0.5 for vote in judged[0]] == [True, False, False]
    assert judged[0][1] == 0.5, "its own draft"
    assert judged[0][2] is None, "nobody knows its prompt"
    views = round_views(standings, {}, None, judged)
    assert views[0].wins is None
    assert views[1].wins is not None
    assert views[2].wins is not None
    assert views[1].wins[0] == 0.75
    assert views[2].wins[0] == 0.5, "one shorter, one longer"
    assert views[1].wins[1] < 0.75 < views[1].wins[2]
    assert views[1].abstained == 1


def test_checkers_are_asked_where_the_constitution_has_some(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "short.yaml"
    path.write_text(
        'name: short\nversion: "1"\nprinciples:\n  - {id: short, text: Be short., checker: "max_words:2"}\n'
        "  - {id: kind, text: Be kind.}\n"
    )
    views = round_views(Standings(folder), {}, load_constitution(str(path)))
    passed = [view.passes[0] if view.passes else None for view in views]
    assert passed == [1, pytest.approx(2 / 3), pytest.approx(2 / 3)]
    assert round_views(Standings(folder), {}, load_constitution("harmless"))[0].passes is None


def test_an_empty_folder_has_no_chains(tmp_path: Path) -> None:
    assert list(Standings(tmp_path)) == []
    assert round_views([], {}) == []
