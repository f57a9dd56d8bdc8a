"""Reading constitutions: good files, shipped names, and bad files, each refused at its line within a second."""

import importlib.util
import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cai.constitution import Constitution, load_constitution, parse
from cai.constitution.parse import read_constitution, shipped
from cai.errors import InputError, Problem, guarded
from cai.strict_yaml import load

ROOT = Path(__file__).parents[2]
HARMLESS = ROOT / "constitutions" / "harmless.yaml"
MOST_SECONDS = 1.0

GOOD = """\
# A comment.
name: mine
version: "1.0"
principles:
  - id: calm
    text: Stay calm.
  - id: short
    text: Be brief.
    tags: [tone]
    weight: 2
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(content: str | bytes, name: str = "mine.yaml") -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


# Good files.


def test_a_small_file(write: Callable[..., Path]) -> None:
    constitution = load_constitution(write(GOOD))
    assert [principle.id for principle in constitution.principles] == ["calm", "short"]
    assert constitution["short"].weight == 2.0
    assert constitution["short"].tags == ("tone",)
    assert constitution.digest == load_constitution(str(write(GOOD, "other.YML"))).digest


def test_layout_does_not_change_the_digest(write: Callable[..., Path]) -> None:
    other = """\
{principles: [{text: "Stay calm.", id: 'calm'},
              {weight: 2.0, id: short, tags: ["tone"], text: Be brief.}],   # another comment
 version: '1.0', "name": mine}
"""
    digest = load_constitution(write(GOOD)).digest
    assert load_constitution(write(other, "b.yaml")).digest == digest
    assert load_constitution(write(GOOD.replace("\n", "\r\n"), "c.yaml")).digest == digest
    assert (
        load_constitution(write(GOOD.replace("Stay calm.", ">-\n      Stay\n      calm."), "d.yaml")).digest == digest
    )
    assert load_constitution(write(GOOD.replace("calm.", "calm!"), "e.yaml")).digest != digest


def test_template_syntax_in_principles_arrives_as_text(write: Callable[..., Path]) -> None:
    odd = "{{7*7}} {text} {% x %} <|im_start|> ${a}"
    constitution = load_constitution(write(GOOD.replace("Stay calm.", f"'{odd}'")))
    assert constitution["calm"].text == odd
    assert constitution["calm"].critique.endswith(odd)


def test_a_thousand_principles_load_in_a_second(write: Callable[..., Path]) -> None:
    path = write(GOOD + "".join(f"  - id: p{i}\n    text: Be kind to person number {i}.\n" for i in range(1000)))
    start = time.perf_counter()
    assert len(load_constitution(path).principles) == 1002
    assert time.perf_counter() - start < MOST_SECONDS


# Names and paths.


def test_a_bare_name_is_the_shipped_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "harmless").mkdir()
    assert load_constitution("harmless") == load_constitution(HARMLESS)


def test_a_wheel_has_them_inside_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site-packages" / "cai"
    (package / "_constitutions").mkdir(parents=True)
    (package / "_constitutions" / "mine.yaml").write_text(GOOD)
    (package.parent / "constitutions").mkdir()
    (package.parent / "constitutions" / "strange.yaml").write_text(GOOD)
    monkeypatch.setattr(parse, "_PACKAGE", package)
    assert set(shipped()) == {"mine"}
    assert load_constitution("mine").name == "mine"


def test_nothing_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parse, "_PACKAGE", tmp_path / "cai")
    assert shipped() == {}
    with pytest.raises(InputError, match="no shipped constitution of that name"):
        load_constitution("harmless")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("harmles", "no such file, and no shipped constitution of that name; did you mean 'harmless'? (shipped are"),
        ("qqq", "use one of harmless"),
        ("none.yaml", "no such file; check the path"),
        ("none/harmless", "no such file; check the path"),
        ("x" * 300, "too long"),
        ("a\x00b.yaml", "check the path"),
        ("", "a folder"),
        (".", "a folder"),
        ("constitutions", "a folder"),
        ("mine.json", "not a YAML file; name a file that ends in .yaml"),
        ("mine", "not a YAML file"),
    ],
)
def test_what_is_no_constitution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, said: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "constitutions").mkdir()
    for name in ("mine", "mine.json"):
        (tmp_path / name).write_text(GOOD)
    with pytest.raises(InputError) as caught:
        load_constitution(source)
    assert said in str(caught.value)


def test_a_file_that_is_closed_to_us(write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(GOOD)

    def closed(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")  # as root, chmod closes nothing

    monkeypatch.setattr(Path, "open", closed)
    with pytest.raises(InputError, match="can't be read: Permission denied"):
        load_constitution(path)


# Bad files. Each: what to replace in GOOD by what, the line of the first problem, a part of its message.

BAD: dict[str, tuple[str, str, int, str]] = {
    "duplicate id": ("id: short", "id: calm", 7, "the id 'calm' is there already, in line 5"),
    "duplicate key": ("    weight: 2", "    tags: [x]", 10, "the key 'tags' is there already, in line 9"),
    "duplicate top key": ("name: mine", "version: '2'", 3, "the key 'version' is there already, in line 2"),
    "unknown key": ("    weight: 2", "    wieght: 2", 10, "unknown key 'wieght'; did you mean 'weight'?"),
    "unknown top key": ("name: mine", "name: mine\nprinciple: []", 3, "did you mean 'principles'?"),
    "no name": ("name: mine\n", "", 2, "'name' is missing"),
    "no principles": (GOOD[GOOD.index("principles") :], "", 2, "'principles' is missing"),
    "empty principles": (GOOD[GOOD.index("\n  - id") :], " []\n", 4, "there is no principle; write at least one"),
    "principles as a mapping": (GOOD[GOOD.index("\n  - id") :], " {a: 1}\n", 4, "write a list"),
    "a principle as a text": ("id: calm\n    text: Stay calm.", "Stay calm.", 5, "principles.0"),
    "no id": ("id: calm\n    text", "text", 5, "'principles.0.id' is missing"),
    "no text": ("    text: Stay calm.\n", "", 5, "'principles.0.text' is missing"),
    "empty text": ("Stay calm.", "''", 6, "principles.0.text"),
    "blank text": ("Stay calm.", "'  '", 6, "principles.0.text"),
    "null text": (" Stay calm.", "", 6, "principles.0.text"),
    "text as a list": ("Stay calm.", "[Stay, calm]", 6, "valid string"),
    "bad id": ("id: calm", "id: Stay Calm", 5, "pattern"),
    "id with a path": ("id: calm", "id: ../../etc", 5, "pattern"),
    "version as a number": ('"1.0"', "1.0", 3, "write a text, in quotes"),
    "weight zero": ("weight: 2", "weight: 0", 10, "greater than 0"),
    "weight as a text": ("weight: 2", "weight: '2'", 10, "valid number"),
    "weight infinite": ("weight: 2", "weight: .inf", 10, "'.inf'"),
    "tag unquoted no": ("[tone]", "[no]", 9, "an unquoted 'no'"),
    "tags as a text": ("[tone]", "tone", 9, "write a list"),
    "tag with a space": ("[tone]", "[a tone]", 9, "principles.1.tags.0"),
    "unknown placeholder": (
        "name: mine",
        "name: mine\nwordings: {critique: 'See {txt}'}",
        3,
        "unknown placeholder {txt}",
    ),
    "evaluated template": ("name: mine", "name: mine\nwordings: {critique: '{{7*7}}'}", 3, "must be in it once"),
    "half a few-shot": ("name: mine", "name: mine\nfew_shots:\n- {prompt: a}", 4, "'few_shots.0.critique' is missing"),
    "anchor": ("text: Stay", "text: &a Stay", 6, "an anchor (&a)"),
    "alias": ("Be brief.", "*a", 8, "an alias (*a)"),
    "merge": ("    weight: 2", "    <<: {weight: 2}", 10, "a merge key"),
    "python object": ("Stay calm.", "!!python/object/apply:os.system ['true']", 6, "a tag"),
    "tab": ("    tags", "\ttags", 9, "a tab"),
    "NUL": ("Be brief.", "Be\x00brief.", 8, "U+0000"),
    "second document": ("  - id: short", "---\n  - id: short", 7, "a second document"),
    "deep": ("[tone]", "[" * 3000 + "]" * 3000, 9, "nested more than 32 deep"),
    "a colon in a text": ("Stay calm.", "Stay calm: always.", 6, "bad YAML"),
    "a quote left open": ("Stay calm.", '"Stay calm.', 11, "it begins in line 6"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused_at_their_line(case: str, write: Callable[..., Path]) -> None:
    old, new, line, said = BAD[case]
    assert old in GOOD
    path = write(GOOD.replace(old, new, 1))
    start = time.perf_counter()
    with pytest.raises(InputError) as caught:
        load_constitution(path)
    assert time.perf_counter() - start < MOST_SECONDS
    first = str(caught.value.problems[0])
    assert first.startswith(f"{path}:{line}:"), first
    assert said in first


@pytest.mark.parametrize(
    "raw",
    [b"", b"# nothing\n", b"just words\n", b"- a\n", b"3\n", GOOD.encode("utf-16"), b"\xff" + GOOD.encode()],
    ids=["empty", "comment", "words", "list", "number", "UTF-16", "not UTF-8"],
)
def test_files_that_are_something_else(raw: bytes, write: Callable[..., Path]) -> None:
    with pytest.raises(InputError) as caught:
        load_constitution(write(raw))
    assert caught.value.problems[0].line == 1


def test_all_problems_of_a_file_are_told_in_their_order(write: Callable[..., Path]) -> None:
    bad = GOOD.replace("name: mine\n", "").replace("weight", "wieght").replace("Stay calm.", "3")
    with pytest.raises(InputError) as caught:
        load_constitution(write(bad))
    assert [(problem.line, problem.col) for problem in caught.value.problems] == [(2, 1), (5, 11), (9, 5)]


def test_a_command_ends_with_2_and_no_traceback(write: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    path = write(GOOD.replace("weight", "wieght"))
    assert guarded(lambda: load_constitution(path)) == 2
    assert capsys.readouterr().err == f"{path}:10:5: unknown key 'wieght'; did you mean 'weight'?\n"


# Mutations of the shipped file.

TEXT = HARMLESS.read_text(encoding="utf-8")
ODD = [
    *"\t\x00&*!|>'\"%@`\\{}[],:?#-~\n\r\ufeff\u2028é",
    "<<: {a: 1}\n",
    "!!python/name:os.system ",
    "&a ",
    "*a",
    "---\n",
    "...\n",
    "%YAML 1.1\n",
    '"\\UFFFFFFFF"',
    "no",
    "1e999",
    "{{7*7}}",
    "{text}",
    "- ",
    "  ",
    "? ",
    "[" * 40,
]
AT = st.integers(0, len(TEXT))
MUTATION = st.one_of(
    st.tuples(st.just("insert"), AT, st.sampled_from(ODD)),
    st.tuples(st.just("delete"), AT, st.integers(1, 200)),
    st.tuples(st.just("copy"), AT, AT),
    st.tuples(st.just("end"), AT, st.just(0)),
)


def mutated(text: str, mutation: tuple[str, int, int | str]) -> str:
    kind, at, what = mutation
    if isinstance(what, str):
        return text[:at] + what + text[at:]
    if kind == "delete":
        return text[:at] + text[at + what :]
    if kind == "copy":
        return text[:at] + text[what : what + 100] + text[at:]
    return text[:at]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(MUTATION, min_size=1, max_size=4))
def test_a_mutated_file_is_read_or_refused(mutations: list[tuple[str, int, int | str]]) -> None:
    text = TEXT
    for mutation in mutations:
        text = mutated(text, mutation)
    problems: list[Problem] = []
    found: Constitution | None = None
    try:
        found = read_constitution(load(text, name="x.yaml"))
    except InputError as error:
        problems = error.problems
    lines = text.count("\n") + text.count("\r") + 1
    assert all(1 <= problem.line <= lines and problem.col >= 1 and str(problem).encode() for problem in problems)
    assert problems if found is None else len(found.digest) == 64


# The shipped files.

EVERY = sorted(shipped())


def test_harmless_is_shipped() -> None:
    assert "harmless" in EVERY
    assert len(load_constitution("harmless").principles) >= 16


@pytest.mark.parametrize("name", EVERY)
def test_a_shipped_constitution_says_everything_itself(name: str) -> None:
    source = load(shipped()[name]).data
    constitution = load_constitution(name)
    assert constitution.name == name
    assert constitution.licence == "Apache-2.0"
    assert constitution.description
    for given_principle in source["principles"]:
        assert {"id", "title", "text", "critique", "revision", "comparison", "contrast", "tags"} <= set(given_principle)
    for principle in constitution.principles:
        assert principle.comparison.endswith("?")
        assert principle.contrast != principle.text
        words = (principle.critique, principle.revision, principle.comparison, principle.contrast)
        assert len(set(words)) == 4
        assert all(len(wording) < 400 for wording in (principle.text, *words)), (
            f"too long for a small model: {principle.id}"
        )
    titles = [principle.title for principle in constitution.principles]
    assert len(set(titles)) == len(titles)


NAMES_AN_OPTION = re.compile(
    r"\([AB12]\)|\b(?:options?|answers?|responses?) (?:[A-D]|\d)\b|\b(?:first|second|last)\b", re.I
)


@pytest.mark.parametrize("name", EVERY)
def test_a_comparison_hints_at_neither_answer(name: str) -> None:
    for principle in load_constitution(name).principles:
        assert not NAMES_AN_OPTION.search(principle.comparison), principle.id
        assert "answers" in principle.comparison, "both answers are meant"


@pytest.mark.parametrize(
    "hint", ["Is (A) better?", "Is answer B kinder?", "Is the first one kinder?", "Take option 2."]
)
def test_a_hint_would_be_seen(hint: str) -> None:
    assert NAMES_AN_OPTION.search(hint)


@pytest.mark.parametrize("name", EVERY)
def test_a_shipped_few_shot_shows_a_change(name: str) -> None:
    examples = load_constitution(name).few_shots
    assert examples
    for example in examples:
        assert example.revision != example.response
        assert example.critique not in (example.response, example.revision)
        assert "{" not in "".join(example.model_dump().values())
    assert len({example.prompt for example in examples}) == len(examples)


@pytest.mark.parametrize("name", EVERY)
def test_editors_find_the_schema(name: str) -> None:
    assert shipped()[name].read_text("utf-8").splitlines()[0] == "# yaml-language-server: $schema=schema.json"


def test_the_schema_is_current() -> None:
    spec = importlib.util.spec_from_file_location("constitution_schema", ROOT / "scripts" / "constitution_schema.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    text = script.TARGET.read_text(encoding="utf-8")
    assert text == script.schema_text(), "run: python scripts/constitution_schema.py"
    schema = json.loads(text)
    assert schema["required"] == ["name", "version", "principles"]
    assert schema["additionalProperties"] is False
    assert schema["$defs"]["Principle"]["required"] == ["id", "text"]
