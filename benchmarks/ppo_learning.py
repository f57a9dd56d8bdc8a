"""Does PPO learn: the share of the reachable reward, and how far from the reference, seed by seed.

Start: PYTHONPATH=. python benchmarks/ppo_learning.py [--quick] [--model embedded] [--seeds 5] [--first 0]

The reward is a program, and at most 1. With a tiny model of random weights: 1 for an answer of two tokens that ends in
a vowel. With a real model, a lexicon: 1 for an answer of 16 tokens that speaks to the reader (you, your, yours,
yourself). A seed passes when the mean score of eight steps in a row is at least 0.9 within the samples below, and the
mean KL from the reference of any eight steps until then is at most 8 nats per answer (a policy that writes vowels
everywhere needs some 6); it ends there. Prints a line per seed and exits with 1 when one fails.
``--quick`` is one seed of the tiny model.
"""

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from accelerate import Accelerator

from cai.records.loaders import load_prompts
from cai.train.ppo.config import PPOConfig
from cai.train.ppo.trainer import Trainer
from cai.train.rewards.sum import RewardFunction
from cai.types import Dialogue

ROOT = Path(__file__).resolve().parents[1]
REACHED, WINDOW, MOST_KL = 0.9, 8, 8.0
TINY: dict[str, Any] = {
    "steps": 80, "batch_size": 32, "max_new_tokens": 2, "learning_rate": 3e-3, "target_kl": 0.1, "precision": "fp32",
}  # fmt: skip
REAL: dict[str, Any] = {
    "steps": 60, "batch_size": 32, "max_new_tokens": 16, "learning_rate": 3e-5, "kl_coefficient": 0.02,
}  # fmt: skip
SAME: dict[str, Any] = {"micro_batch": 16, "epochs": 2, "kl_coefficient": 0.1, "save_every": 0, "samples_every": 0}


class Learned(NamedTuple):
    """What one seed gave."""

    samples: int | None
    """Until the score was reached; None if it never was."""
    best: float
    kl: float
    """The largest mean of a window until then, in nats per answer."""

    @property
    def passed(self) -> bool:
        """Tell whether the score was reached, and near the reference."""
        return self.samples is not None and self.kl <= MOST_KL


def ends_in(signs: str) -> RewardFunction:
    """Return a reward of 1 for answers whose last sign is one of these."""

    def reward(prompts: Sequence[Dialogue], answers: Sequence[str]) -> Sequence[float | None]:
        return [float(answer.rstrip()[-1:] in set(signs)) for answer in answers]

    return reward


def speaks_to_the_reader(prompts: Sequence[Dialogue], answers: Sequence[str]) -> Sequence[float | None]:
    """Return 1 for an answer with a word of a lexicon."""
    return [float(bool(re.search(r"\b(?:you|your|yours|yourself)\b", answer.lower()))) for answer in answers]


def learn(model: str, reward: RewardFunction, settings: dict[str, Any], *, seed: int, folder: Path) -> Learned:
    """Train with one seed, and read off how far it came."""
    prompts = folder / "prompts.jsonl"
    some = load_prompts([ROOT / "cai/data/prompts/helpful.jsonl"])[:64]
    prompts.write_text("".join(json.dumps({"prompt": prompt.messages[-1].content}) + "\n" for prompt in some))
    out = folder / f"seed-{seed}"
    config = PPOConfig(**{"model": model, "out": out, "prompts": [prompts], "seed": seed, **SAME, **settings})
    trainer = Trainer(config, Accelerator(), reward)
    rows: list[dict[str, float]] = []
    for step in range(1, config.steps + 1):
        rows.append(trainer.step(step))
        print(f"seed {seed} step {step}: {rows[-1]['score']:.3f}, KL {rows[-1]['kl']:.2f}", file=sys.stderr, flush=True)
        if read_off(rows, config.batch_size).samples:
            break
    return read_off(rows, config.batch_size)


def read_off(rows: Sequence[dict[str, Any]], batch: int) -> Learned:
    """Return when the mean score of a window was first reached, and what came before."""
    best = kl = 0.0
    for end in range(WINDOW, len(rows) + 1):
        score, its_kl = (sum(row[name] for row in rows[end - WINDOW : end]) / WINDOW for name in ("score", "kl"))
        best, kl = max(best, score), max(kl, its_kl)
        if score >= REACHED:
            return Learned(end * batch, score, kl)
    return Learned(None, best, kl)


def tiny_model(folder: Path) -> str:
    """Make a tiny model of random weights."""
    from tests.engines import tiny

    tiny.llama().save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return str(folder)


def main() -> int:
    """Train seed by seed, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed of the tiny model")
    parser.add_argument("--model", default="tiny", help="tiny, embedded, a folder or an id")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--first",
        type=int,
        default=0,
        help="the first seed; settings were tuned on seeds 0 to 4 and, with a real model, 101",
    )
    given = parser.parse_args()
    is_tiny = given.quick or given.model == "tiny"
    settings, reward = (TINY, ends_in("aeiouAEIOU")) if is_tiny else (REAL, speaks_to_the_reader)
    passed = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = tiny_model(folder / "tiny") if is_tiny else given.model
        for seed in range(given.first, given.first + (1 if given.quick else given.seeds)):
            found = learn(model, reward, settings, seed=seed, folder=folder)
            passed.append(found.passed)
            when = f"after {found.samples} samples" if found.samples else "not reached"
            verdict = "PASS" if found.passed else "FAIL"
            print(f"seed {seed}  score {found.best:.3f} {when}  largest KL {found.kl:.2f}  {verdict}", flush=True)
    most = settings["steps"] * settings["batch_size"]
    print(f"{sum(passed)} of {len(passed)} seeds within {most} samples: score >= {REACHED}, KL <= {MOST_KL:g} nats")
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
