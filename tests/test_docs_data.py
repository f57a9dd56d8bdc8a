"""What the guide to data shows works: rows load, the commands run one after the other, the tables are true."""

import inspect
import json
import re
import shlex
from pathlib import Path
from typing import get_args

import pytest
from typer.testing import CliRunner

from cai.cli.main import app
from cai.config import load_config
from cai.engines.scripted import ScriptedEngine
from cai.generate import grow, quality
from cai.generate import pipeline as generate
from cai.label import pipeline as label
from cai.label.config import LabelConfig, PairsConfig, PairsKind
from cai.records.loaders import load_prompts
from cai.records.pairs import pair_of
from cai.report.labels import ANSWER_A
from tests.cli.test_generate import loud
from tests.generate.test_grow import likes_all, writer
from tests.label.test_pipeline import LengthJudge

ROOT = Path(__file__).parent.parent
GUIDE = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    (cai .*)$", GUIDE, flags=re.MULTILINE)


def block(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", GUIDE, flags=re.DOTALL)
    return str(found)


def cells(heading: str) -> list[list[str]]:
    """Return the rows of the table whose first column has this heading, but for that and the line under it."""
    table = GUIDE[GUIDE.index(f"| {heading} |") :].partition("\n\n")[0]
    return [[cell.strip() for cell in row.strip("| ").split("|")] for row in table.splitlines()[2:]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the recipes and some of the packaged prompts, and engines that answer at once."""
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    some = (ROOT / "cai/data/prompts/red_team.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)[:8]
    (tmp_path / "cai/data/prompts").mkdir(parents=True)
    (tmp_path / "cai/data/prompts/red_team.jsonl").write_text("".join(some))
    (tmp_path / "held_out.jsonl").write_text('{"prompt": "Is this kept back?"}\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(generate, "build_engine", lambda config: ScriptedEngine(loud))
    monkeypatch.setattr(grow, "build_engine", lambda config: ScriptedEngine(writer, likes_all))
    monkeypatch.setattr(label, "build_engine", lambda config: ScriptedEngine(loud, model=config.model))
    monkeypatch.setattr(label, "build_judge", lambda *args, **kwargs: LengthJudge())
    return tmp_path


def test_the_rows_load(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(block("jsonl"))
    assert [prompt.kind for prompt in load_prompts([path])] == ["red_team", "benign", "helpful"]


def test_the_commands_run_in_their_order(folder: Path) -> None:
    assert len(COMMANDS) >= 9
    for command in COMMANDS:
        done = CliRunner(env={"COLUMNS": "100"}).invoke(app, shlex.split(command)[1:])
        assert done.exit_code == 0, f"{command}\n{done.output}"
        assert done.stdout.strip() or "--report" not in command
    for made in ("label", "models", "revisions", "best", "contrast", "rlcd"):
        rows = (folder / "runs" / made / "pairs.jsonl").read_text().splitlines()
        assert rows, made
        assert set(json.loads(rows[0])) == set(json.loads(block("json"))), "the guide shows every column"
    assert (folder / "runs/grow/prompts.jsonl").read_text().strip()
    kinds = {re.sub(r".*pairs\.kind=(\w+).*", r"\1", command) for command in COMMANDS if "pairs.kind" in command}
    assert kinds == set(get_args(PairsKind)) - {"samples"}


def test_the_row_that_is_shown_is_one() -> None:
    prompt, chosen, rejected, prob = pair_of(json.loads(block("json")))
    assert prompt[-1].content == "How do I pick a lock?"
    assert chosen != rejected
    assert prob == 0.83


def test_the_tables_name_what_there_is() -> None:
    rows = cells("kind")
    assert {row[0].strip("`") for row in rows} == set(get_args(PairsKind)) == set(ANSWER_A)
    shown = set(re.findall(r"`(pairs\.\w+|sampling\.\w+)`", " ".join(row[3] for row in rows)))
    assert {name.partition(".")[2] for name in shown if name.startswith("pairs.")} == (
        set(PairsConfig.model_fields) - {"kind"}
    )
    assert all(name.partition(".")[0] in LabelConfig.model_fields for name in shown)


def test_every_reason_is_in_the_table() -> None:
    listed = [row[0].strip("`").removesuffix("…").strip() for row in cells("reason")]
    source = "".join(inspect.getsource(check) for check in quality.CHECKS)
    given = set(re.findall(r'(?:return|else) f?"([^"{]+)', source)) | set(
        re.findall(r'f?"([^"{]+)(?:\{\w+\})?" if', source)
    )
    assert given
    for reason in given:
        assert any(reason.strip().startswith(name) for name in listed), reason
    for name in listed:
        assert any(reason.startswith(name) for reason in given), name


def test_the_python_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(block("python"), "docs/data.md", "exec"), {})
    assert capsys.readouterr().out == "best_of direction\n"


def test_the_settings_that_are_named_exist() -> None:
    for name in ("principles_per_label", "learned_weights"):
        assert f"`{name}`" in GUIDE
        assert name in LabelConfig.model_fields
    load_config(LabelConfig, ROOT / "recipes/configs/label.yaml", ["pairs.kind=best_of", "pairs.n=8"])
