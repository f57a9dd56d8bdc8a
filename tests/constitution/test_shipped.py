"""The constitutions that come with cai, held to what `constitutions/README.md` promises of them."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from cai.constitution import Constitution, Principle, load_constitution
from cai.constitution.checkers import find_checker
from cai.constitution.lint import lint_file
from cai.constitution.markdown import from_markdown, to_markdown
from cai.constitution.parse import read_constitution, shipped
from cai.constitution.yaml_out import to_yaml
from cai.strict_yaml import load

ROOT = Path(__file__).parents[2]
PROMPTS = ROOT / "cai" / "data" / "prompts"
NAMES = [
    "balanced",
    "child-safety",
    "harmless",
    "helpful-honest-harmless",
    "honesty",
    "legal",
    "medical",
    "oversight",
]
WIDTH = 120
WORDINGS = ("critique", "revision", "comparison", "contrast")

each = pytest.mark.parametrize("name", NAMES)


def plain(text: str) -> str:
    """Small letters and single spaces, without punctuation: two texts that differ in nothing else are the same."""
    return " ".join(re.findall(r"[^\W_]+", text.casefold()))


def everything() -> Iterator[tuple[Constitution, Principle]]:
    for name in NAMES:
        constitution = load_constitution(name)
        for principle in constitution.principles:
            yield constitution, principle


def probes(constitution: Constitution) -> list[str]:
    """Every prompt and twin of a constitution."""
    pairs = [probe for principle in constitution.principles for probe in principle.probes]
    return [text for probe in pairs for text in (probe.prompt, probe.twin)]


def twice(texts: list[str]) -> list[str]:
    return [text for text, count in Counter(map(plain, texts)).items() if count > 1]


def test_these_are_shipped() -> None:
    assert sorted(shipped()) == NAMES


@each
def test_a_file_says_what_it_is(name: str) -> None:
    text = shipped()[name].read_text(encoding="utf-8")
    assert text.startswith("# yaml-language-server: $schema=schema.json\n# ")
    assert max(map(len, text.splitlines())) <= WIDTH
    assert not re.search(r"[^\S\n]\n|\t", text)
    constitution = load_constitution(name)
    assert constitution.name == name
    assert constitution.licence == "Apache-2.0"
    assert constitution.description.endswith(".")
    assert re.fullmatch(r"\d+\.\d+", constitution.version)


@each
def test_a_weight_has_a_reason(name: str) -> None:
    lines = shipped()[name].read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines):
        if line.strip().startswith("weight:"):
            assert "#" in line or lines[number - 1].strip().startswith("#"), f"line {number + 1}"


@each
def test_there_are_principles_and_probes_enough(name: str) -> None:
    constitution = load_constitution(name)
    assert len(constitution.principles) >= 10
    for principle in constitution.principles:
        assert len(principle.probes) >= 2, principle.id
        assert all(probe.twin and plain(probe.twin) != plain(probe.prompt) for probe in principle.probes), principle.id


@each
def test_neither_doing_nor_avoiding_stands_alone(name: str) -> None:
    framings = Counter(principle.framing for principle in load_constitution(name).principles)
    assert set(framings) == {"do", "avoid"}
    assert min(framings.values()) >= 0.2 * framings.total()


@each
def test_no_tag_is_used_once(name: str) -> None:
    used = Counter(tag for principle in load_constitution(name).principles for tag in principle.tags)
    assert used
    assert not [tag for tag, count in used.items() if count < 2]


@each
def test_hard_is_the_exception(name: str) -> None:
    principles = load_constitution(name).principles
    hard = [principle for principle in principles if principle.priority == "hard"]
    assert len(hard) <= 0.4 * len(principles)


@each
def test_examples_show_both_stages(name: str) -> None:
    constitution = load_constitution(name)
    assert len(constitution.few_shots) >= 2
    assert len(constitution.comparison_shots) >= 2
    for shot in constitution.few_shots:
        assert plain(shot.revision) != plain(shot.response)
    for comparison in constitution.comparison_shots:
        assert comparison.reasons
        assert plain(comparison.chosen) != plain(comparison.rejected)
        assert not HINT.search(comparison.reasons), "it is shown with its answers in either order"


HINT = re.compile(r"\([AB12]\)|\b(?:options?|answers?|responses?) (?:[A-D]|\d)\b|\b(?:first|second|last)\b", re.I)


@pytest.mark.parametrize("hint", ["(A) is kinder.", "Answer 2 is kinder.", "The first is kinder."])
def test_a_hint_would_be_seen(hint: str) -> None:
    assert HINT.search(hint)
    assert not HINT.search("One answer is kinder.")


@each
def test_requests_ask_and_contrasts_instruct(name: str) -> None:
    for principle in load_constitution(name).principles:
        for wording in WORDINGS:
            assert getattr(principle, wording).endswith((".", "?")), (principle.id, wording)
        assert "answer" in principle.critique or "assistant" in principle.critique, principle.id
        assert principle.comparison.endswith("?"), principle.id
        assert "these answers" in principle.comparison, principle.id
        assert not HINT.search(principle.comparison), principle.id
        assert "?" not in principle.contrast + principle.revision, principle.id


@each
def test_wordings_are_written_by_hand(name: str) -> None:
    """A derived one has the whole text in it."""
    for principle in load_constitution(name).principles:
        for wording in WORDINGS:
            assert principle.text not in getattr(principle, wording), (principle.id, wording)


@each
def test_checkers_pass_what_was_shown_as_better(name: str) -> None:
    """A program that finds fault with the file's own good answers decides something else than its principle says."""
    constitution = load_constitution(name)
    good = [shot.revision for shot in constitution.few_shots] + [shot.chosen for shot in constitution.comparison_shots]
    for principle in constitution.principles:
        assert all(principle.check(answer) is not False for answer in good), principle.id


@pytest.mark.parametrize(
    ("name", "principle", "broken", "kept"),
    [
        (
            "balanced",
            "no-stock-phrases",
            "As an AI language model, I like rain.",
            "She works as an AI engineer and likes rain.",
        ),
        ("balanced", "no-stock-phrases", "I'm just an AI. Ask a friend.", "I have no nose, so I can't say."),
        ("helpful-honest-harmless", "no-going-in-circles", "It is good to walk in the rain today. " * 3, "It is good."),
        ("honesty", "no-links-from-memory", "See https://example.org/otters.", "Type 'otter stones' into a search."),
    ],
)
def test_a_checker_decides(name: str, principle: str, broken: str, kept: str) -> None:
    check = find_checker(load_constitution(name)[principle].checker)
    assert check(broken) is False
    assert check(kept) is True


def test_no_text_no_wording_and_no_title_stands_twice() -> None:
    found = list(everything())
    for part in ("text", *WORDINGS):
        assert twice([getattr(principle, part) for _, principle in found]) == [], part
    ids = [principle.id for _, principle in found]
    assert twice(ids) == [], "two files that somebody extends together would override each other"


def test_no_probe_stands_twice_or_is_a_prompt_for_training_or_testing() -> None:
    own = [text for name in NAMES for text in probes(load_constitution(name))]
    assert len(own) >= 4 * 10 * len(NAMES)
    assert twice(own) == []
    files = sorted(PROMPTS.glob("*.jsonl"))
    packaged = [json.loads(line)["prompt"] for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    assert len(packaged) > 500
    assert {plain(text) for text in own} & {plain(text) for text in packaged} == set()


def test_no_example_is_a_probe_or_a_prompt() -> None:
    shown = []
    for name in NAMES:
        constitution = load_constitution(name)
        shown += [shot.prompt for shot in constitution.few_shots]
        shown += [shot.prompt for shot in constitution.comparison_shots]
        for principle in constitution.principles:
            shown += [shot.prompt for shot in principle.few_shots]
            shown += [shot.prompt for shot in principle.comparison_shots]
    files = sorted(PROMPTS.glob("*.jsonl"))
    asked = [json.loads(line)["prompt"] for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    asked += [text for name in NAMES for text in probes(load_constitution(name))]
    assert twice(shown) == []
    assert {plain(text) for text in shown} & {plain(text) for text in asked} == set()


@each
def test_a_file_keeps_its_digest_through_markdown(name: str) -> None:
    constitution = load_constitution(name)
    read = from_markdown(to_markdown(constitution), name="c.md")
    assert read.digest == constitution.digest
    assert read_constitution(load(to_yaml(read))).digest == constitution.digest


@each
def test_the_linter_finds_nothing(name: str) -> None:
    assert list(map(str, lint_file(shipped()[name]))) == []
