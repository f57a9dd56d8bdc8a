"""What `cai constitution diff` prints for people and for programs, and how it ends."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from cai.cli.command import ends_well
from cai.cli.constitution.diff import diff as command
from cai.cli.constitution.diff import print_diff
from cai.constitution import load_constitution
from cai.constitution.diff import diff

app = typer.Typer()
app.command()(ends_well(command))

OLD = """\
name: house
version: "1"
principles:
  - id: no-secrets
    text: Never ask people for passwords.
    tags: [privacy, care]
  - id: short
    text: Answer in as few words as the question needs.
    contrast: Answer at great length.
    weight: 0.5
    probes:
      - {prompt: "What is 2+2?", twin: "What is a group?"}
  - {id: kind, text: Be kind.}
  - {id: gone, text: Go away.}
"""
NEW = """\
name: house
version: "1.1"
description: "[bold]Rules[/bold] of the house :smile:"
wordings:
  revision: "Mend it: {text}"
principles:
  - {id: kind, text: Be kind., critique: Where is it unkind?}
  - id: secrets-stay
    text: Never ask people for passwords.
    tags: [privacy, safety]
    priority: hard
    checker: excludes:password
  - id: short
    text: Answer in no more words than the question needs.
    contrast: Answer at great length.
    weight: 2
    probes:
      - {prompt: "What is 2+2?", twin: "What is a group in algebra?"}
      - {prompt: "Hi"}
  - {id: new, text: Say when you do not know., tags: [honesty]}
comparison_shots:
  - {prompt: a, chosen: b, rejected: c}
"""


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    for name, text in (("old.yaml", OLD), ("new.yaml", NEW)):
        (tmp_path / name).write_text(text, encoding="utf-8")
    return str(tmp_path / "old.yaml"), str(tmp_path / "new.yaml")


def run(*words: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(words))
    return result.exit_code, result.stdout, result.stderr


def printed(a: str, b: str, **settings: Any) -> str:
    out = io.StringIO()
    console = Console(file=out, **{"width": 80, **settings})
    print_diff(diff(load_constitution(a), load_constitution(b)), console=console)
    return out.getvalue()


def test_what_people_read(files: tuple[str, str]) -> None:
    code, said, _ = run(*files)
    assert code == 0
    for line in (
        "The digests differ.",
        "    version: 1 -> 1.1",
        "    description: {+[bold]Rules[/bold] of the house :smile:+}",
        "- gone  removed",
        "+ new  added",
        "    Say when you do not know.",
        "~ kind  moved from place 3 to 1",
        "    critique: {+Where is it unkind?+} (was derived)",
        "~ secrets-stay  renamed from no-secrets",
        "    tags: -care +safety",
        "    priority: 1 -> hard",
        "    checker: none -> excludes:password",
        "    text: Answer in [-as few-]{+no more+} words [-as-]{+than+} the question",
        "    weight: 0.5 -> 2",
        "    probes: 1 added, 1 changed",
        "      + Hi",
        "        twin: What is a group{+ in algebra+}?",
        "  short          text       template, text   text, shared examples   text",
    ):
        assert line in [item.rstrip() for item in said.splitlines()], line
    flat = " ".join(said.split())
    assert "1 added, 1 removed, 1 renamed, 1 moved, 2 reworded, 1 reweighted, 1 retagged, 2 changed otherwise" in flat
    assert "Prompts change for 3 of the 3 that both have." in flat
    assert "\x1b" not in said


def test_the_way_back(files: tuple[str, str]) -> None:
    said = run(*reversed(files))[1]
    assert "critique: [-Where is it unkind?-] (now derived)" in said
    assert "description: [-[bold]Rules[/bold] of the house :smile:-]" in said


def test_colours_stand_for_the_marks(files: tuple[str, str]) -> None:
    said = printed(*files, force_terminal=True, color_system="standard")
    assert "\x1b[9;31mas few\x1b[0m\x1b[4;32mno more\x1b[0m" in said
    assert "{+" not in said
    no_colour = printed(*files, force_terminal=True, color_system="standard", no_color=True)
    assert "[-" in no_colour, "whoever turns colours off still sees what went"


def test_equal_ones(files: tuple[str, str]) -> None:
    code, said, _ = run("harmless", "harmless", "--exit-code")
    assert code == 0
    assert "The digests are equal." in said
    assert "Nothing changed." in said


def test_exit_codes(files: tuple[str, str]) -> None:
    assert run(*files)[0] == 0
    assert run(*files, "--exit-code")[0] == 1
    assert run(*files, "--json", "--exit-code")[0] == 1
    code, _, told = run(files[0], "harmles", "--exit-code")
    assert code == 2
    assert "did you mean 'harmless'" in told


def test_json(files: tuple[str, str]) -> None:
    code, said, _ = run(*files, "--json")
    plain = json.loads(said)
    assert code == 0
    assert plain["a"]["digest"] == load_constitution(files[0]).digest
    assert [item["id"] for item in plain["added"]] == ["new"]
    assert plain["principles"][1]["old_id"] == "no-secrets"
    assert {"principle": "kind", "stage": "critique", "causes": ["wording", "shared examples"]} not in plain["prompts"]
    assert {"principle": "kind", "stage": "critique", "causes": ["wording"]} in plain["prompts"]


def test_two_that_have_nothing_in_common(files: tuple[str, str]) -> None:
    said = run(files[0], "harmless")[1]
    assert "Principles: 18 added, 4 removed. None is in both." in " ".join(said.split())
    assert "Prompts that change" not in said


def test_markdown_is_read_too(files: tuple[str, str], tmp_path: Path) -> None:
    from cai.constitution.markdown import to_markdown

    page = tmp_path / "old.md"
    page.write_text(to_markdown(load_constitution(files[0])), encoding="utf-8")
    code, said, _ = run(files[0], str(page), "--exit-code")
    assert (code, "Nothing changed." in said) == (0, True)


@pytest.mark.parametrize("width", [80, 120])
def test_it_fits_the_window(tmp_path: Path, width: int) -> None:
    sides = []
    for name, shots in (("a", ""), ("b", "few_shots:\n  - {" + ", ".join(
        f"{key}: x" for key in ("prompt", "response", "critique_request", "critique", "revision_request", "revision")
    ) + "}\n")):  # fmt: skip
        items = "".join(
            f"  - id: {letter * 64}\n    text: {letter * 200} {name} is what all of the answers begin with.\n"
            for letter in ("xyz" if name == "a" else "zyw")
        )
        path = tmp_path / f"{name * 60}.yaml"
        path.write_text(f'name: {name * 64}\nversion: "1"\nprinciples:\n{items}{shots}', encoding="utf-8")
        sides.append(str(path))
    said = printed(sides[0], sides[1], width=width)
    assert "…" not in said
    assert max(len(line.rstrip()) for line in said.splitlines()) <= width
    assert "begin with." in said
    indented = [line for line in said.partition("Prompts that change")[0].splitlines() if line.startswith("    ")]
    assert indented
    assert all(line == line.rstrip() for line in indented)


def test_principles_with_the_same_changes_share_a_row(tmp_path: Path) -> None:
    paths = []
    for name, template in (("a", ""), ("b", 'wordings: {critique: "See: {text}"}\n')):
        path = tmp_path / f"{name}.yaml"
        items = "".join(f"  - {{id: p{n}, text: Do {n}.}}\n" for n in range(30))
        path.write_text(f'name: same\nversion: "1"\n{template}principles:\n{items}', encoding="utf-8")
        paths.append(str(path))
    said = printed(*paths)
    assert "all 30 that both have" in said
    assert "p17" not in said
    assert "Principles: none changed. Prompts change for 30 of the 30 that both have." in " ".join(said.split())
