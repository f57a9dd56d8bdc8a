"""What the page on judges shows works: settings load, and every command runs, with a judge that is known."""

import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import get_args

import pytest
from typer.testing import CliRunner

from cai.cli.main import app
from cai.config import load_config
from cai.judges.base import Comparison, Verdict
from cai.judges.build import JudgeConfig, JudgeKind
from cai.judges.fit import verdicts
from cai.label import LabelConfig
from cai.label.learned import LEAST
from cai.records.answers import take_answers
from cai.records.pairs import load_labelled
from cai.storage import seed_from

PAGE = (Path(__file__).parent.parent / "docs" / "judges.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    (cai .*)$", PAGE, flags=re.MULTILINE)


class ByBeginning:
    """Prefers by how an answer begins, by no rule, so that nothing behind it counts."""

    name = model = "beginning"
    by_principle = True

    def compare(self, comparisons: Iterable[Comparison]) -> Iterator[Verdict]:
        return verdicts(comparisons, lambda fit: map(self._verdict, fit), window=8)

    def _verdict(self, item: Comparison) -> Verdict:
        a, b = (seed_from(text[:20]) for text in (item.response_a, item.response_b))
        return Verdict(id=item.id, prob_a=0.9 if a > b else 0.1)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the page shows, and enough pairs like the one that it shows."""
    for name, text in re.findall(r"```yaml\n# (\S+)\n(.*?)```", PAGE, flags=re.DOTALL):
        (tmp_path / name).write_text(text, encoding="utf-8")
    row, single = re.findall(r"```jsonl\n(.*?)```", PAGE, flags=re.DOTALL)
    worse = single.replace("No: that", "Sure, it").replace("true", "false")
    (tmp_path / "answers.jsonl").write_text(single + worse, encoding="utf-8")
    rows = [row.replace("bleach", f"{n} bleaches") for n in range(LEAST)]
    (tmp_path / "people.jsonl").write_text("".join(rows), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("cai.judges.build.build_judge", lambda *args, **kwargs: ByBeginning())
    monkeypatch.setattr("cai.engines.build.build_engine", lambda config: None)
    return tmp_path


@pytest.mark.usefixtures("folder")
def test_the_single_answer_that_is_shown_is_read() -> None:
    good, bad = sorted(take_answers([Path("answers.jsonl")]), key=lambda answer: -answer.good)
    assert (good.good, bad.good) == (True, False)
    assert good.prompt == bad.prompt


def test_there_are_commands_of_both_kinds() -> None:
    assert {" ".join(command.split()[:3]) for command in COMMANDS} == {"cai judge audit", "cai judge attack"}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_run(command: str, folder: Path) -> None:
    done = CliRunner().invoke(app, shlex.split(command)[1:])
    assert done.exit_code == 0, done.stderr
    assert done.stdout.strip()
    assert (folder / "weights.json").exists() is ("--learn-weights" in command)


def test_the_settings_load(folder: Path) -> None:
    judges = {name: load_config(JudgeConfig, folder / name) for name in ("judge.yaml", "served.yaml")}
    assert {name: each.kind for name, each in judges.items()} == {"judge.yaml": "pairwise", "served.yaml": "sampled"}
    floor = load_config(LabelConfig, folder / "label.yaml").floor
    assert floor is not None
    assert floor.max_attack_gain == 0.05
    assert len(load_labelled([folder / "people.jsonl"])[0]) == LEAST


def test_the_table_names_every_kind() -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", PAGE, flags=re.MULTILINE)) == set(get_args(JudgeKind))
