"""Whether PPO is exact: killed at any step and gone on with, alone and in two processes.

Start: PYTHONPATH=. python benchmarks/exact_ppo.py [--quick]

R4: all weights; an adapter; and all weights with answers drawn one step ahead, a reference that follows, and scores
normalised by running moments. The KL coefficient is steered, the reward draws from Python's random numbers, and every
answer is sampled. A run of five steps is killed before the updates of each step, between the updates of one, and after
a checkpoint; in one process and in two (gloo), of which the last one is killed. The same command then ends with the
bits of a run that nobody stopped and that writes no checkpoint: metrics, shown samples, weights.

Prints `name ours target PASS|FAIL`; exits with 1 when one fails. `--quick`: a few of the cells.
"""

import argparse
import gc
import itertools
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import peft  # noqa: F401  before processes are forked, not in each
import torch

from benchmarks.exact import in_processes, report
from cai.processes import rank, world
from cai.train.ppo import checkpoint, rollout, updates
from cai.train.ppo import trainer as ppo
from cai.train.ppo.step import Learner, Update
from cai.types import Dialogue
from tests.engines import tiny
from tests.train.ppo import rig

WAYS: dict[str, dict[str, Any]] = {
    "full": {},
    "lora": {"lora": {"r": 4, "alpha": 8}},
    "ahead": {"rollout": {"ahead": True}, "reference_ema": 0.9, "normalize_scores": "running"},
}
STEPS = 5


class Stop(NamedTuple):
    """Where the last process of a run is killed."""

    step: int
    place: str = "rewards"
    """`rewards`: when the answers are there; `updates`: between two updates; `saved`: after the step's checkpoint."""
    every: int = 1
    """Steps between checkpoints."""


STOPS = {
    **{f"step {step}": Stop(step) for step in range(1, STEPS + 1)},
    "between updates": Stop(3, "updates"),
    "between checkpoints": Stop(4, "updates", every=3),
    "after a checkpoint": Stop(4, "saved", every=2),
}

Cell = tuple[str, int, str]
"""Way, processes, stop."""

QUICK: list[Cell] = [("full", 1, "between checkpoints"), ("ahead", 2, "step 4"), ("lora", 1, "step 2")]


def noisy(prompts: Sequence[Dialogue], answers: Sequence[str]) -> list[float | None]:
    """Score vowels, and a draw from the process's random numbers."""
    return [(score or 0.0) + 0.1 * random.random() for score in rig.vowels(prompts, answers)]


def dies_at(stop: Stop) -> None:
    """Have this process die there, if it is the last."""
    if rank() != world() - 1:
        return
    at = {"step": 0, "updates": 0}
    step, update, save = ppo.Trainer.step, Learner.update, ppo.Trainer.save

    def die_if(place: str) -> None:
        if (at["step"], place) == (stop.step, stop.place):
            os.kill(os.getpid(), signal.SIGKILL)

    def with_number(self: ppo.Trainer, number: int) -> dict[str, float]:
        at.update(step=number, updates=0)
        return step(self, number)

    def between(self: Learner, *args: Any) -> Update:
        if at["updates"] == 1:
            die_if("updates")
        at["updates"] += 1
        return update(self, *args)

    def saved(self: ppo.Trainer, number: int) -> None:
        save(self, number)
        die_if("saved")

    gathers = rollout.gather_samples

    def gathered(samples: Any) -> Any:
        die_if("rewards")
        return gathers(samples)

    ppo.Trainer.step, Learner.update, ppo.Trainer.save = with_number, between, saved  # type: ignore[method-assign,assignment]
    ppo.gather_samples = gathered


def train(config: Any, stop: Stop | None) -> None:
    """Train in this process, from whatever its random numbers have come to."""
    torch.manual_seed(os.getpid())
    random.seed(os.getpid())
    if stop is not None:
        dies_at(stop)
    ppo.run_ppo(config, noisy)


class Runs:
    """Runs of one folder, and what those that nobody stopped have come to."""

    def __init__(self, folder: Path) -> None:
        """Make the model."""
        self._folder, self._model = folder, folder / "model"
        tiny.llama().save_pretrained(self._model)
        tiny.tokenizer().save_pretrained(self._model)
        self._whole: dict[tuple[str, int], tuple[Any, bytes, dict[str, torch.Tensor]]] = {}

    def _trained(self, way: str, processes: int, name: str, stop: Stop | None) -> Any:
        steered = {"kl_target": 0.01, "kl_horizon": 10, "kl_coefficient": 0.2}
        values = {"steps": STEPS, "batch_size": 6, "micro_batch": 1, "save_every": 0 if stop is None else stop.every}
        config = rig.settings(self._folder / name, self._model, **{**values, **steered, **WAYS[way]})
        if stop is not None:
            codes = in_processes(processes, partial(train, config, stop))
            if -signal.SIGKILL not in codes or 0 in codes:
                raise SystemExit(f"{way}: ended with {codes} in place of a kill")
        if any(in_processes(processes, partial(train, config, None))):
            raise SystemExit(f"{config.out}: a training that nobody stopped has failed")
        return rig.metrics(config.out), (config.out / "samples.jsonl").read_bytes(), rig.weights(config.out)

    def differs(self, cell: Cell) -> str:
        """Kill a run and start it again; return what of it is not as in the whole run, or nothing."""
        way, processes, place = cell
        if (way, processes) not in self._whole:
            self._whole[way, processes] = self._trained(way, processes, f"whole-{way}-{processes}", None)
        metrics, samples, weights = self._whole[way, processes]
        if len({row["kl_coefficient"] for row in metrics}) < 3:
            raise SystemExit("the KL coefficient is not steered")
        found, shown, moved = self._trained(way, processes, "cut", STOPS[place])
        shutil.rmtree(self._folder / "cut")
        wrong = [name for name in metrics[0] if [row[name] for row in metrics] != [row.get(name) for row in found]]
        wrong += ["samples"] * (shown != samples)
        return ", ".join([*wrong, *(name for name in weights if not torch.equal(weights[name], moved[name]))])


def break_something(name: str) -> None:
    """Make a resume worse in one way: it must be found."""
    read = checkpoint.read_state

    def forgets(*args: Any, **kwargs: Any) -> Any:
        return read(*args, **kwargs)._replace(kl_coefficient=0.2)

    if name == "coefficient":
        checkpoint.read_state = forgets
    elif name == "moments":
        updates.load_moments = lambda path, optimizer: None
    elif name == "draws":
        ppo.set_seed = lambda seed: None


def main() -> int:
    """Run all of it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a few of the cells, some seconds")
    parser.add_argument("--break", dest="broken", choices=["coefficient", "moments", "draws"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.broken:
        break_something(given.broken)
    gc.collect()
    gc.freeze()
    cells = QUICK if given.quick else list(itertools.product(WAYS, (1, 2), STOPS))
    start, failed = time.monotonic(), 0
    with tempfile.TemporaryDirectory(prefix="cai-exact-") as name:
        os.environ["CAI_CACHE"] = f"{name}/cache"
        tempfile.tempdir = name
        runs = Runs(Path(name))
        for cell in cells:
            wrong = runs.differs(cell)
            failed += not report("R4 ppo {} x{} {}".format(*cell), wrong[:60] or "equal", "equal", good=not wrong)
    passed = report("R4 PPO cells that differ", f"{failed} of {len(cells)}", 0, good=not failed)
    print(f"# took {time.monotonic() - start:.1f} s")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
