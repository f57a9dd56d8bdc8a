import random
import time
from pathlib import Path

import pytest

from cai.constitution import Constitution, Principle, load_constitution
from cai.constitution.lint import lint, lint_file
from cai.constitution.markdown import to_markdown
from cai.errors import InputError
from tests.constitution.lint.samples import file_findings

BASE = """\
name: base
version: "1.0"
licence: CC0-1.0
principles:
  - id: kind
    text: Be kind to people.
    comparison: Is (A) kinder?
  - id: brief
    text: Answer in few words.
"""


def test_findings_come_in_the_order_of_lines_and_rules_can_be_chosen(tmp_path: Path) -> None:
    path = tmp_path / "base.yaml"
    found = file_findings(path, BASE)
    assert [(finding.problem.line, finding.rule) for finding in found] == [
        (5, "C031"),
        (6, "C011"),
        (7, "C013"),
        (8, "C031"),
        (9, "C011"),
    ]
    assert found == lint_file(path)
    constitution = load_constitution(path)
    assert [finding.rule for finding in lint(constitution, rules={"C013"})] == ["C013"]
    assert lint(constitution, rules=[]) == []


def test_a_file_that_extends_another_answers_for_its_own_principles(tmp_path: Path) -> None:
    file_findings(tmp_path / "base.yaml", BASE)
    found = file_findings(
        tmp_path / "ours.yaml",
        """\
        name: ours
        version: "1.0"
        extends: base.yaml
        principles:
          - id: kind
            weight: 2
          - id: short
            text: Answer in few words!
        """,
    )
    told = {(finding.rule, finding.problem.line) for finding in found}
    # An override is the file's own: what it leaves as it was is told where it begins.
    assert told == {("C013", 5), ("C011", 5), ("C031", 5), ("C001", 8), ("C011", 8), ("C031", 7)}


def test_principles_taken_over_from_two_files_are_compared(tmp_path: Path) -> None:
    file_findings(tmp_path / "base.yaml", BASE)
    other = BASE.replace("id: kind", "id: friendly").replace("id: brief", "id: short").replace("name: base", "name: o")
    file_findings(tmp_path / "other.yaml", other)
    found = file_findings(
        tmp_path / "both.yaml", "name: both\nversion: '1.0'\nextends: [base.yaml, other.yaml]\nlicence: CC0-1.0\n"
    )
    assert [(finding.rule, finding.problem.line) for finding in found] == [("C001", 3), ("C001", 3)]


def test_markdown_has_places_too(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(BASE, encoding="utf-8")
    path = tmp_path / "base.md"
    path.write_text(to_markdown(load_constitution(tmp_path / "base.yaml")), encoding="utf-8")
    (hint,) = [finding for finding in lint_file(path) if finding.rule == "C013"]
    line = path.read_text(encoding="utf-8").splitlines()[hint.problem.line - 1]
    assert "Is (A) kinder?" in line


def test_prose_has_places_too(tmp_path: Path) -> None:
    path = tmp_path / "prose.md"
    path.write_text("# Ours\n\nBe kind to people.\n\nSpeak slowly to the elderly.\n", encoding="utf-8")
    (found,) = [finding for finding in lint_file(path) if finding.rule == "C005"]
    assert found.problem.line == 5


def test_a_file_that_is_wrong_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("name: bad\n", encoding="utf-8")
    with pytest.raises(InputError):
        lint_file(path)


@pytest.mark.parametrize("kind", ["different", "alike", "equal"])
def test_a_thousand_principles_take_less_than_five_seconds(kind: str) -> None:
    draw = random.Random(0)
    known = [f"{first}{middle}{last}" for first in "bdfgklmnprst" for middle in "aeiou" for last in "bdgklmnrst"]
    common = " ".join(known[:10])

    def text(number: int) -> str:
        if kind == "different":
            return "Please " + " ".join(draw.choices(known, k=20)) + "."
        return f"Please {common} {known[number % 500] if kind == 'alike' else ''} {known[-1]}."

    principles = tuple(Principle(id=f"p{number}", text=text(number)) for number in range(1000))
    constitution = Constitution(name="large", version="1.0", principles=principles)
    start = time.perf_counter()
    found = lint(constitution, others=[constitution])
    assert time.perf_counter() - start < 5
    # Some of the words made up are words all the same ("not"), so a few texts are not alike.
    pairs = sum(finding.rule in ("C001", "C002") for finding in found)
    assert {"different": 0 <= pairs < 10, "alike": pairs > 990, "equal": pairs == 999}[kind]
