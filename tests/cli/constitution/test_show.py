"""What `cai constitution show` tells of all, of one, and of one principle."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from cai.cli.command import ends_well
from cai.cli.constitution.show import show
from cai.constitution import load_constitution
from cai.constitution.parse import shipped

app = typer.Typer()
app.command()(ends_well(show))

RULES = """\
name: house
version: "2"
licence: MIT
description: "[bold]Rules[/bold]: of the house."
wordings:
  revision: "Mend it: {text}"
principles:
  - id: kind
    title: Kindness
    text: Be kind.
    critique: Where is it unkind?
    tags: [tone, care]
    weight: 3
    probes:
      - {prompt: Am I dumb?, twin: Is a parrot dumb?}
      - {prompt: Hi}
  - id: secret
    text: Never tell [red]secrets[/red].
    priority: hard
    tags: [care]
    checker: excludes:password
    gate_margin: 0.1
    source: The board.
    path: [Rules, Of the house]
    comparison_shots:
      - {prompt: asked, chosen: good, rejected: bad, reasons: thought}
  - {id: short, text: Be short., priority: 2}
few_shots:
  - {prompt: P, response: R, critique_request: CQ, critique: C, revision_request: RQ, revision: V}
"""


@pytest.fixture
def rules(tmp_path: Path) -> str:
    path = tmp_path / "rules.yaml"
    path.write_text(RULES, encoding="utf-8")
    return str(path)


def run(*words: str, width: int = 80) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(words), env={"COLUMNS": str(width)})
    return result.exit_code, result.stdout, result.stderr


def flat(said: str) -> str:
    return " ".join(said.replace("│", " ").split())


def test_without_a_source_it_lists_what_is_shipped() -> None:
    code, said, _ = run(width=120)
    assert code == 0
    for name in shipped():
        assert f"\n {name} " in said
    assert "it refuses what would hurt someone, says why in a sentence" in flat(said)
    listed = json.loads(run("--json")[1])
    assert [item["name"] for item in listed] == list(shipped())
    one = load_constitution(listed[0]["name"])
    assert (listed[0]["digest"], listed[0]["principles"]) == (one.digest, len(one.principles))
    assert run("--tag", "care")[0] == 2


def test_the_head(rules: str) -> None:
    code, said, _ = run(rules)
    said = flat(said)
    assert code == 0
    for part in (
        "house 2",
        "about [bold]Rules[/bold]: of the house.",
        "licence MIT",
        f"digest {load_constitution(rules).digest}",
        "principles 3: 1 hard, 1 in tier 1, 1 in tier 2; 2 to do, 1 to avoid",
        "draws 20.0 % to 60.0 %, by weight",
        "probes 2, 1 with a twin",
        "checkers 1",
        "examples 1 of critique and revision, 1 of comparison",
        "templates revision: Mend it: {text}",
        "tags care 2, tone 1",
    ):
        assert part in said, part


@pytest.mark.parametrize(
    ("width", "row"),
    [
        (80, "secret hard avoid 20.0 % - care Secret excludes:password"),
        (120, "secret Secret hard avoid 1 20.0 % - care excludes:password"),
    ],
)
def test_the_table(rules: str, width: int, row: str) -> None:
    said = flat(run(rules, width=width)[1])
    assert row in said
    assert "excludes:password" in said


def test_columns_that_would_say_nothing_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "bare.yaml"
    path.write_text('name: bare\nversion: "1"\nprinciples:\n  - {id: a, text: Be.}\n  - {id: b, text: Do.}\n')
    said = run(str(path), width=120)[1]
    assert "50.0 % for each" in said
    for column in ("weight", "drawn", "tags", "checker"):
        assert column not in said


def test_tags(rules: str) -> None:
    code, said, _ = run(rules, "--tag", "care")
    assert code == 0
    assert "short" not in said
    assert "25.0 % to 75.0 %, by weight of the 2 below" in flat(said)
    assert [item["draw"] for item in json.loads(run(rules, "--tag", "care", "--json")[1])["principles"]] == [0.75, 0.25]
    assert "secret" not in run(rules, "--tag", "tone")[1]
    assert "secret" in run(rules, "--tag", "tone", "--tag", "care")[1]
    code, _, told = run(rules, "--tag", "tones")
    assert code == 2
    assert "did you mean 'tone'" in told


def test_one_principle_says_what_was_given_and_what_was_derived(rules: str) -> None:
    code, said, _ = run(rules, "kind")
    said = flat(said)
    assert code == 0
    assert "kind Kindness text Be kind." in said
    assert "framing do (derived)" in said
    assert "weight 3, drawn 60.0 %" in said
    assert "critique given Where is it unkind?" in said
    assert "revision own template Mend it: Be kind." in said
    assert "comparison derived Which of these answers follows this better: Be kind." in said
    assert "probe 1 Am I dumb? twin: Is a parrot dumb? probe 2 Hi" in said
    assert "secret" not in said


def test_one_principle_with_all_there_can_be(rules: str) -> None:
    said = flat(run(rules, "secret")[1])
    assert "secret Secret (derived) text Never tell [red]secrets[/red]." in said
    assert "tier hard" in said
    assert "checker excludes:password (None of the phrases, whatever its case)" in said
    assert "a successor may fall by 10 % of the probes" in said
    assert "under Rules > Of the house" in said
    assert "source The board." in said
    assert "comparison 1 prompt: asked chosen: good rejected: bad reasons: thought" in said


def test_a_wording_that_is_given_as_it_would_be_derived_is_given(tmp_path: Path) -> None:
    path = tmp_path / "same.yaml"
    given = "{id: a, text: Be., contrast: 'Do the opposite of this: Be.', title: A}"
    path.write_text(f'name: same\nversion: "1"\nprinciples:\n  - {given}\n')
    (plain,) = json.loads(run(str(path), "--json")[1])["principles"]
    assert plain["derived"] == ["framing", "critique", "revision", "comparison"]


def test_all_wordings(rules: str) -> None:
    said = flat(run(rules, "--all-wordings")[1])
    assert said.count("comparison derived") == 3
    assert "For every principle example 1 prompt: P response: R critique request: CQ" in said


def test_an_unknown_principle(rules: str) -> None:
    code, _, told = run(rules, "kidn")
    assert code == 2
    assert "house has no 'kidn'; did you mean 'kind'?" in told


def test_json(rules: str) -> None:
    plain = json.loads(run(rules, "--json")[1])
    assert plain["digest"] == load_constitution(rules).digest
    assert plain["tags"] == {"care": 2, "tone": 1}
    assert [item["draw"] for item in plain["principles"]] == [0.6, 0.2, 0.2]
    assert plain["principles"][0]["revision"] == "Mend it: Be kind."
    assert plain["principles"][0]["derived"] == ["framing", "revision", "comparison", "contrast"]
    assert plain["few_shots"][0]["revision"] == "V"
    one = json.loads(run(rules, "secret", "--json")[1])
    assert one == plain["principles"][1]


def test_a_file_that_extends_another(rules: str, tmp_path: Path) -> None:
    path = tmp_path / "more.yaml"
    path.write_text(
        'name: more\nversion: "1"\nextends: rules.yaml\nprinciples:\n'
        "  - {id: kind, contrast: Be rude.}\n  - {id: fair, text: Be fair.}\n"
    )
    assert "extends 2 taken over as they are" in flat(run(str(path))[1])
    plain = {item["id"]: item for item in json.loads(run(str(path), "--json")[1])["principles"]}
    assert [plain[key]["inherited"] for key in ("kind", "secret", "short", "fair")] == [False, True, True, False]
    assert "critique" not in plain["kind"]["derived"], "what was given there is given here"
    assert "contrast" not in plain["kind"]["derived"]
    assert "taken over as it is" in run(str(path), "secret")[1]


def test_documents_of_prose(tmp_path: Path) -> None:
    path = tmp_path / "charter.md"
    path.write_text("# Charter\n\nWe are kind.\n\n## Hard constraints\n\n- Never lie.\n", encoding="utf-8")
    code, said, _ = run(str(path), "--all-wordings")
    assert code == 0
    assert "Never lie." in said
    assert "under Charter > Hard constraints" in flat(said)


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", list(shipped()))
def test_it_fits_the_window_and_cuts_no_id(name: str, width: int) -> None:
    said = run(name, width=width)[1]
    lines = said.splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in said
    assert "\x1b" not in said
    assert all(any(line.startswith(f" {item.id} ") for line in lines) for item in load_constitution(name).principles)
    every = run(name, "--all-wordings", width=width)[1]
    assert max(map(len, every.splitlines())) <= width
    assert "…" not in every


def test_ids_stay_whole_beside_all_columns(tmp_path: Path) -> None:
    path = tmp_path / "long.yaml"
    item = "  - {{id: {}, text: Be {}., weight: {}, title: T{}, tags: [{}], checker: {}}}\n"
    tags, checker = ", ".join(f"tag-of-many-{n}" for n in range(9)), "excludes:never-on-a-monday-or-a-tuesday-or-so"
    items = item.format("no-break-ins-by-code-at-all", "a", 1, 1, tags, checker) + item.format(
        "b", "b", 2, 2, "", "json"
    )
    path.write_text(f'name: long\nversion: "1"\nprinciples:\n{items}')
    said = run(str(path))[1]
    assert "\n no-break-ins-by-code-at-all " in said
    assert "json" in said
    assert max(map(len, said.splitlines())) <= 80
