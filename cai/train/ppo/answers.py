"""When a step's answers are drawn: at its beginning, or one step ahead, while the step before it trains.

    step        1             2             3             4
    drawn by    weights 0     weights 0     weights 1     weights 2       ahead
                weights 0     weights 1     weights 2     weights 3       at its beginning

where weights 0 are the start and step t makes weights t. So what a step trains on is a function of weights and seeds,
and no matter of timing. The batch under way is a part of the checkpoint: its weights are gone when the run goes on.
"""

import contextlib
from collections.abc import Sequence
from concurrent.futures import Future
from threading import Thread

from cai.records.schema import Prompt
from cai.train.ppo.batch import Sample
from cai.train.ppo.config import PPOConfig
from cai.train.ppo.rollout import prompts_of_step, sample_answers
from cai.train.ppo.sampler import Sampler

CLOSING = 20.0
"""Seconds to wait for what is under way when the run ends; it is never used."""


class Answers:
    """Gives this process's share of each step's answers, as yet without scores."""

    def __init__(
        self,
        sampler: Sampler,
        prompts: Sequence[Prompt],
        config: PPOConfig,
        *,
        rank: int = 0,
        world: int = 1,
        drawn: Sequence[Sample] | None = None,
    ) -> None:
        """Go on with answers that a checkpoint has for the next step, those of all processes."""
        self._sampler, self._prompts, self._config = sampler, prompts, config
        self._rank, self._world = rank, world
        self._next: Future[list[Sample]] | None = None
        if drawn is not None:
            self._next = Future()
            self._next.set_result([sample for sample in drawn if sample.row % world == rank])

    def of_step(self, step: int) -> list[Sample]:
        """Return a step's answers (from 1), and begin with the next ones if they are to be drawn ahead."""
        drawn = self._next.result() if self._next is not None else None
        self._next = None
        self._sampler.refresh()
        if drawn is None:
            drawn = self._draw(step)
        if self._config.rollout.ahead and step < self._config.steps:
            self._begin(step + 1)
        return drawn

    def ahead(self) -> list[Sample] | None:
        """Wait for the next step's answers and return them; None if none are drawn ahead."""
        return None if self._next is None else self._next.result()

    def refresh(self) -> None:
        """Make the sampler answer by the present weights, once it has nothing under way."""
        self.ahead()
        self._sampler.refresh()

    def close(self) -> None:
        """Let go of what is under way, and of the engine."""
        if self._next is not None and not self._next.done():
            self._sampler.interrupt()
            with contextlib.suppress(TimeoutError):
                self._next.exception(timeout=CLOSING)
        self._next = None
        self._sampler.close()

    def _draw(self, step: int) -> list[Sample]:
        prompts = prompts_of_step(self._prompts, self._config, step)
        return sample_answers(
            self._sampler.engine,
            self._sampler.renderer,
            prompts,
            self._config,
            step=step,
            rank=self._rank,
            world=self._world,
        )

    def _begin(self, step: int) -> None:
        future: Future[list[Sample]] = Future()

        def draw() -> None:
            try:
                future.set_result(self._draw(step))
            except BaseException as error:
                future.set_exception(error)

        self._next = future
        # A daemon: a second Ctrl-C need not wait for it.
        Thread(target=draw, name="rollout", daemon=True).start()
