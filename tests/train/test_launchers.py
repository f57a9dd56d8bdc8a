"""Launch configs, of which accelerate makes the plan they say; and recipes in two processes, to plain models."""

import os
import re
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DeepSpeedPlugin, FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env
from safetensors.torch import load_file
from torch.distributed.fsdp import StateDictType
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from cai.train.checkpoints import newest_checkpoint
from tests.train import rig
from tests.train.zero import launched, needs_deepspeed

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "recipes" / "configs" / "accelerate"


def planned(name: str, monkeypatch: pytest.MonkeyPatch, recipe: str = "sft") -> Namespace:
    """Read a config as `accelerate launch` does, and set the environment that it would give each process."""
    command = ["--config_file", str(CONFIGS / f"{name}.yaml"), f"recipes/{recipe}.py"]
    given = launch_command_parser().parse_args(command)
    arguments: Namespace
    arguments, defaults, _ = _validate_launch_command(given)
    arguments.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
    before = dict(os.environ)
    told = prepare_deepspeed_cmd_env(arguments)[1] if arguments.use_deepspeed else prepare_multi_gpu_env(arguments)
    monkeypatch.setattr(os, "environ", before)  # accelerate has written into it
    for key, value in told.items():
        if "ACCELERATE" in key or "FSDP" in key:
            monkeypatch.setenv(key, value)
    return arguments


def test_every_config_is_looked_at_here() -> None:
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == {"ddp", "fsdp2", "deepspeed_zero2", "deepspeed_zero3"}


def test_ddp_is_one_process_for_each_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    found = planned("ddp", monkeypatch)
    assert (found.multi_gpu, found.use_fsdp, found.use_deepspeed, found.num_processes) == (True, False, False, 8)


def test_fsdp2_cuts_by_layers_and_writes_pieces(monkeypatch: pytest.MonkeyPatch, tiny_model_dir: Path) -> None:
    assert planned("fsdp2", monkeypatch).use_fsdp
    plugin: Any = FullyShardedDataParallelPlugin()
    assert (plugin.fsdp_version, plugin.reshard_after_forward, plugin.cpu_ram_efficient_loading) == (2, True, False)
    assert plugin.state_dict_type == StateDictType.SHARDED_STATE_DICT
    plugin.set_auto_wrap_policy(AutoModelForCausalLM.from_pretrained(tiny_model_dir))
    assert {layer.__name__ for layer in plugin.auto_wrap_policy.keywords["transformer_layer_cls"]} == {
        "LlamaDecoderLayer"
    }


@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_takes_its_batch_from_the_recipe(monkeypatch: pytest.MonkeyPatch, stage: int) -> None:
    assert planned(f"deepspeed_zero{stage}", monkeypatch).use_deepspeed
    plugin: Any = DeepSpeedPlugin()
    plan = plugin.deepspeed_config
    assert plan["zero_optimization"]["stage"] == stage
    assert plan["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] == (stage == 3)
    assert not plugin.zero3_init_flag
    recipe = {"train_batch_size": 32, "gradient_accumulation_steps": 2, "gradient_clipping": 1.0}
    plugin.deepspeed_config_process(must_match=True, train_micro_batch_size_per_gpu=2, **recipe)
    assert recipe.items() <= plan.items()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_recipes_in_two_processes_end_in_plain_models(tiny_model_dir: Path, tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    launcher += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    chats = rig.write(tmp_path / "chats.jsonl", [rig.chat(number) for number in range(8)])
    pairs = rig.write(tmp_path / "pairs.jsonl", [rig.pair(number) for number in range(8)])
    start = tiny_model_dir
    for recipe, data in (("sft", chats), ("dpo", pairs), ("reward", pairs)):
        out = tmp_path / recipe
        command = [*launcher, str(ROOT / "recipes" / f"{recipe}.py"), f"model={start}", f"data=[{data}]", f"out={out}"]
        command += ["batch_size=4", "learning_rate=1e-3", "precision=fp32"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-4000:]
        auto = AutoModelForSequenceClassification if recipe == "reward" else AutoModelForCausalLM
        rig.loaded_whole(auto, out / "model")
        assert AutoTokenizer.from_pretrained(out / "model").chat_template
        before, after = (load_file(folder / "model.safetensors") for folder in (start, out / "model"))
        assert rig.largest_difference({name: after[name] for name in before}, before) > 1e-4
        start = out / "model"


BREAKS = """
import sys
import torch
from cai.errors import TrainingError
from cai.processes import leave, rank
from cai.train import sft
from cai.train.configs import SFTConfig
from tests.train.zero import without_gpu
seen = []
def pieces(trainer):
    return [getattr(weight, "ds_tensor", weight).detach().clone() for weight in trainer.model.parameters()]
class Breaks(sft.SFTTrainer):
    def loss_sum(self, model, batch):
        total, sums = super().loss_sum(model, batch)
        seen.append((self, pieces(self)))
        if rank() == 1 and self.state.global_step == 1:
            total = total + (total * 0).sqrt()  # finite, and its gradient is not
        return total, sums
sft.SFTTrainer = Breaks
without_gpu()
try:
    sft.run_sft(SFTConfig.model_validate_json(open(sys.argv[1]).read()))
except TrainingError as error:
    open(sys.argv[1] + f".rank{rank()}", "w").write(str(error))
(_, first), *_, (trainer, last) = seen
assert all(torch.equal(one, other) for one, other in zip(last, pieces(trainer)))
assert not all(torch.equal(one, other) for one, other in zip(first, last))
leave(0)
"""


@needs_deepspeed
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("stage", [2, 3])
def test_under_deepspeed_a_gradient_that_breaks_in_one_process_stops_both(
    tmp_path: Path, tiny_model_dir: Path, stage: int
) -> None:
    settings = rig.settings("sft", tmp_path, tiny_model_dir, save_every=1)
    (tmp_path / "config.json").write_text(settings.model_dump_json())
    (tmp_path / "breaks.py").write_text(BREAKS)
    done = launched(stage, [str(tmp_path / "breaks.py"), str(tmp_path / "config.json")])
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = ((tmp_path / f"config.json.rank{rank}").read_text() for rank in (0, 1))
    assert first == second
    assert re.fullmatch(r"the gradient is not finite at step 2; rows .*; no weight was changed", first)
    assert first.count("rows.jsonl:") == 4  # those of the step
    newest = newest_checkpoint(settings.out / "checkpoints")
    assert newest is not None
    assert newest.name == "checkpoint-1"


@needs_deepspeed
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("kind", "stage"), [("sft", 2), ("reward", 3), ("dpo", 3)])
def test_under_deepspeed_two_processes_end_where_one_does(
    tmp_path: Path, tiny_model_dir: Path, kind: str, stage: int
) -> None:
    """DPO is killed once, and goes on from its checkpoint."""
    alone, cut = (
        rig.settings(kind, tmp_path / name, tiny_model_dir, rows=16, learning_rate=1e-4) for name in ("alone", "cut")
    )
    rig.KINDS[kind][1](alone)
    path = tmp_path / "config.json"
    path.write_text(cut.model_copy(update={"save_every": 2}).model_dump_json())
    for words in (["2"], []) if kind == "dpo" else ([],):
        done = launched(stage, ["-m", "tests.train.zero", kind, str(path), *words])
        assert (done.returncode == 0) == (not words), done.stderr[-3000:]
        assert not words or newest_checkpoint(cut.out / "checkpoints") is not None
    start, expected, found = (
        load_file(folder / "model.safetensors") for folder in (tiny_model_dir, alone.out / "model", cut.out / "model")
    )
    assert expected.keys() == found.keys()
    assert max(float((expected[name] - found[name]).abs().max()) for name in expected) <= 5e-6
    assert max(float((expected[name] - start[name]).abs().max()) for name in expected if name in start) > 2e-4
