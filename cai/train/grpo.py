"""GRPO and RLOO: TRL's trainers with our rewards, prompts, output folder and readings.

The update, the sampling and the resume from a checkpoint are TRL's and Transformers'; what is here hands them their
settings, lets rewards that fail stay without a score (TRL leaves those answers out), refuses rewards that are no finite
number, and writes the folder of `cai.train.common`.
"""

import math
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, PrinterCallback

from cai.engines.embedded import resolve_model
from cai.engines.loading import read_tokenizer, readable, whole
from cai.engines.render import Renderer
from cai.errors import InputError, Problem, TrainingError
from cai.judges.trl_reward import TRLReward
from cai.processes import is_main, world
from cai.records.loaders import load_prompts
from cai.records.schema import Prompt
from cai.storage import atomic_write_json
from cai.train.checkpoints import newest_checkpoint, set_damaged_aside
from cai.train.common import RESULT, alone, keep_trackers_local, read_metrics, wants_bf16
from cai.train.group_config import GroupConfig, GRPOConfig, RLOOConfig
from cai.train.hf import Watch, peak_memory_mb, prepare_process, save_trained
from cai.train.made_under import constitutions_of
from cai.train.rewards.config import folders_of
from cai.train.rewards.sources import build_rewards, check_sources
from cai.train.rewards.sum import RewardFunction, Rewards
from cai.train.same_run import SameRun
from cai.types import Dialogue

NAMES = {
    "reward": "score",
    "reward_std": "score_std",
    "kl": "kl_per_token",
    "entropy": "entropy",
    "completions/mean_length": "length",
    "completions/clipped_ratio": "cut_off",
    "clip_ratio/region_mean": "clip_fraction",
    "frac_reward_zero_std": "groups_without_spread",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
    "loss": "policy_loss",
}
"""What TRL logs, and what metrics.jsonl calls it: where PPO has the same reading, by PPO's name."""


def run_grpo(config: GRPOConfig, reward_fn: RewardFunction | None = None) -> None:
    """Train a policy by GRPO: `run_group` with its settings."""
    run_group(config, reward_fn)


def run_rloo(config: RLOOConfig, reward_fn: RewardFunction | None = None) -> None:
    """Train a policy by RLOO: `run_group` with its settings."""
    run_group(config, reward_fn)


@alone
def run_group(config: GroupConfig, reward_fn: RewardFunction | None = None) -> None:
    """Train a policy, from its last checkpoint if there is one; a run that is done is left as it is.

    `reward_fn` stands in for the config's rewards. Raises InputError before a model is loaded, TrainingError for a
    reward that is not a finite number.
    """
    if reward_fn is None and not config.all_rewards:
        problem = "no preference model is named, and no other reward"
        raise InputError(Problem("reward_model", 0, 0, problem, "give its folder, or a list of rewards"))
    check_sources([] if reward_fn else config.all_rewards)
    path = resolve_model(config.model)
    tokenizer: Any = read_tokenizer(config.model, padding_side="left")
    prompts, too_long = _usable(config, Renderer(tokenizer))
    args = _arguments(config)
    prepare_process(config.seed)
    rewards = Rewards.of(reward_fn) if reward_fn else build_rewards(config.all_rewards, args.device)
    trainer = _trainer(config, args, path, tokenizer, prompts, rewards)
    set_damaged_aside(config.out / "checkpoints")
    saved = newest_checkpoint(config.out / "checkpoints")
    done, run = int(saved.name.rpartition("-")[2]) if saved else 0, SameRun(config, config.prompts)
    if saved is not None:
        run.refuse_another(saved)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_Watch(config.out, config.algorithm.upper(), config.steps, done, run))
    trainer.train(resume_from_checkpoint=str(saved) if saved else None)
    trainer.accelerator.wait_for_everyone()
    under = constitutions_of(models=[config.model, *map(str, folders_of(config.all_rewards))])
    save_trained(trainer, tokenizer, config, constitutions=under)
    if is_main():
        last = read_metrics(config.out / "metrics.jsonl")[-1:]
        counts = {"steps": config.steps, "prompts": len(prompts), "prompts_too_long": too_long}
        about = {"counts": counts, "last": last, "peak_memory_mb": peak_memory_mb()}
        atomic_write_json(config.out / RESULT, about)
        shutil.rmtree(config.out / "checkpoints", ignore_errors=True)
    trainer.accelerator.wait_for_everyone()


def _usable(config: GroupConfig, renderer: Renderer) -> tuple[list[Prompt], int]:
    prompts = load_prompts(config.prompts)
    room = config.max_length - config.max_new_tokens
    fitting = [prompt for prompt in prompts if len(renderer.prompt_ids(prompt.messages)) <= room]
    if not fitting:
        problem = f"no prompt of at most {room} tokens (max_length less max_new_tokens)"
        raise InputError(Problem(str(config.prompts[0]), 0, 0, problem, "give more prompts, or raise max_length"))
    return fitting, len(prompts) - len(fitting)


def _arguments(config: GroupConfig) -> Any:
    """Return TRL's arguments; raises InputError when the answers of a step can't be shared out."""
    import trl

    keep_trackers_local(config)
    share, left = divmod(config.batch_size * config.generations, world())
    if left:
        problem = f"{config.batch_size * config.generations} answers can't be shared by {world()} processes"
        raise InputError(Problem("batch_size", 0, 0, problem, f"make it a multiple of {world()}"))
    micro = max(size for size in range(1, min(config.micro_batch, share) + 1) if share % size == 0)
    is_grpo = isinstance(config, GRPOConfig)
    own = {"loss_type": "dapo", "scale_rewards": config.scale_rewards} if isinstance(config, GRPOConfig) else {}
    cls: Any = trl.GRPOConfig if is_grpo else trl.RLOOConfig
    return cls(
        output_dir=str(config.out / "checkpoints"),
        max_steps=config.steps,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=share // micro,
        num_generations=config.generations,
        max_completion_length=config.max_new_tokens,
        temperature=config.temperature,
        beta=config.kl_coefficient,
        epsilon=config.clip,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        lr_scheduler_type="constant",
        bf16=wants_bf16(config.precision),
        use_cpu=not torch.cuda.is_available(),
        gradient_checkpointing=config.gradient_checkpointing,
        disable_dropout=True,
        logging_steps=1,
        save_strategy="steps" if config.save_every else "no",
        save_steps=config.save_every or 500,
        report_to=list(config.report_to) or "none",
        run_name=config.out.name,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        seed=config.seed,
        data_seed=config.seed,
        **own,
    )


def _trainer(
    config: GroupConfig, args: Any, path: str, tokenizer: Any, prompts: Sequence[Prompt], rewards: Rewards
) -> Any:
    import trl

    rows = [{"prompt": [turn._asdict() for turn in prompt.messages]} for prompt in prompts]
    with readable(config.model):
        loaded = AutoModelForCausalLM.from_pretrained(
            path, dtype="float32", trust_remote_code=False, output_loading_info=True
        )
    model = whole(config.model, loaded)
    cls: Any = trl.GRPOTrainer if isinstance(config, GRPOConfig) else trl.RLOOTrainer
    adapter = None
    if config.lora is not None:
        from peft import LoraConfig

        settings = config.lora
        adapter = LoraConfig(
            r=settings.r,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            target_modules=settings.target_modules,
            task_type="CAUSAL_LM",
        )
    return cls(
        model=model,
        args=args,
        reward_funcs=TRLReward(Totals(rewards), name="reward"),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=adapter,
    )


class Totals:
    """The sums of some rewards, of which there must be one for some answer at each step, and all must be finite."""

    def __init__(self, rewards: Rewards) -> None:
        """Add up these."""
        self._rewards = rewards

    def score(self, answers: Sequence[tuple[Dialogue, str]]) -> list[float | None]:
        """Return the sum for each (dialogue, answer), None for one without a score; raises TrainingError."""
        scores = self._rewards.score([dialogue for dialogue, _ in answers], [text for _, text in answers])
        broken = [row for row, score in enumerate(scores) if score.total is not None and not math.isfinite(score.total)]
        if broken:
            shown = ", ".join(repr(answers[row][0][-1].content[:40]) for row in broken[:5])
            raise TrainingError(
                f"the reward of {len(broken)} answers is not a finite number (prompts {shown}); the step was not "
                "taken: mend the reward, or let it return None for an answer without a score"
            )
        if scores and all(score.total is None for score in scores):
            why = "; ".join(sorted({score.failure for score in scores})[:5])
            raise TrainingError(f"no answer of this step has a reward ({why}); look at the prompts and the rewards")
        return [score.total for score in scores]


class _Watch(Watch):
    """Keeps what TRL logs under the names of PPO's readings."""

    def readings(self, logs: Mapping[str, float]) -> dict[str, float]:
        return {ours: float(logs[theirs]) for theirs, ours in NAMES.items() if theirs in logs}

    def note(self, found: Mapping[str, float]) -> str:
        return f"score {found.get('score', math.nan):.3f}"
