"""What the page on PPO shows works: its config loads, its Python runs, its table has every reading that a step logs."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from accelerate.utils import DistributedType
from peft import PeftModel
from transformers import AutoModelForCausalLM

from cai.config import load_config
from cai.train.ppo.config import PPOConfig, RolloutSettings
from cai.train.ppo.trainer import run_ppo
from cai.train.rewards.config import RewardEntry, names_of
from cai.train.rewards.sources import build_rewards, check_sources
from cai.types import Message
from tests.judges.test_preference_model import classifier
from tests.train import rig
from tests.train.ppo.rig import metrics, settings

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "ppo.md").read_text(encoding="utf-8")


def rows_of(section: str) -> list[list[str]]:
    text = PAGE.split(f"## {section}\n")[1].split("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("| ")][1:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_the_configs_load(tmp_path: Path) -> None:
    configs = {}
    for name, text in re.findall(r"```yaml\n# (\S+)\n(.*?)```", PAGE, flags=re.DOTALL):
        (tmp_path / name).write_text(text, encoding="utf-8")
        configs[name] = load_config(PPOConfig, tmp_path / name, [])
    assert [entry.kind for entry in configs.pop("ppo.yaml").all_rewards] == ["model", "checker", "ensemble"]
    assert names_of(configs.pop("scores.yaml").rewards) == ["harmless", "helpful", "worse", "brief"]
    assert configs.pop("one_base.yaml").lora is not None
    assert not configs


def test_a_preference_model_over_the_policys_own_base(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_model_dir, "runs/sft/model")
    judge = rig.settings("reward", Path("runs/reward"), Path("runs/sft/model"), lora={"r": 2}, out=Path("runs/reward"))
    rig.KINDS["reward"][1](judge)
    prompts = rig.write(Path("prompts.jsonl"), [{"prompt": rig.sentence(number, 4)} for number in range(4)])
    (text,) = re.findall(r"```yaml\n# one_base.yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    Path("one_base.yaml").write_text(text, encoding="utf-8")
    small = [f"prompts={prompts}", "steps=1", "batch_size=4", "max_new_tokens=4"]
    run_ppo(load_config(PPOConfig, Path("one_base.yaml"), small))
    start = AutoModelForCausalLM.from_pretrained("runs/sft/model")
    assert PeftModel.from_pretrained(start, "runs/ppo/adapter").peft_config["default"].peft_type == "LORA"
    assert "score" in metrics(Path("runs/ppo"))[0]


def test_rewards_by_head_and_principle_are_asked_for_and_scored(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    classifier(tiny_model_dir, Path("runs/two/model"), heads=("harmless", "helpful"))
    classifier(tiny_model_dir, Path("runs/told/model"), told=True)
    (text,) = re.findall(r"```yaml\n# scores.yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    Path("scores.yaml").write_text(text, encoding="utf-8")
    entries = load_config(PPOConfig, Path("scores.yaml"), []).all_rewards
    check_sources(entries)
    (score,) = build_rewards(entries, torch.device("cpu")).score([(Message("user", "A fox?"),)], ["It is good."])
    parts = score.parts
    assert score.total == pytest.approx(parts["harmless"] + 0.5 * parts["helpful"] + 0.1 * parts["brief"])
    assert parts["worse"] == min(parts["harmless"], parts["helpful"])


def test_the_settings_of_rollouts_are_those_that_there_are() -> None:
    told = [name for row in rows_of("Rollouts") for name in re.findall(r"`rollout\.(\w+)`", row[0])]
    assert sorted(told) == sorted(RolloutSettings.model_fields)


def test_the_command_for_a_server_loads(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n# ppo.yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    (tmp_path / "ppo.yaml").write_text(text, encoding="utf-8")
    ((recipe, name, words),) = re.findall(
        r"^    accelerate launch (\S+) --config (\S+) (.*)$", PAGE, flags=re.MULTILINE
    )
    assert (ROOT / recipe).is_file()
    config = load_config(PPOConfig, tmp_path / name, words.split())
    assert config.rollout.engine == "vllm_server"
    assert config.rollout.server is not None
    (served,) = re.findall(
        r"^    VLLM_SERVER_DEV_MODE=1 vllm serve \S+ --host (\S+) --port (\d+)$", PAGE, flags=re.MULTILINE
    )
    assert config.rollout.server.host == ":".join(served)


def test_the_command_for_pieces_names_files_that_are_there() -> None:
    (words,) = re.findall(r"^    accelerate launch (--config_file .*)$", PAGE, flags=re.MULTILINE)
    given = launch_command_parser().parse_args(words.split())
    assert load_config_from_file(str(ROOT / given.config_file)).distributed_type == DistributedType.FSDP
    assert (ROOT / given.training_script).is_file()
    assert given.training_script_args == ["--config", "ppo.yaml"]


def test_the_python_runs() -> None:
    (program,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "total=0.7" in done.stdout


def test_the_kinds_of_rewards_and_their_settings_are_those_that_there_are() -> None:
    kinds = {
        kind.model_fields["kind"].annotation.__args__[0]: kind
        for kind in (get_args(choice)[0] for choice in get_args(get_args(RewardEntry)[0]))
    }
    shown = {re.sub("`", "", row[0]): re.findall(r"`(\w+)`", row[2]) for row in rows_of("Rewards")}
    assert shown.keys() == kinds.keys()
    assert all(name in kinds[kind].model_fields for kind, names in shown.items() for name in names)


def test_every_reading_of_a_step_is_explained(tmp_path: Path, tiny_model_dir: Path) -> None:
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text('{"prompt": "And now?"}\n')
    rewards = [{"kind": "checker", "rule": "not_empty"}, {"kind": "checker", "rule": "json", "weight": 0}]
    config = settings(
        tmp_path, tiny_model_dir, steps=1, rewards=rewards, eval_prompts=[held_out], entropy_coefficient=0.1,
        kl_in="loss", kl_estimator="k2", kl_coefficient=1.0, rollout={"ahead": True},
    )  # fmt: skip
    run_ppo(config)
    logged = set(metrics(config.out)[0]) - {"step"} | {"seconds", "tokens_per_s"}
    logged = {re.sub("^(eval_)?reward_.*", r"\1reward_NAME", name) for name in logged}
    told = {name for row in rows_of("What to look at") for name in re.findall(r"`(\w+)`", row[0])} - {"seconds_PHASE"}
    assert logged == told


def test_the_defaults_are_those_of_the_table() -> None:
    fields = PPOConfig.model_fields
    here = {row[0]: row[1] for row in rows_of("Choices")}
    assert here["answers per step"] == str(fields["batch_size"].default)
    assert here["epochs"] == str(fields["epochs"].default)
    assert here["KL penalty"] == f"{fields['kl_coefficient'].default} in the {fields['kl_in'].default}"
    assert here["its estimate"] == fields["kl_estimator"].default
    assert here["gamma, lambda"] == f"{fields['gamma'].default:g}, {fields['lam'].default}"
    assert (here["clip"], here["value clip"]) == (str(fields["clip"].default), str(fields["value_clip"].default))
    assert here["loss per"] == fields["normalize_by"].default
    off = ("kl_target", "dual_clip", "reward_clip", "entropy_coefficient")
    assert all(not fields[name].default for name in off)
    assert here["learning rate"] == "1e-5, values 1e-4"
    assert (fields["learning_rate"].default, fields["value_learning_rate"].default) == (1e-5, 1e-4)


def test_the_commands_are_there() -> None:
    shown = re.findall(r"^    python (benchmarks/\w+\.py) +(?:(--\w+)|#)", PAGE, flags=re.MULTILINE)
    assert len(shown) == 4
    for script, flag in shown:
        text = (ROOT / script).read_text(encoding="utf-8")
        assert not flag or f'"{flag}"' in text
