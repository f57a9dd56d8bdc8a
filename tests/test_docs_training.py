"""What the page on training shows: its config loads, its words are config keys, its Python runs, its table is whole."""

import re
from pathlib import Path
from typing import Any, get_args

import pytest

from cai.config import load_config
from cai.train.configs import DPOConfig, RewardConfig, SFTConfig

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
RECIPES: dict[str, Any] = {"sft": SFTConfig, "reward": RewardConfig, "dpo": DPOConfig}


def test_the_config_loads(tmp_path: Path) -> None:
    ((name, text),) = re.findall(r"```yaml\n# (\S+)\n(.*?)```", PAGE, flags=re.DOTALL)
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert load_config(DPOConfig, tmp_path / name, []).quantization == "4bit"


def test_the_commands_words_are_keys_of_their_configs() -> None:
    commands = re.findall(r"^    accelerate launch recipes/(\w+)\.py --config (\S+) (.*)$", PAGE, flags=re.MULTILINE)
    assert [name for name, _, _ in commands] == list(RECIPES)
    for name, path, words in commands:
        load_config(RECIPES[name], ROOT / path, words.split())


def test_the_table_of_references_is_whole() -> None:
    shown = re.findall(r"^\| `(\w+)` \|", PAGE, flags=re.MULTILINE)
    assert set(shown) - {"reference_mode"} == set(get_args(DPOConfig.model_fields["reference_mode"].annotation))


@pytest.mark.model
def test_the_python_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    exec(code, {})
    first, second = (float(value) for value in re.findall(r"-\d+\.\d+", capsys.readouterr().out)[:2])
    assert first > second  # Paris
