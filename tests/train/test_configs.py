"""The trainers' settings: what is refused, and that reading them loads no torch."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cai.train.configs import DPOConfig, RewardConfig, SFTConfig

BASE: dict[str, Any] = {"out": "out", "data": ["rows.jsonl"]}


def test_planning_a_run_loads_no_torch() -> None:
    code = "import sys, cai.train.configs; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 0.0},
        {"learning_rate": 1.0},
        {"learning_rate": float("nan")},
        {"epochs": 0},
        {"batch_size": 0},
        {"micro_batch": 0},
        {"warmup": 1.0},
        {"max_length": 7},
        {"save_every": -1},
        {"max_grad_norm": 0.0},
        {"precision": "fp16"},
        {"report_to": ["mlflow"]},
        {"lora": {"dropout": 1.0}},
        {"lora": {"rank": 4}},
        {"learning_rat": 1e-5},
        {"quantization": "4bit"},
        {"optimizer": "lion"},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(change: dict[str, Any]) -> None:
    SFTConfig.model_validate(BASE)
    with pytest.raises(ValidationError):
        SFTConfig.model_validate(BASE | change)


@pytest.mark.parametrize(
    ("config", "change"),
    [
        (RewardConfig, {"eval_fraction": 1.0}),
        (RewardConfig, {"centering": -0.1}),
        (DPOConfig, {"beta": 0.0}),
        (DPOConfig, {"label_noise": 0.5}),
        (DPOConfig, {"loss": "sigmoidal"}),
        (DPOConfig, {"loss": "simpo", "reference": "some/model"}),
        (DPOConfig, {"reference_mode": "adapter"}),
        (DPOConfig, {"reference_mode": "adapter", "lora": {}, "reference": "some/model"}),
        (DPOConfig, {"loss": "ipo", "per_token": True}),
    ],
    ids=str,
)
def test_so_are_those_of_one_trainer(config: type[RewardConfig | DPOConfig], change: dict[str, Any]) -> None:
    config.model_validate(BASE)
    with pytest.raises(ValidationError):
        config.model_validate(BASE | change)


def test_a_config_survives_json() -> None:
    config = DPOConfig(out=Path("out"), data=[Path("a.jsonl")], beta=0.2, lora={"r": 4})
    assert DPOConfig.model_validate_json(config.model_dump_json()) == config
