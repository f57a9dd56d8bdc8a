"""The files that `cai constitution new` writes, and what it refuses to write."""

import json
import re
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from cai.cli.command import ends_well
from cai.cli.constitution.new import new, template
from cai.constitution import ComparisonShot, Constitution, FewShot, Principle, Probe, load_constitution
from cai.constitution.lint import lint, lint_file
from cai.constitution.parse import load_tree, read_constitution, shipped
from cai.constitution.yaml_out import SCHEMA
from cai.strict_yaml import load, validate

app = typer.Typer()
app.command()(ends_well(new))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(word) for word in words])
    return result.exit_code, result.stdout, result.stderr


def test_the_template_loads_and_lints_clean(here: Path) -> None:
    code, said, told = run("kitchen")
    assert (code, said.splitlines()) == (0, ["kitchen.yaml", "schema.json"])
    assert "cai constitution lint kitchen.yaml" in told
    constitution = load_constitution(here / "kitchen.yaml")
    assert constitution.name == "kitchen"
    others = [load_constitution(name) for name in shipped()]
    assert lint(constitution, tree=load_tree("kitchen.yaml"), others=others) == []


def test_the_template_shows_what_there_is() -> None:
    constitution = validate(Constitution, load(template("kitchen")))
    hard = [item for item in constitution.principles if item.priority == "hard"]
    assert [bool(item.checker) for item in hard] == [True]
    assert len(constitution.principles) == 3
    assert all(probe.twin for item in constitution.principles for probe in item.probes)
    assert all(item.probes for item in constitution.principles)
    assert constitution.few_shots
    assert constitution.comparison_shots


def test_every_field_is_in_the_template_under_a_comment() -> None:
    lines = template("kitchen").splitlines()
    keys = {match.group(1) for line in lines if (match := re.match(r" *#?(?:- |  - )?(\w+):", line))}
    for part in (Constitution, Principle, FewShot, ComparisonShot, Probe):
        missing = set(part.model_fields) - keys
        assert not missing, f"{part.__name__}: {missing}"
    first = lines[: next(n for n, line in enumerate(lines) if "no-reader-data" in line)]
    for number, line in enumerate(first):
        if re.match(r"#?\w+:|    \w+:|  - id:", line):
            above = first[number - 1].lstrip(" -")
            assert above.startswith("# ") or not above, f"no comment above {line!r}"


def test_what_the_template_has_in_comments_works_too(here: Path) -> None:
    text = re.sub(r"(?m)^#(?=\S)(?! )", "", template("kitchen"))
    text = re.sub(r"(?m)^#(?=  \w+: \")", "", text)
    (here / "all.yaml").write_text(text, encoding="utf-8")
    constitution = read_constitution(load_tree("all.yaml"))
    assert "no-violence" in [item.id for item in constitution.principles], "extends is among them"
    assert "no-propaganda" not in [item.id for item in constitution.principles], "and remove"
    assert "{text}" in text
    assert constitution.wordings == Constitution.model_fields["wordings"].default, "the usual templates, as it says"


def test_the_schema_is_beside_it_and_one_that_is_there_stays(here: Path) -> None:
    run("kitchen")
    schema = json.loads((here / "schema.json").read_text("utf-8"))
    assert schema["title"] == "Constitution"
    assert (here / "kitchen.yaml").read_text("utf-8").startswith(SCHEMA + "\n")
    (here / "schema.json").write_text("mine")
    assert run("garden")[1].splitlines() == ["garden.yaml"]
    assert (here / "schema.json").read_text() == "mine"
    assert run("hall", "--out", here / "new" / "hall.yaml", "--no-schema")[0] == 0
    assert [item.name for item in (here / "new").iterdir()] == ["hall.yaml"]


@pytest.mark.parametrize("parent", list(shipped()))
def test_an_extension_loads_and_lints_clean(here: Path, parent: str) -> None:
    assert run("ours", "--extends", parent)[0] == 0
    own, old = load_constitution("ours.yaml"), load_constitution(parent)
    assert [item.id for item in own.principles] == [*(item.id for item in old.principles), "metric-units"]
    assert own.principles[0] == old.principles[0].model_copy(update={"weight": 2.0})
    assert [item for item in lint_file("ours.yaml") if item.severity != "note"] == []
    text = (here / "ours.yaml").read_text("utf-8")
    assert len(text.splitlines()) <= 16
    (here / "ours.yaml").write_text(text.replace("#remove", "remove"))
    assert old.principles[-1].id not in [item.id for item in load_constitution("ours.yaml").principles]


def test_an_extension_of_a_file_elsewhere(here: Path) -> None:
    run("base", "--out", "a b/base.yaml")
    assert run("ours", "--extends", "a b/base.yaml", "--out", "deep/er/ours.yaml")[0] == 0
    assert load_constitution("deep/er/ours.yaml").name == "ours"
    assert 'extends: "../../a b/base.yaml"' in (here / "deep/er/ours.yaml").read_text("utf-8")
    assert run("next", "--extends", here / "deep/er/ours.yaml")[0] == 0
    ids = [item.id for item in load_constitution("next.yaml").principles]
    assert ids[-2:] == ["metric-units", "metric-units-2"], "an id that is taken is not given again"


def test_what_is_there_is_not_written_over(here: Path) -> None:
    (here / "kitchen.yaml").write_text("mine")
    code, said, told = run("kitchen")
    assert (code, said) == (2, "")
    assert "kitchen.yaml: the file is there already; name another, or remove it" in told
    assert (here / "kitchen.yaml").read_text() == "mine"
    assert [item.name for item in here.iterdir()] == ["kitchen.yaml"]
    (here / "link.yaml").symlink_to("nowhere.yaml")
    assert run("link")[0] == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["My Rules"], "NAME: 'My Rules' can't be a name; use small letters, digits, - and _: my-rules"),
        (["../up"], "can't be a name; use small letters, digits, - and _: up"),
        (["über"], "can't be a name"),
        (["a" * 65], "can't be a name"),
        ([""], "can't be a name; use small letters, digits, - and _\n"),
        (["harmless"], "new my-harmless --extends harmless"),
        (["ours", "--out", "ours.txt"], "ours.txt: not a YAML file; name a file that ends in .yaml"),
        (["ours", "--out", "x" * 300 + ".yaml"], "can't be written"),
        (["ours", "--extends", "harmles"], "did you mean 'harmless'"),
        (["ours", "--extends", "none.yaml"], "none.yaml: no such file"),
    ],
)
def test_what_can_not_be_written_is_refused_and_nothing_is(here: Path, words: list[str], said: str) -> None:
    code, _, told = run(*words)
    assert code == 2
    assert said in told
    assert list(here.iterdir()) == []


def test_a_folder_that_is_a_file(here: Path) -> None:
    (here / "file").write_text("x")
    code, _, told = run("ours", "--out", "file/ours.yaml")
    assert code in (2, 5)
    assert "Traceback" not in told
