"""Answers to prompts that are not trained on: their rewards while training goes on, and the weights that did best.

The seeds are the same each time, so two readings differ by the policy and not by the draw. That the training reward
rises and these don't, or that a reward of weight 0 falls, is over-optimisation (Gao et al. 2022, arXiv 2210.10760).
"""

import shutil

from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from cai.engines.base import Engine
from cai.engines.render import Renderer
from cai.errors import TrainingError
from cai.records.schema import Prompt
from cai.train.checkpoints import newest_checkpoint, set_damaged_aside
from cai.train.ppo import checkpoint
from cai.train.ppo.config import PPOConfig
from cai.train.ppo.monitor import score_readings
from cai.train.ppo.rollout import add_scores, sample_answers
from cai.train.rewards.sum import Rewards

STEP = 0
"""The number that the seeds are made of; training steps count from 1."""


class HeldOut:
    """Measures the policy on prompts of its own, and keeps the best weights."""

    def __init__(self, prompts: list[Prompt], config: PPOConfig, accelerator: Accelerator, *, anew: bool) -> None:
        """Go on with the best so far, unless the run begins anew."""
        self._prompts, self._config, self._accelerator = prompts, config, accelerator
        self.folder = config.out / "best"
        if anew and accelerator.is_main_process:
            shutil.rmtree(self.folder, ignore_errors=True)
        set_damaged_aside(self.folder)

    def is_due(self, step: int) -> bool:
        """Tell whether there is something to measure after a step."""
        return bool(self._prompts) and (step % self._config.eval_every == 0 or step == self._config.steps)

    def measure(self, engine: Engine, renderer: Renderer, rewards: Rewards) -> dict[str, float]:
        """Return the readings of the present policy, the same on every process; each measures its share."""
        rank, world = self._accelerator.process_index, self._accelerator.num_processes
        answered = sample_answers(engine, renderer, self._prompts, self._config, step=STEP, rank=rank, world=world)
        everyone = sorted(gather_object(add_scores(answered, rewards)), key=lambda sample: sample.row)
        kept = [sample for sample in everyone if sample.score is not None]
        if not kept:
            raise TrainingError(
                "no answer to a prompt of eval_prompts has a reward; look at the prompts and the rewards"
            )
        return {f"eval_{name}": value for name, value in score_readings(kept).items()}

    def keep_if_best(self, model: nn.Module, step: int, found: dict[str, float]) -> None:
        """Save the weights if none before had such a score. A step that is taken again after a restart changes nothing.

        Raises TrainingError when the reward that decides has failed on every answer.
        """
        if self._config.keep != "best":
            return
        name = f"eval_reward_{self._config.best_by}" if self._config.best_by else "eval_score"
        if name not in found:
            raise TrainingError(f"the reward {self._config.best_by!r} has no score for any prompt of eval_prompts")
        if self._accelerator.is_main_process:
            kept = newest_checkpoint(self.folder)
            if kept is None or found[name] > checkpoint.read_best(kept)["score"]:
                checkpoint.save_best(self.folder, model, step=step, score=found[name])
        self._accelerator.wait_for_everyone()

    def restore(self, model: nn.Module) -> int | None:
        """Put the best weights into the model if they are wanted; return the step that they are of."""
        kept = newest_checkpoint(self.folder) if self._config.keep == "best" else None
        step = None
        if kept is not None:
            checkpoint.load_weights(kept, model)
            step = int(checkpoint.read_best(kept)["step"])
        self._accelerator.wait_for_everyone()  # then the folder may go
        return step
