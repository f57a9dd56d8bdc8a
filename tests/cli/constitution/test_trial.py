import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from cai.cli.command import ends_well
from cai.cli.constitution import trial
from cai.engines.build import EngineConfig
from cai.engines.scripted import ScriptedEngine
from cai.evaluate import principles
from tests.evaluate.principle_samples import constitution_file, engine

app = typer.Typer()
app.command("test")(ends_well(trial.trial))
app.callback()(lambda: None)

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def built(monkeypatch: pytest.MonkeyPatch) -> list[EngineConfig]:
    found: list[EngineConfig] = []

    def build(config: EngineConfig) -> ScriptedEngine:
        found.append(config)
        return engine(model=config.model)

    monkeypatch.setattr(principles, "build_engine", build)
    return found


def run(*words: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["test", *(str(word) for word in words)], env={"COLUMNS": "80"})
    return result.exit_code, result.stdout, result.stderr


def test_the_table_has_a_line_per_principle_and_a_reading(tmp_path: Path) -> None:
    code, said, told = run(constitution_file(tmp_path), "--out", tmp_path / "out")
    assert code == 0
    lines = [line.split() for line in said.splitlines() if line.split()[:1] in (["kind"], ["sea"])]
    assert [line[0] for line in lines] == ["kind", "sea"], "the largest effect first"
    assert [line[-1] for line in lines] == ["works", "weight"]
    assert lines[0][1] == "100/0"
    assert lines[0][2] == "100/100"
    table = said[: said.index("works (1)")]
    assert max(map(len, table.splitlines())) <= 80
    assert "works (1): moves the judge by 10 points or more, surely above 0: kind" in said
    assert "dead weight (1): no more than an unrelated principle does, as far as can be seen: sea" in said
    assert "no probes (1): give it probes, or the test --prompts: silent" in said
    assert "The checker passes 0% of drafts, 100% of its revisions and 0% of unrelated ones: kind" in said
    assert "\x1b" not in said
    assert "drafts  16 texts in" in told
    assert told.strip().endswith(str(tmp_path / "out" / "report.json"))


def test_json_is_one_document_on_stdout(tmp_path: Path) -> None:
    code, said, _ = run(constitution_file(tmp_path), "--out", tmp_path / "out", "--json")
    assert code == 0
    found = json.loads(said)
    assert [item["ruling"] for item in found["principles"]] == ["works", "dead weight", "no probes"]
    assert found == json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))


def test_options_win_over_the_file_and_leave_the_rest_to_it(tmp_path: Path, built: list[EngineConfig]) -> None:
    settings = tmp_path / "settings.yaml"
    settings.write_text("drafts: 3\nseed: 7\nsampling: {temperature: 0.3}\nengine: {window: 32}\n", encoding="utf-8")
    words = ("--config", settings, "--model", "mine", "--seed", "8", "--max-new-tokens", "16", "--set", "window=8")
    assert run(constitution_file(tmp_path), "--out", tmp_path / "out", *words)[0] == 0
    kept = json.loads((tmp_path / "out" / "settings.json").read_text("utf-8"))
    assert (kept["drafts"], kept["seed"], kept["model"], kept["window"]) == (3, 8, "mine", 8)
    assert kept["sampling"] == {"temperature": 0.3, "top_p": 1.0, "max_new_tokens": 16}
    assert (built[0].model, built[0].window) == ("mine", 32)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--drafts", "0"), "drafts=0"),
        (("--judge", "direction"), "contrastive"),
        (("--set", "colour=blue"), "colour"),
        (("--prompts", "none.jsonl"), "none.jsonl: no such file"),
        (("--config", "none.yaml"), "none.yaml"),
    ],
)
def test_bad_options_are_named(tmp_path: Path, built: list[EngineConfig], words: tuple[str, ...], said: str) -> None:
    code, _, told = run(constitution_file(tmp_path), "--out", tmp_path / "out", *words)
    assert code == 2
    assert said in told
    assert "Traceback" not in told
    assert built == []


def test_another_test_in_the_folder_is_refused(tmp_path: Path) -> None:
    words = (constitution_file(tmp_path), "--out", tmp_path / "out")
    assert run(*words)[0] == 0
    code, _, told = run(*words, "--seed", "1")
    assert code == 2
    assert "holds a test with another seed: 0, not 1; name another folder as --out, or leave it out" in told


def test_a_constitution_without_probes_says_what_to_do(tmp_path: Path) -> None:
    path = constitution_file(tmp_path, 'name: small\nversion: "1"\nprinciples:\n  - id: kind\n    text: Be kind.\n')
    code, said, _ = run(path, "--out", tmp_path / "out")
    assert code == 0
    assert said.strip() == "no probes (1): give it probes, or the test --prompts: kind"


def test_ids_of_any_length_fit_80_columns(tmp_path: Path) -> None:
    name = "a-principle-with-a-very-long-name-that-goes-on"
    text = Path(constitution_file(tmp_path)).read_text("utf-8").replace("id: kind", f"id: {name}")
    assert run(constitution_file(tmp_path, text), "--out", tmp_path / "out", "--json")[0] == 0
    config = principles.PrinciplesConfig(constitution=str(tmp_path / "small.yaml"), out=tmp_path / "out")
    console = Console(width=80, file=(file := (tmp_path / "said.txt").open("w+", encoding="utf-8")))
    trial.show(principles.run_principles(config), console)
    file.seek(0)
    lines = file.read().splitlines()
    file.close()
    (row,) = [line for line in lines if line.strip().startswith("a-principle-with-a")]
    assert len(row) <= 80
    assert row.rstrip().endswith("works")
    assert any(name in line for line in lines), "the reading has the whole name"


SLOW = """
import sys, time
import typer
from cai.cli.command import ends_well
from cai.cli.constitution import trial
from cai.engines.scripted import ScriptedEngine
from cai.evaluate import principles
from tests.evaluate.principle_samples import reply, score

def slowly(request, seed):
    time.sleep(0.05)
    return reply(request, seed)

principles.build_engine = lambda config: ScriptedEngine(slowly, score, model=config.model)
app = typer.Typer()
app.command("test")(ends_well(trial.trial))
app(sys.argv[1:])
"""


def test_ctrl_c_ends_with_130_and_the_same_command_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-c", SLOW, constitution_file(tmp_path), "--out", str(out), "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and child.poll() is None:
            if (out / "critiques.jsonl").is_file() and (out / "critiques.jsonl").stat().st_size:
                break
            time.sleep(0.01)
        child.send_signal(signal.SIGINT)
        said, told = child.communicate(timeout=60)
    assert child.returncode == 130, told
    assert said == ""
    assert "the same command goes on" in told
    begun = (out / "critiques.jsonl").read_bytes()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    assert (out / "critiques.jsonl").read_bytes().startswith(begun)
    words = (constitution_file(tmp_path), "--out", tmp_path / "whole", "--json")
    assert json.loads(run(*words)[1]) == json.loads(done.stdout)
