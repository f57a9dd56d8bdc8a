import subprocess
import sys

import pytest

from cai.config import Config
from cai.successor.entries import ENTRIES


def test_planning_loads_no_torch() -> None:
    code = (
        "import sys; from cai.successor.entries import ENTRIES\n"
        "for entry in ENTRIES.values(): entry.load_config()\n"
        "assert 'torch' not in sys.modules, 'a config loads torch'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ENTRIES)
def test_every_stage_has_its_config_and_its_function(name: str) -> None:
    config = ENTRIES[name].load_config()
    assert issubclass(config, Config)
    assert "out" in config.model_fields, "the run decides where a stage writes"
    assert ENTRIES[name].load_function().__doc__


def test_every_stage_but_the_first_has_a_recipe() -> None:
    from pathlib import Path

    recipes = {path.stem for path in (Path(__file__).parents[2] / "recipes").glob("*.py")}
    assert set(ENTRIES) <= recipes
