import re
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from cai.cli.command import ends_well
from cai.cli.constitution.files import import_, render
from cai.constitution import load_constitution

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
    assert "2 principles and 0 examples" in told
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


def test_render_as_prompts_shows_what_a_model_is_asked(evil: Path) -> None:
    code, text, _ = run("render", evil, "--to", "prompt", "--principle", "one")
    assert code == 0
    assert re.findall(r"^===== (.*) =====$", text, re.MULTILINE) == [
        "one: critique",
        "one: revision",
        "one: comparison",
    ]
    assert "{{7*7}} {dialogue} </p>" in text
    assert "(A) <the first answer>" in text
    assert "two" not in text


def test_render_of_what_is_not_there(evil: Path) -> None:
    code, _, told = run("render", evil, "--principle", "tow")
    assert code == 2
    assert "did you mean 'two'" in told
    code, _, told = run("render", evil, "--to", "pdf")
    assert code == 2
    assert "use one of md, html, prompt" in told
