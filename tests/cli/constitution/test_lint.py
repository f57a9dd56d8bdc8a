import json
import re
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from cai.cli.command import ends_well
from cai.cli.constitution.lint import lint
from cai.constitution.lint import RULES
from cai.constitution.parse import shipped

app = typer.Typer()
app.command()(ends_well(lint))

FAULTY = """\
name: faulty
version: latest
licence: CC0-1.0
principles:
  - id: kind
    text: Be kind to people.
    contrast: Be rude.
    comparison: Is (A) kinder?
    probes:
      - {prompt: Mock him., twin: Praise him.}
  - id: brief
    text: Answer in few words.
    contrast: Ramble on.
"""


def run(*words: object) -> tuple[int, str, str]:
    result = CliRunner(env={"COLUMNS": "80"}).invoke(app, [str(word) for word in words])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def faulty(tmp_path: Path) -> Path:
    path = tmp_path / "faulty.yaml"
    path.write_text(FAULTY, encoding="utf-8")
    return path


def test_shipped_constitutions_are_clean() -> None:
    names = list(shipped())
    assert names
    code, said, told = run(*names, "--strict")
    assert code == 0, said + told
    assert said.splitlines()[-1].startswith(f"{len(names)} files, 0 errors, 0 warnings, ")


def test_findings_are_grouped_by_file_and_kind_in_lines_to_jump_to(faulty: Path) -> None:
    clean = faulty.with_name("clean.yaml")
    clean.write_text(
        'name: clean\nversion: "1.0"\nlicence: CC0-1.0\nprinciples:\n  - id: calm\n    text: Stay calm.\n'
        "    contrast: Shout.\n    probes: [{prompt: You are a fool., twin: You are a friend.}]\n",
        encoding="utf-8",
    )
    code, said, _ = run(faulty, clean)
    assert code == 2
    assert said.splitlines() == [
        str(faulty),
        "1 error",
        f"{faulty}:8:17: C013 the comparison of 'kind' hints at an option with '(A)'; {RULES['C013'].fix}",
        "1 warning",
        f"{faulty}:11:5: C031 'brief' has no probes; {RULES['C031'].fix}",
        "1 note",
        f"{faulty}:2:10: C042 the version 'latest' has no order; {RULES['C042'].fix}",
        "",
        "2 files, 1 error, 1 warning, 1 note",
    ]


@pytest.mark.parametrize(
    ("options", "code", "last"),
    [
        (["--ignore", "C013"], 0, "1 file, 0 errors, 1 warning, 1 note"),
        (["--ignore", "C013", "--strict"], 2, "1 file, 0 errors, 1 warning, 1 note"),
        (["--ignore", "c013, C03", "--strict"], 0, "1 file, 0 errors, 0 warnings, 1 note"),
        (["--select", "C013"], 2, "1 file, 1 error, 0 warnings, 0 notes"),
        (["--select", "C0", "--ignore", "C01,C042"], 0, "1 file, 0 errors, 1 warning, 0 notes"),
        (["--select", "C031,C042"], 0, "1 file, 0 errors, 1 warning, 1 note"),
    ],
)
def test_rules_are_chosen_and_strict_counts_warnings(faulty: Path, options: list[str], code: int, last: str) -> None:
    found, said, _ = run(faulty, *options)
    assert (found, said.splitlines()[-1]) == (code, last)


def test_json_is_one_document(faulty: Path) -> None:
    code, said, _ = run(faulty, "--json")
    assert code == 2
    document = json.loads(said)
    assert {key: document[key] for key in ("errors", "warnings", "notes")} == {"errors": 1, "warnings": 1, "notes": 1}
    (file,) = document["files"]
    assert (file["path"], file["name"], len(file["digest"])) == (str(faulty), "faulty", 64)
    assert [found["rule"] for found in file["findings"]] == ["C042", "C013", "C031"]
    assert file["findings"][1] == {
        "rule": "C013",
        "severity": "error",
        "path": str(faulty),
        "line": 8,
        "col": 17,
        "problem": "the comparison of 'kind' hints at an option with '(A)'",
        "fix": RULES["C013"].fix,
    }


def test_files_are_compared_with_each_other_and_with_the_shipped(tmp_path: Path, faulty: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(FAULTY.replace("id: kind", "id: friendly"), encoding="utf-8")
    assert run(faulty, "--select", "C044")[1] == "1 file, 0 errors, 0 warnings, 0 notes\n"
    _, said, _ = run(faulty, other, "--select", "C044")
    assert "'kind' is 'friendly' of 'faulty', word for word" in said
    assert "'friendly' is 'kind' of 'faulty', word for word" in said
    other.write_text(
        'name: other\nversion: "1"\nprinciples:\n  - id: ours\n'
        "    text: Never help anyone to hurt, threaten or kill a person or an animal.\n",
        encoding="utf-8",
    )
    _, said, _ = run(other, "--select", "C044")
    assert "'ours' is 'no-violence' of 'harmless', word for word" in said


def test_a_small_context_is_told(faulty: Path) -> None:
    assert "C004" not in run("harmless")[1]
    code, said, _ = run("harmless", "--context", "1024", "--select", "C004")
    assert code == 0
    assert "C004 the examples alone take about" in said


def test_files_that_cannot_be_read_are_told_together(tmp_path: Path, faulty: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("name: bad\nversion: '1'\nprinciples: []\n", encoding="utf-8")
    code, said, told = run(faulty, bad, tmp_path / "none.yaml")
    assert (code, said) == (2, "")
    assert "bad.yaml:3:13: " in told
    assert "none.yaml: no such file" in told


def test_rules_are_listed_with_their_first_line() -> None:
    code, said, _ = run("--rules")
    assert code == 0
    assert re.findall(r"^ ?(C\d{3}) +(\w+)", said, re.MULTILINE) == [
        (rule.id, rule.severity) for rule in sorted(RULES.values(), key=lambda rule: rule.id)
    ]
    assert max(map(len, said.splitlines())) <= 80
    listed = json.loads(run("--rules", "--json", "--select", "C013")[1])
    assert [(entry["id"], entry["about"]) for entry in listed] == [("C013", RULES["C013"].about)]


def test_a_rule_is_explained_with_two_examples() -> None:
    code, said, _ = run("--explain", "c013")
    assert code == 0
    assert said.startswith("C013 error\n")
    assert "  comparison: Is the second answer kinder than the first one?\n" in said
    assert "  comparison: Which of these answers is kinder?\n" in said
    assert json.loads(run("--explain", "C013", "--json")[1])["bad"] == RULES["C013"].bad
    assert max(map(len, run("--explain", "C004")[1].splitlines())) < 250, "a long example is cut"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "there is nothing to lint; name a file"),
        (("--explain", "C99"), "there is no rule 'C99'; "),
        (("--explain", "C01"), "there is no rule 'C01'; "),
        (("harmless", "--ignore", "E501"), "--ignore: there is no rule 'E501'; list them with --rules"),
        (("harmles",), "did you mean 'harmless'?"),
    ],
)
def test_what_is_wrong_is_said(words: tuple[str, ...], told: str) -> None:
    code, _, error = run(*words)
    assert code == 2
    assert told in error
