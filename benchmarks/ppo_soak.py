"""Does PPO stay as it is: 2,000 steps of a tiny model without growth in memory and without drift in time per step.

Start: OMP_NUM_THREADS=1 PYTHONPATH=. python benchmarks/ppo_soak.py [--quick] [--steps 2000] [--lora]

All that a run does is part of a step: rollout, scores, updates, samples to look at, held-out prompts every 20 steps, a
checkpoint every 100. Every answer has 16 tokens (none may end by itself), so that steps are alike; prompts differ.

- memory: Python's objects, and resident bytes less those that files back; each the median of the last twentieth of
  readings against that of the twentieth after the first tenth (of 2,000 steps: 201 to 300). Of some 420 MB, a leak of
  3 kB per step shows.
- time: the median of the last quarter of steps against that of the first, in seconds of this process's CPU, so that
  other work on the machine is no drift.

Prints `name  first  last  ratio  target  PASS|FAIL`, and exits with 1 when one fails. ``--quick`` is 100 steps,
in which a machine's own speed may change by more than the target: where time alone fails there, it is measured again,
three times at most. A drift is there each time.
"""

import argparse
import gc
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from accelerate import Accelerator

from benchmarks.ppo_learning import ends_in, tiny_model
from cai.records.loaders import load_prompts
from cai.train.ppo.config import PPOConfig
from cai.train.ppo.trainer import Trainer

ROOT = Path(__file__).resolve().parents[1]
GROWTH, DRIFT = 1.01, 1.05
"""Targets: the last as a multiple of the first."""
TRIES = 3
"""Of the quick tier, for time alone."""
EVERY = 10
"""Steps between two readings."""
SETTINGS: dict[str, Any] = {
    "batch_size": 8, "micro_batch": 4, "minibatches": 2, "epochs": 2, "max_new_tokens": 16, "learning_rate": 1e-5,
    "precision": "fp32", "save_every": 100, "eval_every": 20, "keep": "best", "samples_every": 5,
}  # fmt: skip


class Reading(NamedTuple):
    """What steps took and left behind."""

    seconds: float
    """Per step, of this process's CPU: the median since the last reading."""
    memory: int
    """Resident bytes."""
    objects: int
    """That Python's garbage collector knows."""


def resident() -> int:
    """Return the resident bytes less what files back: under pressure the system takes those away, leak or not."""
    used = psutil.Process().memory_info()
    return int(used.rss - getattr(used, "shared", 0))


class Watched(Trainer):
    """Trains, and reads off what that takes."""

    readings: list[Reading]
    took: list[float]

    def step(self, step: int) -> dict[str, float]:
        """Take a step."""
        start = time.process_time()
        values = super().step(step)
        self.took.append(time.process_time() - start)
        if step % EVERY == 0:
            gc.collect()
            seconds = statistics.median(self.took[-EVERY:])
            self.readings.append(Reading(seconds, resident(), len(gc.get_objects())))
        return values


def soak(folder: Path, steps: int, *, lora: bool) -> list[Reading]:
    """Train, and return the readings."""
    paths = []
    for name, which in (("prompts", slice(0, 64)), ("eval_prompts", slice(64, 68))):
        paths.append(folder / f"{name}.jsonl")
        prompts = load_prompts([ROOT / "cai/data/prompts/helpful.jsonl"])[which]
        paths[-1].write_text("".join(json.dumps({"prompt": one.messages[-1].content}) + "\n" for one in prompts))
    config = PPOConfig(
        model=tiny_model(folder / "tiny"),
        out=folder / "out",
        prompts=paths[:1],
        eval_prompts=paths[1:],
        steps=steps,
        **SETTINGS,
        **({"lora": {"r": 4}} if lora else {}),
    )
    trainer = Watched(config, Accelerator(cpu=True), ends_in("aeiouAEIOU"))
    trainer.renderer.end_ids = frozenset()
    trainer.readings, trainer.took = [], []
    trainer.train()
    return trainer.readings


def report(readings: Sequence[Reading]) -> list[str]:
    """Print the lines; return the names of those that fail."""
    tenth, twentieth, quarter = (max(1, len(readings) // part) for part in (10, 20, 4))
    ends = (slice(tenth, tenth + twentieth), slice(-twentieth, None))
    windows = {"memory": ends, "objects": ends, "seconds": (slice(0, quarter), slice(-quarter, None))}
    failed = []
    for name, parts in windows.items():
        first, last = (statistics.median(getattr(each, name) for each in readings[part]) for part in parts)
        target = DRIFT if name == "seconds" else GROWTH
        if last > target * first:
            failed.append(name)
        shown = {"memory": "{:.1f} MB", "objects": "{:.0f}", "seconds": "{:.4f} s"}[name]
        sizes = "  ".join(shown.format(value / 1e6 if name == "memory" else value) for value in (first, last))
        verdict = "FAIL" if name in failed else "PASS"
        print(f"{name}  {sizes}  {last / first:.4f}x  <= {target}x  {verdict}", flush=True)
    return failed


def main() -> int:
    """Soak and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="100 steps")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--lora", action="store_true", help="with an adapter: base and reference are one network")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        for number in range(TRIES if given.quick else 1):
            folder = Path(name) / str(number)
            folder.mkdir()
            failed = report(soak(folder, 100 if given.quick else given.steps, lora=given.lora))
            if failed != ["seconds"]:
                break
        return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
