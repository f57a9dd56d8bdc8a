"""Recipes and their configs: each config fits its recipe; the plain loop stays short and runs on the real model."""

import runpy
from pathlib import Path

import pytest

from cai.config import load_config
from cai.errors import InputError
from cai.evaluate.stats import WinRate
from cai.successor.entries import ENTRIES
from cai.successor.plan import RunConfig, plan_run

RECIPES = Path(__file__).parent.parent / "recipes"


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
    found = loop["main"]("embedded", prompts=2, tokens=8, seed=0)
    assert isinstance(found, WinRate)
    assert found.n + found.abstained == 2
