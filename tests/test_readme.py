"""What the README shows works: its Python runs, its constitution loads, its commands name what there is."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

from cai.cli.main import app
from cai.config import load_config
from cai.constitution.parse import read_constitution
from cai.errors import InputError
from cai.strict_yaml import load
from cai.successor.entries import ENTRIES

ROOT = Path(__file__).parent.parent
DOCUMENTS = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "README.md", ROOT / "docs/run-folder.md")}
README = DOCUMENTS["README.md"]
GROUPS = ("constitution", "judge")
"""Commands that have commands."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[str]:
    return [
        line.strip().partition("  #")[0].strip()
        for text in DOCUMENTS.values()
        for line in text.splitlines()
        if re.match(r"    (bash|cai|accelerate|python) ", line)
    ]


def test_the_python_runs() -> None:
    (program,) = blocks("python")
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_constitution_loads() -> None:
    (text,) = blocks("yaml")
    constitution = read_constitution(load(text, name="README"))
    assert [principle.id for principle in constitution.principles] == ["no-secrets", "short"]
    assert constitution["no-secrets"].contrast.startswith("Do the opposite")


def test_there_are_commands_to_check() -> None:
    assert len(commands()) >= 10


@pytest.mark.parametrize("command", commands())
def test_a_command_names_what_there_is(command: str) -> None:
    words = shlex.split(command)
    for word in words:
        if re.fullmatch(r"(scripts|recipes)/\S+", word):
            assert (ROOT / word).is_file(), word
    if words[0] == "accelerate":
        name = Path(words[2]).stem
        config = ROOT / words[words.index("--config") + 1]
        load_config(ENTRIES[name].load_config(), config, [word for word in words[5:] if "=" in word])
    if words[0] == "cai":
        shown = subprocess.run(
            [sys.executable, "-m", "cai.cli.main", *words[1 : 2 + (words[1] in GROUPS)], "--help"],
            cwd=ROOT,
            env={"COLUMNS": "120"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert shown.returncode == 0, shown.stderr
        for word in words:
            if word.startswith("--"):
                assert word in shown.stdout


def test_every_option_that_is_mentioned_is_one() -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    inner = [each for each in group.commands.values() if isinstance(each, TyperGroup)]
    commands = [*group.commands.values(), *(command for each in inner for command in each.commands.values())]
    known = {name for command in commands for option in command.params for name in option.opts}
    mentioned = set(re.findall(r"(?<=[\s`])--[a-z-]+", README))
    assert {"--size", "--model", "--config"} <= mentioned
    assert mentioned <= known | {"--config"}


def test_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\(([^)#]+)", README)
    assert len(targets) >= 5
    for target in targets:
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_the_mistake_is_told_as_it_is_shown() -> None:
    text = blocks("yaml")[0].replace("text:", "txt:", 1)
    with pytest.raises(InputError) as caught:
        read_constitution(load(text, name="my.yaml"))
    (shown,) = re.findall(r"^    (my\.yaml:.*)$", README, flags=re.MULTILINE)
    assert shown in [str(problem) for problem in caught.value.problems]
