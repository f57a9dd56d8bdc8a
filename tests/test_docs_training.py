"""What the page on training shows: configs load, commands and Python run in order, tables are those of the code."""

import inspect
import json
import re
import shlex
import shutil
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest
from typer.testing import CliRunner

from cai.cli.main import app
from cai.config import load_config
from cai.successor.online_config import OnlineDPOConfig
from cai.train import checks, diagnosis
from cai.train.configs import DPOConfig, RewardConfig, SFTConfig
from tests.judges.test_preference_model import classifier
from tests.train import rig

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
RECIPES: dict[str, Any] = {"sft": SFTConfig, "reward": RewardConfig, "dpo": DPOConfig}
PYTHON = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


def table(heading: str) -> dict[str, list[str]]:
    """Return the rows of the table whose first column has this heading: its name, and the other cells."""
    lines = PAGE[PAGE.index(f"| {heading} |") :].partition("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0].strip("`"): row[1:] for row in rows}


@pytest.fixture
def folder(tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with pairs, a model to start from and preference models where the page has them."""
    rig.write(tmp_path / "pairs.jsonl", [rig.pair(number) for number in range(12)])
    rig.write(tmp_path / "runs/label/pairs.jsonl", [rig.pair(number) for number in range(12)])
    shutil.copytree(tiny_model_dir, tmp_path / "runs/sft/model")
    for name in ("reward", "pm-1", "pm-2"):
        classifier(tiny_model_dir, tmp_path / "runs" / name / "model")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_configs_load(tmp_path: Path) -> None:
    for name, text in (found := re.findall(r"```yaml\n# (\S+)\n(.*?)```", PAGE, flags=re.DOTALL)):
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert [name for name, _ in found] == [
        "stop.yaml",
        "heads.yaml",
        "principles.yaml",
        "qlora.yaml",
        "online_dpo.yaml",
    ]
    assert list(load_config(RewardConfig, tmp_path / "heads.yaml", []).heads) == ["harmless", "helpful"]
    assert load_config(RewardConfig, tmp_path / "principles.yaml", []).principle_conditioned
    assert load_config(DPOConfig, tmp_path / "qlora.yaml", []).quantization == "4bit"
    assert load_config(OnlineDPOConfig, tmp_path / "online_dpo.yaml", ["label.judge.kind=direction"]).rounds == 3
    stop = load_config(RewardConfig, tmp_path / "stop.yaml", ["stop.patience=4"]).stop
    assert stop is not None
    assert (stop.every, stop.patience) == (20, 4)


def test_the_commands_words_are_keys_of_their_configs() -> None:
    commands = re.findall(r"^    accelerate launch recipes/(\w+)\.py --config (\S+) (.*)$", PAGE, flags=re.MULTILINE)
    assert [name for name, _, _ in commands] == list(RECIPES)
    for name, path, words in commands:
        load_config(RECIPES[name], ROOT / path, words.split())


def test_the_launch_configs_are_there() -> None:
    launch = r"^    accelerate launch --config_file (\S+) recipes/(\w+)\.py --config (\S+)$"
    ((config, recipe, settings),) = re.findall(launch, PAGE, flags=re.MULTILINE)
    named = re.findall(r"launch configs for ([^.]*)\.", PAGE.replace("\n", " "))[0]
    there = {path.stem for path in (ROOT / config).parent.glob("*.yaml")}
    assert set(re.findall(r"`(\w+)`", named)) == there
    assert Path(config).stem in there
    load_config(RECIPES[recipe], ROOT / settings, [])


def test_the_other_commands_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inspect_rows, serve, inspect_heads = re.findall(r"^    (cai .*)$", PAGE, flags=re.MULTILINE)
    rig.write(folder / "runs/label/pairs.jsonl", [rig.pair(number, kind="red_team") for number in range(12)])
    rig.write(folder / "people.jsonl", [rig.pair(number) for number in range(20, 23)])
    done = CliRunner().invoke(app, shlex.split(inspect_heads)[1:])
    assert done.exit_code == 0, done.output
    assert "harmless 12, helpful 3" in done.stdout
    (body,) = re.findall(r"^    curl http://127.0.0.1:5000/get_reward -d '(.*)'$", PAGE, flags=re.MULTILINE)
    done = CliRunner().invoke(app, shlex.split(inspect_rows)[1:])
    assert done.exit_code == 0, done.output
    assert "12 pairs of 12 prompts" in done.stdout
    forever, said = ThreadingHTTPServer.serve_forever, []

    def once(server: ThreadingHTTPServer) -> None:
        thread = threading.Thread(target=forever, args=(server, 0.05))
        thread.start()
        said.append(httpx.post(f"http://127.0.0.1:{server.server_address[1]}/get_reward", content=body).json())
        server.shutdown()
        thread.join()

    monkeypatch.setattr(ThreadingHTTPServer, "serve_forever", once)
    assert "--port 5000" in serve
    done = CliRunner().invoke(app, shlex.split(serve.replace("5000", "0"))[1:])
    assert done.exit_code == 0, done.output
    assert [list(map(type, each["rewards"])) for each in said] == [[float]]


def test_the_python_runs_in_its_order(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train, look, use, several, told, _ = PYTHON
    exec(train.replace('"embedded"', repr(str(folder / "runs/sft/model"))), {})
    assert re.fullmatch(r"\[-?\d+\.\d+\]\n", capsys.readouterr().out)
    assert json.loads((folder / "runs/pm/result.json").read_text())["steps"] == 1
    exec(look, {})
    assert capsys.readouterr().out == ""  # a step tells nothing
    rows = [{"step": step, "loss": 0.5, "grad_norm": 0.0} for step in range(1, 31)]
    rig.write(folder / "runs/pm/metrics.jsonl", rows)
    exec(look, {})
    assert capsys.readouterr().out.startswith("no-gradient: The gradient is 0 at every step")
    exec(use, {})
    margins, reward = capsys.readouterr().out.splitlines()
    assert "Spread(mean=" in margins
    assert isinstance(json.loads(reward)[0], float)
    kinds = ("red_team", "helpful")
    rig.write(folder / "by_kind.jsonl", [rig.pair(number, kind=kinds[number % 2]) for number in range(12)])
    exec(several.replace('"embedded"', repr(str(folder / "runs/sft/model"))), {})
    names, scores, spread = capsys.readouterr().out.splitlines()
    assert names == "{0: 'harmless', 1: 'helpful'}"
    one, other = (float(each) for each in re.findall(r"-?\d+\.\d+", scores))
    assert float(re.findall(r"mean=(-?\d+\.\d+)", spread)[0]) == pytest.approx((one + other) / 2, abs=1e-6)
    rig.write(folder / "by_principle.jsonl", [rig.pair(number, principle="Be brief.") for number in range(12)])
    exec(told.replace('"embedded"', repr(str(folder / "runs/sft/model"))), {})
    brief, long, fixed = (float(each) for each in re.findall(r"-?\d+\.\d+", capsys.readouterr().out))
    assert brief != long
    assert fixed == pytest.approx(brief, abs=1e-5)


@pytest.mark.parametrize("kind", list(RECIPES))
def test_the_table_of_metrics_is_what_a_training_logs(kind: str, tiny_model_dir: Path, tmp_path: Path) -> None:
    listed = {name for name, (of, _) in table("metric").items() if kind in of.split(", ")}
    _, logged = rig.train(kind, rig.settings(kind, tmp_path, tiny_model_dir, rows=4))
    assert {frozenset(row) - {"step"} for row in logged} == {frozenset(listed)}
    result = json.loads((tmp_path / "out/result.json").read_text())
    assert set(result["last"]) <= listed
    assert {"last", "rows", "dropped"} <= set(result)
    assert ("held_out" in result) == (kind == "reward")


def test_the_tables_of_findings_and_diagnoses_are_whole() -> None:
    found = re.findall(r'_found\(\s*"([a-z-]+)"', inspect.getsource(checks))
    assert set(table("finding")) == set(found)
    always = re.findall(r'_found\(\s*"([a-z-]+)"[^\n]*error=True\)', inspect.getsource(checks))
    assert {name for name, cells in table("finding").items() if cells[1] == "yes"} == set(always)
    rules = re.findall(r'Diagnosis\(\s*"([a-z-]+)"', inspect.getsource(diagnosis))
    assert list(table("diagnosis")) == rules
    assert len(rules) == len(diagnosis.RULES)


def test_the_table_of_references_is_whole() -> None:
    assert set(table("`reference_mode`")) == set(get_args(DPOConfig.model_fields["reference_mode"].annotation))


@pytest.mark.model
def test_the_python_on_packing_runs(capsys: pytest.CaptureFixture[str]) -> None:
    exec(PYTHON[-1], {})
    first, second = (float(value) for value in re.findall(r"-\d+\.\d+", capsys.readouterr().out)[:2])
    assert first > second  # Paris
