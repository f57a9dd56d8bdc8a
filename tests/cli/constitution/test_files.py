import re
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from cai.cli.command import ends_well
from cai.cli.constitution.files import ANSWER, ASKED, FIRST, SECOND, import_, render
from cai.constitution import Constitution, load_constitution
from cai.constitution.yaml_out import to_yaml
from cai.engines.base import GenerateRequest, ScoreRequest
from cai.engines.scripted import ScriptedEngine
from cai.judges.base import Comparison
from cai.judges.contrastive import ContrastiveJudge
from cai.judges.pairwise import PairwiseJudge
from cai.types import Message
from tests.constitution.importers import samples

app = typer.Typer()
app.command("import")(ends_well(import_))
app.command("render")(ends_well(render))

EVIL = """\
name: evil
version: "1"
description: <script>alert(1)</script>
principles:
  - id: one
    title: "<img src=x onerror=alert(1)>"
    text: 'Be "kind" & {{7*7}} {dialogue} </p><script>alert(2)</script>'
  - id: two
    text: Be calm.
"""


def run(*words: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(word) for word in words])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def evil(tmp_path: Path) -> Path:
    path = tmp_path / "evil.yaml"
    path.write_text(EVIL, encoding="utf-8")
    return path


def test_import_writes_a_file_that_loads(tmp_path: Path) -> None:
    source = tmp_path / "rules.txt"
    source.write_text("- Be kind.\n- Be calm.\n", encoding="utf-8")
    out = tmp_path / "new" / "ours.yaml"
    code, said, told = run("import", source, "--name", "ours", "--out", out)
    assert (code, said.strip()) == (0, str(out))
    assert told == "2 principles\n"
    constitution = load_constitution(out)
    assert (constitution.name, len(constitution.principles)) == ("ours", 2)
    code, _, told = run("import", source, "--out", out)
    assert code == 2
    assert "there already" in told
    assert run("import", source)[1].startswith("name: rules\n")
    assert run("import", source, "--out", tmp_path / "a.json")[0] == 2


def test_import_says_what_is_wrong_and_where(tmp_path: Path) -> None:
    source = tmp_path / "rules.json"
    source.write_text("[oops]", encoding="utf-8")
    code, _, told = run("import", source)
    assert code == 2
    assert "rules.json:1:2: bad JSON" in told


def test_render_as_markdown_keeps_the_digest(tmp_path: Path) -> None:
    out = tmp_path / "harmless.md"
    assert run("render", "harmless", "--out", out)[0] == 0
    assert load_constitution(out).digest == load_constitution("harmless").digest
    assert run("render", "harmless", "--to", "md")[1] == out.read_text(encoding="utf-8")


def test_render_as_a_page_escapes_all_text(evil: Path) -> None:
    code, page, _ = run("render", evil, "--to", "html")
    assert code == 0
    assert "<script" not in page
    assert "<img" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "default-src &#x27;none&#x27;" in page or "default-src 'none'" in page
    assert not re.search('src=|href=(?!"#)', page.replace("src=x onerror", ""))


def test_import_tells_what_arrived_and_how_its_two_kinds_are_used(tmp_path: Path) -> None:
    for name, content in samples.PAPER.items():
        samples.write(tmp_path, f"{name}.json", content)
    out = tmp_path / "paper.yaml"
    code, _, told = run("import", tmp_path, "--out", out)
    assert code == 0
    first, second, third = told.splitlines()
    assert first == "4 principles (2 tagged critique, 2 tagged comparison)"
    assert second == "1 example of critiques and revisions and 2 of comparisons"
    assert third == load_constitution(out).description
    assert "label with tags: [comparison]" in third


def turns(text: str) -> dict[str, list[tuple[str, str]]]:
    """Read a page of prompts: for each step its turns, with who speaks."""
    found = {}
    for part in re.split(r"^===== ", text, flags=re.MULTILINE)[1:]:
        head, _, body = part.partition(" =====\n\n")
        said = re.split(r"^\[(system|user|assistant)\]\n", body, flags=re.MULTILINE)[1:]
        found[head] = [(who, words.rstrip("\n")) for who, words in zip(said[::2], said[1::2], strict=True)]
    return found


def test_render_as_prompts_shows_what_a_model_is_asked(evil: Path) -> None:
    code, text, _ = run("render", evil, "--to", "prompt", "--principle", "one")
    assert code == 0
    assert list(turns(text)) == [
        "one: critique",
        "one: revision",
        "one: comparison",
        "one: answer told the principle",
        "one: answer told its contrast",
    ]
    assert "{{7*7}} {dialogue} </p>" in text
    assert "(A) <the first answer>" in text
    assert "two" not in text


NASTY = "{dialogue} {{7*7}} {% for x in y %} {} <|im_start|>system </s> [INST] ${HOME} %s \\n \\1"


def nasty() -> Constitution:
    """A constitution of which every text looks like a template, with examples of all kinds."""
    few = dict.fromkeys(
        ["prompt", "response", "critique_request", "critique", "revision_request", "revision"], f"few {NASTY}"
    )
    pair = dict.fromkeys(["prompt", "chosen", "rejected", "reasons"], f"pair {NASTY}")
    principle = {
        "id": "one",
        **{name: f"{name} {NASTY}" for name in ("text", "critique", "revision", "comparison", "contrast")},
        "few_shots": [few],
        "comparison_shots": [pair],
    }
    data = {"name": "c", "version": "1", "few_shots": [few], "comparison_shots": [pair], "principles": [principle]}
    return Constitution.model_validate(data)


def test_template_syntax_and_control_tokens_arrive_as_text(tmp_path: Path) -> None:
    path = tmp_path / "nasty.yaml"
    path.write_text(to_yaml(nasty()), encoding="utf-8")
    shown = turns(run("render", path, "--to", "prompt")[1])
    for step, wording in (("critique", "critique"), ("revision", "revision"), ("comparison", "comparison")):
        asked = shown[f"one: {step}"]
        question = asked[-2][1] if step == "comparison" else asked[-1][1]
        assert f"{wording} {NASTY}" in question
    assert sum(words.count(NASTY) for _, words in shown["one: critique"]) == 2 * 4 + 1
    assert sum(words.count(NASTY) for _, words in shown["one: revision"]) == 2 * 5 + 1
    assert sum(words.count(NASTY) for _, words in shown["one: comparison"]) == 2 * 3 + 2
    assert shown["one: answer told the principle"][0] == ("system", f"text {NASTY}")
    assert shown["one: answer told its contrast"][0] == ("system", f"contrast {NASTY}")


def said(request: GenerateRequest | ScoreRequest) -> list[tuple[str, str]]:
    return [(turn.role, turn.content) for turn in request.prompt if isinstance(turn, Message)]


def test_render_shows_what_the_judges_ask_an_engine(tmp_path: Path) -> None:
    constitution = nasty()
    path = tmp_path / "nasty.yaml"
    path.write_text(to_yaml(constitution), encoding="utf-8")
    shown = turns(run("render", path, "--to", "prompt")[1])
    comparison = Comparison(
        id="x",
        prompt=(Message("user", ASKED),),
        response_a=FIRST,
        response_b=SECOND,
        principle=constitution.principles[0],
    )
    engine = ScriptedEngine()
    list(PairwiseJudge(engine, shots=constitution.comparison_shots).compare([comparison]))
    assert shown["one: comparison"] == [*said(engine.seen[0]), ("assistant", engine.seen[0].prefill)]
    engine = ScriptedEngine()
    list(ContrastiveJudge(engine).compare([comparison]))
    for request, step in zip(engine.seen, ("the principle", "its contrast"), strict=True):
        assert shown[f"one: answer told {step}"] == [*said(request), ("assistant", ANSWER)]


def test_render_of_what_is_not_there(evil: Path) -> None:
    code, _, told = run("render", evil, "--principle", "tow")
    assert code == 2
    assert "did you mean 'two'" in told
    code, _, told = run("render", evil, "--to", "pdf")
    assert code == 2
    assert "use one of md, html, prompt" in told
