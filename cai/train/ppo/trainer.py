"""PPO from start to end: roll out, score, learn, log, save; on one process or many, killed and started again.

A step is a function of the weights, the optimizer, the KL coefficient, the answers that were drawn ahead, and the
step's number: prompts, seeds and order of updates all come from (seed, step). That is all there is to exact resumption.
"""

import functools
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from accelerate import Accelerator
from accelerate.utils import gather_object, set_seed

from cai.engines.loading import read_tokenizer
from cai.engines.render import Renderer
from cai.errors import InputError, Problem
from cai.judges.preference_model import check_asked
from cai.losses.kl import adapt_coefficient
from cai.progress import Progress
from cai.records.loaders import load_prompts
from cai.records.schema import Prompt
from cai.storage import atomic_write_json, digest, seed_from
from cai.train.checkpoints import newest_checkpoint, set_damaged_aside
from cai.train.common import (
    RESULT,
    STATE,
    MetricsLog,
    alone,
    keep_trackers_local,
    read_metrics,
    save_adapted,
    save_model,
)
from cai.train.hf import prepare_process
from cai.train.made_under import constitutions_of
from cai.train.ppo import checkpoint
from cai.train.ppo.answers import Answers
from cai.train.ppo.batch import Batch, make_batch
from cai.train.ppo.checkpoint import Progressed
from cai.train.ppo.config import PPOConfig
from cai.train.ppo.held import hold
from cai.train.ppo.held_out import HeldOut
from cai.train.ppo.importance import corrected
from cai.train.ppo.monitor import Clock, log_table, peak_memory_mb, readings, shown_samples
from cai.train.ppo.pieces import Gathered, cuts
from cai.train.ppo.policy import Reference, load_policy, trained_anew
from cai.train.ppo.rollout import add_scores, check_finite, gather_samples, score_tokens
from cai.train.ppo.sampler import build_sampler
from cai.train.ppo.step import Learner
from cai.train.rewards.config import folders_of
from cai.train.rewards.sources import build_rewards, check_sources
from cai.train.rewards.sum import RewardFunction, Rewards


@alone
def run_ppo(config: PPOConfig, reward_fn: RewardFunction | None = None) -> None:
    """Train a policy by PPO, from its last checkpoint if there is one; a run that is done is left as it is.

    `reward_fn` stands in for the config's rewards. It is given the answers of one process at a time.
    """
    if reward_fn is None and not config.all_rewards:
        problem = "no preference model is named, and no other reward"
        raise InputError(Problem("reward_model", 0, 0, problem, "give its folder, or a list of rewards"))
    keep_trackers_local(config)
    trainer = Trainer(config, accelerator_of(config), reward_fn)
    try:
        trainer.train()
        trainer.finish()
    finally:
        trainer.answers.close()


def accelerator_of(config: PPOConfig) -> Accelerator:
    """Return accelerate's view of the processes, as a launch config has set them up."""
    # An update's rows say how many passes it has; a launch config's "auto" is for Transformers' trainers.
    os.environ.pop("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", None)
    return Accelerator(log_with=list(config.report_to) or None, project_dir=str(config.out / "trackers"))


class Trainer:
    """The parts of a run, and its loop."""

    def __init__(self, config: PPOConfig, accelerator: Accelerator, reward_fn: RewardFunction | None = None) -> None:
        """Load everything, and the newest checkpoint over it. Input is checked before the first model is loaded."""
        self.config, self.accelerator = config, accelerator
        device = accelerator.device
        in_pieces = cuts(accelerator)
        self.tokenizer = read_tokenizer(config.model)
        if reward_fn is None:
            check_sources(config.all_rewards, base=None if config.lora is None or in_pieces else config.model)
        if config.value_init is not None:
            check_asked(str(config.value_init), head=config.value_init_head, key="value_init_head")
        renderer = Renderer(self.tokenizer)
        self.prompts, self.too_long = usable_prompts(config, config.prompts, renderer)
        held_out = usable_prompts(config, config.eval_prompts, renderer)[0] if config.eval_prompts else []
        refuse_common(self.prompts, held_out, config)
        prompts = digest([prompt.key for prompt in self.prompts])
        set_damaged_aside(config.out / "checkpoints")
        saved = newest_checkpoint(config.out / "checkpoints")
        self.begun = Progressed(0, config.kl_coefficient)
        if saved is not None:
            self.begun = checkpoint.read_state(saved, config, prompts=prompts)
        self.about = checkpoint.about(config, prompts=prompts)
        self.kl_coefficient, self.seen = self.begun.kl_coefficient, self.begun.seen

        prepare_process(seed_from(config.seed, "ppo start") % 2**32)
        policy = load_policy(config, device, in_pieces=in_pieces)
        held = functools.partial(hold, policy)
        self.rewards = Rewards.of(reward_fn) if reward_fn else build_rewards(config.all_rewards, device, hold=held)
        # Before a checkpoint's weights: the reference is where training started.
        self.reference = Reference(policy, config, device)
        if saved is not None:
            checkpoint.load_weights(saved, policy)
            if self.reference.moves:
                checkpoint.load_reference(saved, self.reference.network)
        rank, world = accelerator.process_index, accelerator.num_processes
        sampler = build_sampler(policy, config, self.tokenizer, accelerator)
        self.engine, self.renderer = sampler.engine, sampler.renderer
        drawn = checkpoint.read_ahead(saved) if saved is not None else None
        self.answers = Answers(sampler, self.prompts, config, rank=rank, world=world, drawn=drawn)
        self.learner = Learner(accelerator, policy, config, pad_id=self.renderer.pad_id)
        if saved is not None:
            self.learner.updates.load(saved)
        # Nobody writes in the folder before everybody has read it.
        accelerator.wait_for_everyone()
        self.held_out = HeldOut(held_out, config, accelerator, anew=saved is None)
        main = accelerator.is_main_process
        self.metrics = MetricsLog(config.out / "metrics.jsonl", main=main, resume_step=self.begun.step)
        self.samples = MetricsLog(config.out / "samples.jsonl", main=main, resume_step=self.begun.step)
        if config.report_to:
            accelerator.init_trackers("cai-ppo", config=_flat(config.to_plain()))

    def train(self) -> None:
        """Take the steps that are left."""
        config = self.config
        quiet = not self.accelerator.is_main_process
        bar = Progress("PPO", config.steps, "steps", done=self.begun.step, quiet=quiet)
        for step in range(self.begun.step + 1, config.steps + 1):
            values = self.step(step)
            reading = f"score {values['score']:.3f}  KL {values['kl']:.2f}  {values['tokens_per_s']:.0f} tokens/s"
            bar.advance(note=reading)
            if config.save_every and step % config.save_every == 0 and step < config.steps:
                self.save(step)
        bar.close()

    def step(self, step: int) -> dict[str, float]:
        """Roll out, learn, and log one step (from 1)."""
        # Whatever draws from a global generator, a reward function say, draws the same after a restart.
        set_seed(seed_from(self.config.seed, "ppo step", step, self.accelerator.process_index) % 2**32)
        clock = Clock()
        batch, weighed = corrected(self.rollouts(step, clock), self.config, step=step)
        values = readings(batch, self.config, asked=self.config.batch_size, kl_coefficient=self.kl_coefficient)
        values |= weighed
        with clock.phase("train"):
            values |= self.learner.learn(batch, step=step)
        values["learning_rate"] = self.config.learning_rate
        self.reference.follow()
        if self.held_out.is_due(step):
            with clock.phase("held_out"):
                self.answers.refresh()
                values |= self.held_out.measure(self.engine, self.renderer, self.rewards)
            if self.config.keep == "best":
                self.held_out.keep_if_best(self._gathered(), step, values)
        values |= clock.readings(int(batch.mask_BT.sum()))
        self._log(step, values, batch)
        if self.config.kl_target is not None:
            self.kl_coefficient = adapt_coefficient(
                self.kl_coefficient,
                values["kl"],
                target=self.config.kl_target,
                horizon=self.config.kl_horizon,
                n=len(batch.samples),
            )
        return values

    def rollouts(self, step: int, clock: Clock) -> Batch:
        """Return the step's batch, the same on every process."""
        with clock.phase("rollout"):
            answered = self.answers.of_step(step)
        with clock.phase("reward"):
            samples = gather_samples(add_scores(answered, self.rewards))
        with clock.phase("reference"):
            plan = self.learner.plan(samples, step=step, epoch=0)
            pad_id, device = self.renderer.pad_id, self.accelerator.device
            logprobs, values = score_tokens(self.learner.scorer, samples, plan, pad_id=pad_id, device=device)
            (ref_logprobs,) = score_tokens(
                lambda inputs: (self.reference(inputs),), samples, plan, pad_id=pad_id, device=device
            )
        self.seen = self.seen.plus([cast(float, sample.score) for sample in samples])
        check_finite(samples, logprobs_BT=logprobs, ref_logprobs_BT=ref_logprobs, values_BT=values)
        return make_batch(
            samples,
            logprobs_BT=logprobs,
            ref_logprobs_BT=ref_logprobs,
            values_BT=values,
            config=self.config,
            kl_coefficient=self.kl_coefficient,
            seen=self.seen,
        )

    def _log(self, step: int, values: dict[str, float], batch: Batch) -> None:
        self.metrics.log(step, values)
        every = self.config.samples_every
        if every and (step % every == 0 or step in (1, self.config.steps)):
            shown = shown_samples(batch, self.config.samples_shown)
            for sample in shown:
                self.samples.log(step, cast(dict[str, float], sample))
            log_table(self.accelerator, shown, step=step)
        if self.config.report_to:
            self.accelerator.log(values, step=step)

    def _gathered(self, optimizer: Any = None) -> Any:
        """Return the trained weights whole, with an optimizer's moments if it is given: for checkpoints."""
        return Gathered(self.learner.policy, optimizer, keep=self.accelerator.is_main_process)

    def save(self, step: int) -> None:
        """Write a checkpoint."""
        self.learner.updates.save(checkpoint.place(self.config.out / "checkpoints", step))
        optimizer = self.learner.updates.optimizer
        state = self._gathered(optimizer)
        ahead = self.answers.ahead()
        if ahead is not None:
            ahead = gather_object(ahead)
        if self.accelerator.is_main_process:
            checkpoint.save(
                self.config.out / "checkpoints",
                Progressed(step, self.kl_coefficient, self.seen),
                model=state,
                optimizer=None if optimizer is None else state,
                about=self.about,
                reference=self.reference.network if self.reference.moves else None,
                ahead=ahead,
            )
        self.accelerator.wait_for_everyone()

    def finish(self) -> None:
        """Save the model, then say that all is done, then drop the checkpoints."""
        state = self._gathered()
        kept = self.held_out.restore(state)
        if self.accelerator.is_main_process:
            under = constitutions_of(models=[self.config.model, *map(str, folders_of(self.config.all_rewards))])
            trained, out = trained_anew(self.learner.policy, self.config, state), self.config.out
            if self.config.lora is not None:
                save_adapted(trained, self.tokenizer, out, constitutions=under)
            else:
                save_model(trained, self.tokenizer, out / "model", constitutions=under)
            about = {} if kept is None else {"kept_step": kept}
            atomic_write_json(self.config.out / RESULT, {**self.summary(), **about})
            for name in STATE:
                shutil.rmtree(self.config.out / name, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        if self.config.report_to:
            self.accelerator.end_training()

    def summary(self) -> dict[str, Any]:
        """Return the run in a few figures: the means of its first and its last tenth of steps."""
        rows = read_metrics(self.config.out / "metrics.jsonl")
        tenth = max(1, len(rows) // 10)

        def mean(name: str, part: Sequence[dict[str, Any]]) -> float:
            return float(sum(row[name] for row in part)) / len(part)

        return {
            "counts": {
                "steps": len(rows),
                "answers": len(rows) * self.config.batch_size - int(sum(row["dropped"] for row in rows)),
                "prompts": len(self.prompts),
                "prompts_too_long": self.too_long,
            },
            "score": {"first": mean("score", rows[:tenth]), "last": mean("score", rows[-tenth:])},
            "kl": mean("kl", rows[-tenth:]),
            "seconds": sum(row["seconds"] for row in rows),
            "peak_memory_mb": peak_memory_mb(),
            "processes": self.accelerator.num_processes,
        }


def usable_prompts(config: PPOConfig, paths: Sequence[Path], renderer: Renderer) -> tuple[list[Prompt], int]:
    """Return the prompts that leave room for an answer, and how many are too long for that.

    Raises InputError for files that can't be read, and when no prompt is left.
    """
    prompts = load_prompts(paths)
    room = config.max_length - config.max_new_tokens
    fitting = [prompt for prompt in prompts if len(renderer.prompt_ids(prompt.messages)) <= room]
    if not fitting:
        problem = "no prompt" if not prompts else f"no prompt of at most {room} tokens (max_length less max_new_tokens)"
        raise InputError(Problem(str(paths[0]), 0, 0, problem, "give more prompts, or raise max_length"))
    return fitting, len(prompts) - len(fitting)


def refuse_common(prompts: Sequence[Prompt], held_out: Sequence[Prompt], config: PPOConfig) -> None:
    """Raise InputError when a held-out prompt is trained on."""
    common = {prompt.key for prompt in prompts} & {prompt.key for prompt in held_out}
    if common:
        problem = f"{len(common)} of its prompts are trained on"
        raise InputError(Problem(str(config.eval_prompts[0]), 0, 0, problem, "take them out of one of the two"))


def _flat(plain: dict[str, Any]) -> dict[str, int | float | str | bool]:
    """Return settings as trackers take them."""
    return {
        name: value if isinstance(value, int | float | str | bool) else json.dumps(value)
        for name, value in plain.items()
    }
