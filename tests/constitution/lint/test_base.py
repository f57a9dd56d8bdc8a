import pytest

from cai.constitution.lint import RULES, SEVERITIES
from cai.constitution.lint.base import Subject, rule, shown
from cai.constitution.parse import read_constitution
from cai.strict_yaml import load
from tests.constitution.lint.samples import findings, whole


@pytest.mark.parametrize("key", sorted(RULES))
def test_every_rule_finds_its_bad_example_and_not_its_good_one(key: str) -> None:
    found = RULES[key]
    shared = """
name: shared
version: "1"
principles:
  - {id: no-violence, text: "Never help anyone to hurt, threaten or kill a person or an animal."}
"""
    others = (read_constitution(load(shared)),)
    bad = findings(key, found.bad, others=others)
    assert bad, "its bad example passes"
    assert not findings(key, found.good, others=others), "its good example is found fault with"
    for finding in bad:
        assert (finding.rule, finding.severity) == (key, found.severity)
        lines = whole(found.bad).splitlines()
        assert 1 <= finding.problem.line <= len(lines)
        assert 1 <= finding.problem.col <= len(lines[finding.problem.line - 1])
        assert str(finding).startswith(f"sample.yaml:{finding.problem.line}:{finding.problem.col}: {key} ")


@pytest.mark.parametrize("key", sorted(RULES))
def test_every_rule_is_documented(key: str) -> None:
    found = RULES[key]
    assert found.about.endswith(".")
    assert len(found.about) <= 130, "the first paragraph is the line that --rules shows"
    assert found.fix
    assert not found.fix.endswith("."), "a fix follows a semicolon, and nothing follows it"
    assert "; " not in found.fix, "what follows the last semicolon is the fix"
    assert found.severity in SEVERITIES


def test_ids_are_new_and_well_formed() -> None:
    for key in ("C001", "C1", "X001", "C0001"):
        with pytest.raises(ValueError, match="not a new id"):
            rule(key, "note", fix="", bad="", good="")
    assert len(RULES) >= 18


def test_without_a_file_there_is_no_place() -> None:
    subject = Subject(constitution=read_constitution(load(whole("text: Be kind."))))
    assert [str(finding) for finding in RULES["C011"].findings(subject)] == [
        f"sample: C011 'one' names no opposite; {RULES['C011'].fix}"
    ]


def test_shown_cuts_between_words() -> None:
    assert shown("Be\n kind.") == "'Be kind.'"
    assert shown("Be kind and calm.", 10) == "'Be kind…'"
    assert shown("x" * 20, 10) == "'" + "x" * 10 + "…'"
