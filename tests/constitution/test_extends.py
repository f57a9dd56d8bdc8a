"""`extends`: what is taken over, changed, added and removed, and what is wrong about it, by line."""

from pathlib import Path
from textwrap import dedent

import pytest

from cai.constitution import Constitution, load_constitution
from cai.errors import InputError

BASE = """\
name: base
version: "1"
licence: CC0-1.0
description: The base.
principles:
  - id: calm
    text: Stay calm.
    critique: Where is it not calm?
    tags: [manner]
    weight: 3
  - id: kind
    text: Be kind.
  - id: brief
    text: Be brief.
    checker: max_words:20
few_shots:
  - prompt: Hi
    response: What?
    critique_request: Is it kind?
    critique: It is not.
    revision_request: Make it kind.
    revision: Hello!
"""


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dedent(text), encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, "base.yaml", BASE)
    return tmp_path


def load(folder: Path, body: str, name: str = "mine.yaml") -> Constitution:
    return load_constitution(write(folder, name, f'name: mine\nversion: "2"\n{dedent(body)}'))


def problems(folder: Path, body: str) -> list[str]:
    with pytest.raises(InputError) as caught:
        load(folder, body)
    return [str(problem).removeprefix(f"{folder}/") for problem in caught.value.problems]


def test_all_is_taken_over_but_name_version_and_description(folder: Path) -> None:
    mine = load(folder, "extends: base.yaml\n")
    base = load_constitution(folder / "base.yaml")
    assert mine.principles == base.principles
    assert mine.few_shots == base.few_shots
    assert (mine.name, mine.version, mine.licence, mine.description) == ("mine", "2", "CC0-1.0", "")
    assert mine.digest != base.digest


def test_override_add_remove(folder: Path) -> None:
    mine = load(
        folder,
        """\
        extends: ./base.yaml
        remove: [kind]
        few_shots: []
        principles:
          - id: fair
            text: Be fair.
          - id: calm
            weight: 1
        """,
    )
    assert [item.id for item in mine.principles] == ["calm", "brief", "fair"]
    assert (mine["calm"].weight, mine["calm"].critique, mine["calm"].tags) == (
        1.0,
        "Where is it not calm?",
        ("manner",),
    )
    assert mine.few_shots == ()


def test_the_digest_is_that_of_the_same_thing_in_one_piece(folder: Path) -> None:
    mine = load(folder, "extends: base.yaml\nremove: [kind, brief]\nfew_shots: []\n")
    whole = load(
        folder,
        """\
        licence: CC0-1.0
        principles:
          - {id: calm, text: Stay calm., critique: "Where is it not calm?", tags: [manner], weight: 3}
        """,
        "whole.yaml",
    )
    assert mine.digest == whole.digest


def test_a_new_text_does_away_with_the_old_wordings(folder: Path) -> None:
    mine = load(folder, "extends: base.yaml\nprinciples: [{id: calm, text: Breathe.}]\n")
    assert mine["calm"].critique.endswith("against this: Breathe.")
    assert mine["calm"].weight == 3


def test_wordings_reach_what_is_taken_over(folder: Path) -> None:
    mine = load(folder, 'extends: base.yaml\nwordings: {critique: "Is this so: {text}"}\n')
    assert mine["kind"].critique == "Is this so: Be kind."
    assert mine["calm"].critique == "Where is it not calm?"


def test_a_chain_and_a_shipped_one(folder: Path) -> None:
    write(folder, "deep/middle.yaml", 'name: middle\nversion: "1"\nextends: ../base.yaml\nremove: [brief]\n')
    assert [item.id for item in load(folder, "extends: deep/middle.yaml\n").principles] == ["calm", "kind"]
    assert len(load(folder, "extends: harmless\n").principles) == len(load_constitution("harmless").principles)


def test_two_parents(folder: Path) -> None:
    other = BASE.replace("name: base", "name: other").replace("Be kind.", "Be kinder.")
    write(folder, "other.yaml", other)
    differ = "mine.yaml:3:22: base and other both have 'kind', and they differ; override it or remove it here"
    assert problems(folder, "extends: [base.yaml, other.yaml]\n") == [differ]
    both = "extends: [base.yaml, other.yaml]\n"
    assert len(load(folder, both + "remove: [kind]\n").principles) == 2
    settled = load(folder, both + "principles: [{id: kind, text: Be good.}]\n")
    assert [item.text for item in settled.principles] == ["Stay calm.", "Be good.", "Be brief."]


def test_markdown_can_extend(folder: Path) -> None:
    from cai.constitution.markdown import MARK

    text = f"{MARK}\n\n# Mine\n\n```yaml\nname: mine\nversion: '1'\nextends: base.yaml\n```\n\n## Fair\n\nBe fair.\n\n"
    path = write(folder, "mine.md", f"{text}```yaml\nid: fair\n```\n")
    assert [item.id for item in load_constitution(path).principles] == ["calm", "kind", "brief", "fair"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("extends: harmles", "mine.yaml:3:10: extends 'harmles': no such file, and no shipped constitution"),
        ("extends: nowhere.yaml", "mine.yaml:3:10: extends 'nowhere.yaml': no such file; check the path"),
        ("extends: mine.yaml", "mine.yaml:3:10: extends itself: mine.yaml -> mine.yaml; break the circle"),
        ("extends: /etc/passwd", "mine.yaml:3:10: extends '/etc/passwd': an absolute path"),
        ("extends: .", "mine.yaml:3:10: extends '.': "),
        ("extends: []", "mine.yaml:3:10: extends nothing; name one, or remove the key"),
        ("extends: 3", "mine.yaml:3:10: extends: not a name"),
        ("extends: [base.yaml, 7]", "mine.yaml:3:22: extends: not a name"),
        ("extends: base.yaml\nremove: [clam]", "mine.yaml:4:10: remove: there is no 'clam' to remove; did you mean"),
        ("extends: base.yaml\nremove: [calm, calm]", "mine.yaml:4:16: remove: 'calm' is named twice; name it once"),
        ("extends: base.yaml\nremove: calm", "mine.yaml:4:9: remove: not a list; write a list of ids"),
        ("extends: base.yaml\nremove: [calm, kind, brief]", "mine.yaml:3:10: principles: there is no principle"),
        ("remove: [calm]", "mine.yaml:3:1: 'remove' without 'extends'; say what it extends"),
        ("extend: base.yaml", "mine.yaml:3:1: unknown key 'extend'; did you mean 'extends'?"),
        ("extends: base.yaml\nprinciples: 3", "mine.yaml:4:13: principles: "),
        ("extends: base.yaml\nprinciples: [{id: new}]", "mine.yaml:4:14: 'principles.3.text' is missing; add it"),
        ("extends: base.yaml\nprinciples: [{id: calm, wieght: 3}]", "mine.yaml:4:25: unknown key 'wieght'; did you"),
        ("extends: base.yaml\nprinciples: [{id: calm}, {id: calm}]", "mine.yaml:4:31: the id 'calm' is there already"),
    ],
)
def test_what_is_wrong_is_named_by_its_line(folder: Path, body: str, said: str) -> None:
    found = problems(folder, body + "\n")
    assert any(problem.startswith(said) for problem in found), found


def test_a_fault_of_a_parent_is_named_in_the_parent(folder: Path) -> None:
    write(folder, "broken.yaml", 'name: broken\nversion: "1"\nprinciples:\n  - id: a\n    text: [\n')
    assert problems(folder, "extends: broken.yaml\n")[0].startswith("broken.yaml:")
    write(folder, "wrong.yaml", 'name: wrong\nversion: "1"\nprinciples:\n  - id: a\n    text: Be.\n    weight: -1\n')
    assert problems(folder, "extends: wrong.yaml\n") == [
        "wrong.yaml:6:13: principles.0.weight: Input should be greater than 0; mend the value"
    ]


def test_a_long_circle_and_a_long_chain(folder: Path) -> None:
    write(folder, "a.yaml", 'name: a\nversion: "1"\nextends: b.yaml\n')
    write(folder, "b.yaml", 'name: b\nversion: "1"\nextends: a.yaml\n')
    assert "extends itself: a.yaml -> b.yaml -> a.yaml" in problems(folder, "extends: a.yaml\n")[0]
    for number in range(30):
        write(folder, f"c{number}.yaml", f'name: c\nversion: "1"\nextends: c{number + 1}.yaml\n')
    assert "more than 16 files" in problems(folder, "extends: c0.yaml\n")[0]
