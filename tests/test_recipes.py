"""Recipes and their configs: each config fits its recipe; the plain loop stays short and runs on the real model."""

import runpy
import sys
from pathlib import Path

import pytest

from cai.config import Config, load_config
from cai.errors import InputError
from cai.evaluate.stats import WinRate
from cai.successor.entries import ENTRIES
from cai.successor.plan import RunConfig, plan_run

RECIPES = Path(__file__).parent.parent / "recipes"

CONFIGS: dict[str, type[Config]] = {
    "successor": RunConfig,
    **{name: entry.load_config() for name, entry in ENTRIES.items()},
}


def start(monkeypatch: pytest.MonkeyPatch, name: str, *words: str) -> int:
    """Run a recipe as `python recipes/NAME.py` does, but in this process: torch is loaded once for all of them."""
    monkeypatch.setattr("sys.argv", [f"{name}.py", *words])
    monkeypatch.setattr("cai.cli.recipe.leave", sys.exit)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(RECIPES / f"{name}.py"), run_name="__main__")
    return int(ended.value.code or 0)


def test_every_recipe_has_a_config_and_every_config_a_recipe() -> None:
    recipes = {path.stem for path in RECIPES.glob("*.py")} - {"loop"}
    assert recipes == {path.stem for path in (RECIPES / "configs").glob("*.yaml")} == set(CONFIGS)


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_help_lists_every_setting(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert start(monkeypatch, name, "--help") == 0
    shown = capsys.readouterr().out
    for setting in CONFIGS[name].model_fields:
        assert f"\n  {setting}  (" in shown
    assert f"recipes/configs/{name}.yaml" in shown


def test_the_loops_help(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert start(monkeypatch, "loop", "--help") == 0
    shown = capsys.readouterr().out
    assert all(option in shown for option in ("--model", "--prompts", "--tokens", "--seed"))


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_a_wrong_key_in_a_recipes_config_ends_with_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str
) -> None:
    path = tmp_path / "c.yaml"
    text = (RECIPES / "configs" / f"{name}.yaml").read_text()
    path.write_text(f"{text}sede: 1\n")
    line = len(text.splitlines()) + 1
    assert start(monkeypatch, name, "--config", str(path), f"out={tmp_path / 'out'}") == 2
    assert f"{path}:{line}:1: unknown key 'sede'; did you mean 'seed'?" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", sorted(ENTRIES))
def test_each_stage_has_a_recipe_whose_config_fits(name: str) -> None:
    text = (RECIPES / f"{name}.py").read_text()
    assert f"run_{name}" in text
    assert len(text.splitlines()) <= 60
    load_config(ENTRIES[name].load_config(), RECIPES / "configs" / f"{name}.yaml")


def test_the_successors_config_makes_a_plan() -> None:
    config = load_config(RunConfig, RECIPES / "configs" / "successor.yaml")
    names = ["prompts", "generate", "sft", "label", "reward", "ppo", "evaluate"]
    assert [plan.name for plan in plan_run(config)] == names
    dpo = load_config(RunConfig, RECIPES / "configs" / "successor.yaml", ["rl=dpo"])
    assert [plan.name for plan in plan_run(dpo)] == [*names[:5], "dpo", "evaluate"]


def test_a_setting_that_no_stage_has_is_named() -> None:
    config = load_config(RunConfig, RECIPES / "configs" / "successor.yaml", ["stages.generate.ronds=1"])
    with pytest.raises(InputError, match=r"stages\.generate: unknown key 'ronds'; did you mean 'rounds'\?"):
        plan_run(config)


def test_the_loop_is_short() -> None:
    assert len((RECIPES / "loop.py").read_text().splitlines()) <= 250


@pytest.mark.model
@pytest.mark.slow
def test_the_loop_runs_on_the_real_model() -> None:
    loop = runpy.run_path(str(RECIPES / "loop.py"))
    found = loop["main"]("embedded", prompts=4, tokens=12, seed=0)
    assert isinstance(found, WinRate)
    assert found.n + found.abstained == 4
