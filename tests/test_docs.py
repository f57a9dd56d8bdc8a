"""What the pages on constitutions show works: files load, Python runs, commands run in their order, tables are true."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from cai.config import Config, load_config
from cai.constitution import load_constitution
from cai.constitution.parse import shipped
from cai.engines.build import ENGINES as KINDS
from cai.engines.build import EngineConfig

ROOT = Path(__file__).parent.parent
GUIDE = (ROOT / "docs" / "constitutions.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", GUIDE, flags=re.DOTALL)
SHELF = (ROOT / "constitutions" / "README.md").read_text(encoding="utf-8")
ENGINES = (ROOT / "docs" / "engines.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    (cai .*)$", GUIDE, flags=re.MULTILINE)


def cai(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "cai.cli.main", *shlex.split(command)[1:]]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the guide shows: each block names its own in its first line."""
    folder = tmp_path_factory.mktemp("guide")
    for language, text in BLOCKS:
        if language == "python":
            continue
        first, _, rest = text.partition("\n")
        name = re.sub(r"^# |^<!-- | -->$", "", first)
        assert re.fullmatch(r"[a-z]+\.(yaml|md|txt)", name), first
        (folder / name).write_text(rest if name.endswith(".txt") else text, encoding="utf-8")
    return folder


def test_the_extension_is_ten_lines_and_does_what_it_says(folder: Path) -> None:
    text = (folder / "house.yaml").read_text(encoding="utf-8")
    assert len([line for line in text.splitlines() if line and not line.startswith("#")]) <= 10
    base, house = load_constitution("harmless"), load_constitution(folder / "house.yaml")
    assert len(house.principles) == len(base.principles)
    assert house["truth"].weight == 3
    assert "no-propaganda" not in {principle.id for principle in house.principles}


def test_every_file_loads(folder: Path) -> None:
    assert load_constitution(folder / "small.yaml")["allergies"].priority == "hard"
    assert load_constitution(folder / "plain.yaml")["calm"].critique.endswith("not do this: Stay calm.")
    charter = load_constitution(folder / "charter.md").principles
    assert [principle.priority for principle in charter] == [1, 1, 2, "hard"]


class Section(Config):
    """A stage's config, as far as the guide shows it."""

    engine: EngineConfig


def test_the_engines_configs_load(tmp_path: Path) -> None:
    shown = re.findall(r"```yaml\n# (\S+)\n(.*?)```", ENGINES, flags=re.DOTALL)
    assert len(shown) == 3
    for name, text in shown:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        assert load_config(Section, path, []).engine.kind in KINDS
    rows = re.findall(r"^\| `(\w+)` \|", ENGINES, flags=re.MULTILINE)
    assert set(rows) == set(KINDS)


@pytest.mark.model
def test_the_engines_python_runs() -> None:
    (program,) = re.findall(r"```python\n(.*?)```", ENGINES, flags=re.DOTALL)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2


def test_the_engines_commands_are_there(folder: Path) -> None:
    shown = re.findall(r"^    (cai .*?)(?:  #.*)?$", ENGINES, flags=re.MULTILINE)
    assert len(shown) == 2
    for command in shown:
        words = command.split()
        done = cai(f"cai {words[1]} --help", folder)
        assert done.returncode == 0, done.stderr
        assert all(word in done.stdout for word in words if word.startswith("--"))


PROGRAMS = re.findall(r"```python\n(.*?)```", GUIDE + SHELF, flags=re.DOTALL)


@pytest.mark.parametrize("program", PROGRAMS, ids=range(len(PROGRAMS)))
def test_the_python_runs(program: str) -> None:
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_commands_run_in_their_order(folder: Path) -> None:
    quick = [command for command in COMMANDS if " test " not in command]
    assert len(quick) >= 8
    for command in quick:
        done = cai(command, folder)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        assert done.stdout.strip(), command
    assert load_constitution(folder / "kitchen.yaml").principles
    assert load_constitution(folder / "house.md").digest == load_constitution(folder / "house.yaml").digest
    assert [principle.text for principle in load_constitution(folder / "rules.yaml").principles] == [
        "Be kind to everyone.",
        "Say where a fact comes from.",
    ]


def test_the_trial_is_a_command(folder: Path) -> None:
    (command,) = [command for command in COMMANDS if " test " in command]
    done = cai("cai constitution test --help", folder)
    assert done.returncode == 0, done.stderr
    assert all(word in done.stdout for word in command.split() if word.startswith("--"))


def test_the_table_of_the_shelf_is_true() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \| (\d+) \|", SHELF, flags=re.MULTILINE)
    assert {name for name, _ in rows} == set(shipped())
    assert {name: int(count) for name, count in rows} == {
        name: len(load_constitution(name).principles) for name in shipped()
    }


def test_the_example_of_the_shelf_loads(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", SHELF, flags=re.DOTALL)
    path = tmp_path / "our-clinic.yaml"
    path.write_text(text, encoding="utf-8")
    clinic = load_constitution(path)
    assert clinic["no-guessed-doses"].weight == 2
    assert "no-names-needed" not in {principle.id for principle in clinic.principles}
    assert len(clinic.principles) == len(load_constitution("medical").principles)
