"""What the rounds of online DPO hold to, and which settings do not go together."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cai.successor.online_config import OnlineDPOConfig
from tests.successor.test_online_dpo import settings


@pytest.mark.parametrize("follow", [False, True])
def test_a_round_is_held_to_the_start_or_to_its_own(tmp_path: Path, tiny_model_dir: Path, follow: bool) -> None:
    config = settings(tmp_path, tiny_model_dir, follow=follow)
    _, first = config.of_round(1, config.model, tmp_path / "1", 5)
    _, second = config.of_round(2, "policy", tmp_path / "2", 6)
    assert (first.reference, second.reference) == ((None, None) if follow else (config.model, config.model))
    assert (second.model, second.beta, second.seed) == ("policy", config.beta, 6)
    named = settings(tmp_path, tiny_model_dir, reference="other")
    assert named.of_round(2, "policy", tmp_path / "2", 6)[1].reference == "other"
    free = settings(tmp_path, tiny_model_dir, loss="simpo")
    assert free.of_round(2, "policy", tmp_path / "2", 6)[1].reference is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": ["pairs.jsonl"]}, "a round trains on the pairs that it makes; remove 'data'"),
        ({"follow": True, "reference": "m"}, "with 'follow' a round's own start is its reference"),
        ({"reference_mode": "adapter", "lora": {"r": 2}}, "set follow: true"),
        ({"label": {"prompts": ["p.jsonl"]}}, "the rounds decide 'prompts'"),
        ({"label": {"engine": {"model": "m"}}}, "the rounds decide 'engine.model'"),
        ({"label": {"seed": 3}}, "the rounds decide 'seed'"),
        ({"prompts": []}, "at least 1 item"),
    ],
)
def test_settings_that_do_not_go_together(
    tmp_path: Path, tiny_model_dir: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValidationError, match=said):
        settings(tmp_path, tiny_model_dir, **changes)


def test_a_config_comes_back_from_its_json(tmp_path: Path, tiny_model_dir: Path) -> None:
    config = settings(tmp_path, tiny_model_dir, lora={"r": 2}, reference_mode="adapter", follow=True)
    assert OnlineDPOConfig.model_validate_json(config.model_dump_json()) == config
