import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cai.losses import kl
from cai.train.configs import TrainConfig
from cai.train.ppo import config as module
from cai.train.ppo.config import PPOConfig, RolloutSettings


def config(**changes: Any) -> PPOConfig:
    return PPOConfig(**{"out": Path("out"), "prompts": ["a.jsonl"], **changes})


def test_one_prompt_file_needs_no_list() -> None:
    assert config(prompts="a.jsonl").prompts == [Path("a.jsonl")]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"batch_size": 4, "minibatches": 5}, "minibatches"),
        ({"max_new_tokens": 64, "max_length": 64}, "max_new_tokens"),
        ({"kl_target": 6.0, "kl_horizon": 32, "batch_size": 64}, "kl_horizon"),
        ({"lora": {"dropout": 0.1}}, "dropout"),
        ({"temperature": 0.0}, "temperature"),
        ({"top_k": 50}, "top_k"),
        ({"top_p": 0.9}, "top_p"),
        ({"clip": 1.0}, "clip"),
        ({"prompts": []}, "prompts"),
        ({"kl_estimator": "k4"}, "kl_estimator"),
        ({"min_new_tokens": 8}, "'min_new_tokens' would draw answers from another distribution"),
        ({"repetition_penalty": 1.1}, "'repetition_penalty' would draw"),
        ({"kl_in": "loss"}, "k1 has no gradient"),
        ({"reference_ema": 0.99, "lora": {}}, "reference_ema"),
        ({"min_tokens": 128, "max_new_tokens": 128}, "min_tokens"),
        ({"keep": "best"}, "eval_prompts"),
        ({"best_by": "judge", "reward_model": "pm"}, "best_by is 'judge', and the rewards are"),
        ({"dual_clip": 1.0}, "dual_clip"),
        ({"rewards": [{"kind": "checker", "rule": "json", "weight": 0}]}, "weight 0"),
        ({"temperature": 0.7, "rollout": {"ahead": True}}, "temperature is 0.7"),
        ({"temperature": 0.7, "rollout": {"engine": "vllm", "correction": "sequence"}}, "rollout.correction=none"),
        ({"rollout": {"max_weight": 1.0}}, "rollout.max_weight"),
        ({"rollout": {"engine": "openai"}}, "rollout.engine"),
        ({"rollout": {"top_p": 0.9}}, "rollout.top_p"),
        ({"rollout": {"engine": "vllm_server"}}, "'vllm_server' and 'server' go together"),
        ({"rollout": {"server": {"base_url": "http://127.0.0.1:8000/v1"}}}, "go together"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        config(**changes)


@pytest.mark.parametrize("name", module.REFUSED)
def test_whatever_bends_the_distribution_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match=f"'{name}' would draw answers from another distribution"):
        config(**{name: 1})


def test_without_a_correction_any_temperature_is_sampled_ahead() -> None:
    assert config(temperature=0.7, rollout={"ahead": True, "correction": "none"}).rollout.is_off_policy
    assert not config(temperature=0.7).rollout.is_off_policy


def test_every_setting_says_what_it_is() -> None:
    own = set(PPOConfig.model_fields) - set(TrainConfig.model_fields)
    fields = {name: PPOConfig.model_fields[name] for name in own} | RolloutSettings.model_fields
    silent = [name for name, field in fields.items() if not field.description]
    assert silent == []


def test_the_estimators_are_those_of_the_losses() -> None:
    assert module.Estimator == kl.Estimator


def test_planning_loads_no_torch() -> None:
    code = "import sys, cai.train.ppo.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
