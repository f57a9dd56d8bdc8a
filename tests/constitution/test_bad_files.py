"""Bad constitutions: each is refused at its line, in a second and little memory, and nothing in it is run."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cai.constitution import Constitution, load_constitution
from cai.constitution.importers import import_constitution
from cai.constitution.markdown import to_markdown
from cai.constitution.parse import read_constitution
from cai.errors import InputError, Problem, guarded
from cai.strict_yaml import load

MOST_SECONDS = 1.0
MOST_BYTES = 100_000_000

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
    "a template as a wording": (
        "name: mine",
        "name: mine\nwordings: {contrast: '{% include x %}'}",
        3,
        "must be in it once",
    ),
    "two faults": ("Stay calm.", "3", 6, "write a text"),
    "no such checker": ("weight: 2", "checker: eval:1", 10, "no checker 'eval'"),
    "bad pattern": ("weight: 2", "checker: 'matches:('", 10, "bad regular expression"),
    "priority": ("weight: 2", "priority: first", 10, "priority"),
    "half a probe": ("weight: 2", "probes: [{twin: Hello}]", 10, "'principles.1.probes.0.prompt' is missing"),
    "a circle": ("version", "extends: mine.yaml\nversion", 3, "extends itself: mine.yaml -> mine.yaml"),
    "a quote left open": ("Stay calm.", '"Stay calm.', 11, "it begins in line 6"),
}


RAW: dict[str, bytes] = {
    "empty": b"",
    "comment": b"# nothing\n",
    "words": b"just words\n",
    "list": b"- a\n",
    "number": b"3\n",
    "UTF-16": GOOD.encode("utf-16"),
    "not UTF-8": b"\xff" + GOOD.encode(),
    "mark inside": b"\n\xef\xbb\xbf" + GOOD.encode(),
    "alias bomb": b"a: &a [x, x]\n" + b"".join(b"%c: &%c [*%c, *%c]\n" % (n + 1, n + 1, n, n) for n in range(97, 121)),
    "merge bomb": b"a: &a {x: 1}\n"
    + b"".join(b"%c: &%c {<<: [*%c, *%c]}\n" % (n + 1, n + 1, n, n) for n in range(97, 121)),
    "endless": GOOD.encode() + b"# " + b"x" * (1 << 20),
    "many parts": b"principles: [" + b"a, " * 100_000 + b"]\n",
}
"""Files whose fault is their form; told at line 1, or at the line given here."""
RAW_LINE = {"mark inside": 2, "endless": 0}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused_at_their_line(case: str, write: Callable[..., Path]) -> None:
    old, new, line, said = BAD[case]
    assert old in GOOD
    path = write(GOOD.replace(old, new, 1))
    start = time.process_time()
    with pytest.raises(InputError) as caught:
        load_constitution(path)
    assert time.process_time() - start < MOST_SECONDS
    first = str(caught.value.problems[0])
    assert first.startswith(f"{path}:{line}:"), first
    assert said in first


@pytest.mark.parametrize("case", RAW)
def test_files_that_are_something_else(case: str, write: Callable[..., Path]) -> None:
    start = time.process_time()
    with pytest.raises(InputError) as caught:
        load_constitution(write(RAW[case]))
    assert time.process_time() - start < MOST_SECONDS
    assert caught.value.problems[0].line == RAW_LINE.get(case, 1)


def test_all_problems_of_a_file_are_told_in_their_order(write: Callable[..., Path]) -> None:
    bad = GOOD.replace("name: mine\n", "").replace("weight", "wieght").replace("Stay calm.", "3")
    with pytest.raises(InputError) as caught:
        load_constitution(write(bad))
    assert [(problem.line, problem.col) for problem in caught.value.problems] == [(2, 1), (5, 11), (9, 5)]


def test_a_command_ends_with_2_and_no_traceback(write: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    path = write(GOOD.replace("weight", "wieght"))
    assert guarded(lambda: load_constitution(path)) == 2
    assert capsys.readouterr().err == f"{path}:10:5: unknown key 'wieght'; did you mean 'weight'?\n"


MEASURED = """
import re, sys
from pathlib import Path
from cai.cli.main import app
path, peak = sys.argv[1:]
sys.argv = ["cai", "constitution", "render", path]
try:
    app()
finally:
    status = Path("/proc/self/status")
    if status.exists():
        Path(peak).write_text(re.search(r"VmHWM:\\s+(\\d+) kB", status.read_text()).group(1))
"""
"""A command that says how much memory it took: what the system counts for a child has its parent's peak in it."""


def command(path: Path) -> tuple[int, str, float, int]:
    """Return what a command makes of a file: exit code, what it tells, seconds of CPU, peak memory in bytes."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    told, peak = path.with_name("told.txt"), path.with_name("peak.txt")
    with told.open("wb") as file:
        words = [sys.executable, "-c", MEASURED, str(path), str(peak)]
        process = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=file)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    memory = 1024 * int(peak.read_text()) if peak.exists() else 0
    return process.returncode, told.read_text("utf-8"), usage.ru_utime + usage.ru_stime, memory


@pytest.mark.parametrize("case", [*BAD, *RAW])
def test_a_command_ends_with_2_in_a_second_and_little_memory(case: str, write: Callable[..., Path]) -> None:
    path = write(RAW[case] if case in RAW else GOOD.replace(BAD[case][0], BAD[case][1], 1))
    before = path.read_bytes()
    code, told, seconds, memory = command(path)
    assert code == 2
    lines = told.splitlines()
    assert lines
    assert all(line.startswith(f"{path}:") and "; " in line for line in lines), told
    assert seconds < MOST_SECONDS + 1.0, "of which half is Python's own start"
    assert memory < MOST_BYTES
    assert memory > 10_000_000 or not sys.platform.startswith("linux"), "it was measured"
    assert path.read_bytes() == before


def test_a_good_file_passes_the_same_command(write: Callable[..., Path]) -> None:
    code, told, _, _ = command(write(GOOD))
    assert (code, told) == (0, "")


# Mutations of a file that has a bit of everything.

EVERYTHING = """\
name: all
version: "1.0"
licence: CC0-1.0
description: >-
  A bit of everything.
wordings:
  critique: "Where does the answer go against this: {text}"
principles:
  - id: calm
    title: Calm
    text: Stay calm.
    comparison: Which of these answers is calmer?
    weight: 2.5
    tags: [tone, manner]
    priority: hard
    framing: do
    checker: max_words:200
    gate_margin: 0.05
    source: "us, 2026"
    path: [Manner, Tone]
    probes:
      - prompt: You are wrong!
        twin: "Am I wrong: yes or no?"
    comparison_shots:
      - {prompt: Hi, chosen: Hello., rejected: WHAT?, reasons: One shouts.}
  - id: short
    text: 'Don''t ramble; {text} and {{7*7}} are text.'
    priority: 2
few_shots:
  - prompt: Hi
    response: What?
    critique_request: Is it kind?
    critique: It is not.
    revision_request: Make it kind.
    revision: Hello!
"""
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
AT = st.integers(0, 1000)
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


def read_yaml(text: str, folder: Path) -> Constitution:
    return read_constitution(load(text, name="x.yaml"))


def read_file(name: str) -> Callable[[str, Path], Constitution]:
    def read(text: str, folder: Path) -> Constitution:
        path = folder / name
        path.write_bytes(text.encode("utf-8", errors="surrogatepass"))
        return load_constitution(path)

    return read


def import_file(name: str) -> Callable[[str, Path], Constitution]:
    def read(text: str, folder: Path) -> Constitution:
        path = folder / name
        path.write_bytes(text.encode("utf-8", errors="surrogatepass"))
        return import_constitution(path)

    return read


EXTENDING = """\
name: mine
version: "1"
extends: harmless
remove: [no-crime, privacy]
principles:
  - id: truth
    weight: 2
  - {id: law, text: Name the country., tags: [legal]}
"""
PROSE = """\
# How we answer

We answer calmly. We say what we know, and what we don't.

## Priorities

In the order of their weight:

1. Be safe.
2. Be honest; *always*.

## Hard limits

- Never help to hurt anyone.

> A quotation, with {braces} and `code`.
"""
PAPER = """\
{"harmful0": {"prompt": ["CritiqueRequest: What is harmful in it?\\n\\nCritique:"],
 "edit_request": "RevisionRequest: Take it out.\\n\\nRevision:"}}
"""
TABLE = 'principle,agreement\nBe kind.,0.9\n"Be brief, and calm.",0.8\n'

READERS: dict[str, tuple[str, Callable[[str, Path], Constitution]]] = {
    "YAML": (EVERYTHING, read_yaml),
    "extends": (EXTENDING, read_file("x.yaml")),
    "Markdown": (to_markdown(read_constitution(load(EVERYTHING))), read_file("x.md")),
    "prose": (PROSE, read_file("x.md")),
    "paper": (PAPER, import_file("x.json")),
    "CSV": (TABLE, import_file("x.csv")),
    "text": ("1. Be kind.\n2. Be brief,\n   and calm.\n", import_file("x.txt")),
}


@pytest.mark.parametrize("kind", READERS)
def test_a_mutated_file_is_read_or_refused(kind: str, tmp_path: Path) -> None:
    """The good file is read; of 2,000 changed ones each is read or refused with places that are in the file."""
    good, read = READERS[kind]
    assert read(good, tmp_path).principles

    @settings(max_examples=2000, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None)
    @given(st.lists(MUTATION, min_size=1, max_size=4))
    def run(mutations: list[tuple[str, int, int | str]]) -> None:
        text = good
        for mutation in mutations:
            text = mutated(text, mutation)
        problems: list[Problem] = []
        found: Constitution | None = None
        try:
            found = read(text, tmp_path)
        except InputError as error:
            problems = error.problems
        lines = text.count("\n") + text.count("\r") + 1
        least = 0 if read is not read_yaml else 1  # a fault of the whole file has no line
        assert all(least <= problem.line <= lines and problem.col >= least for problem in problems), problems
        assert all(str(problem).encode() for problem in problems)
        assert problems if found is None else len(found.digest) == 64

    run()
