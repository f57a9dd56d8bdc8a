"""What a preference model learns: against TRL's RewardTrainer, and from soft labels against hard ones.

Start: python benchmarks/learning.py --pairs PAIRS.jsonl.gz [--quick] [--seeds 5] [--model embedded]

The file has rows with `chosen` and `rejected` (hh-rlhf's form), labelled by people. A hash of the prompts holds 267 of
1,367 out, whole prompts at a time; accuracy is the share of those on which the score agrees with the people.

1. **Ours against the peer's**: as each would be used, with its own head, order and batching, on the same ids, at equal
   steps, batch, learning rate (constant) and precision.
2. **Soft against hard labels**: each row's label is flipped with a chance of its own between 20 and 40 %. The hard run
   takes the labels as they are, the soft run the probability of each (what a calibrated judge knows): the same flips.

Differences are paired: the same held-out pairs, seed by seed. The interval (95 %) is a bootstrap over pairs and seeds.
Ours passes when the interval's lower end is above -3 points; soft labels pass when theirs is above 0. Prints `name
ours  peer  ratio  target  PASS|FAIL`, and exits with 1 when one fails. `--quick` runs every part on a few rows with one
seed: it shows that all of it works, and its verdicts mean nothing.
"""

import argparse
import gc
import gzip
import hashlib
import json
import random
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer

from cai.engines.embedded import resolve_model
from cai.engines.render import Renderer
from cai.judges.preference_model import PreferenceModel
from cai.records.pairs import pair_of
from cai.records.splits import said
from cai.train.common import wants_bf16
from cai.train.configs import RewardConfig
from cai.train.data import Pair, load_pairs
from cai.train.reward import run_reward

BATCH = 8
FLIPS = (0.2, 0.4)
MARGIN = 0.03
DRAWS = 10_000

Row = dict[str, Any]
Right = list[bool]
"""Whether each held-out pair is ranked as people rank it."""


@dataclass(frozen=True)
class Setting:
    """What all runs share."""

    model: str
    train: int
    held_out: int
    max_length: int
    rate: float


def split(path: Path, setting: Setting) -> tuple[list[Row], list[Row]]:
    """Return rows to train on and rows held out: prompts in the order of their hashes, none on both sides."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        rows = [json.loads(line) for line in file]

    def key(row: Row) -> str:
        return hashlib.sha256(said(pair_of(row)[0]).encode()).hexdigest()

    ranked = sorted(rows, key=key)
    cut = min(setting.train, len(ranked) - 1)
    while cut < len(ranked) and key(ranked[cut]) == key(ranked[cut - 1]):
        cut += 1
    return ranked[:cut], ranked[cut:][: setting.held_out]


def flipped(rows: Sequence[Row], seed: int) -> tuple[list[Row], list[Row]]:
    """Return the same rows with labels of which some are wrong: as they are, and as probabilities."""
    draw = random.Random(seed)
    hard, soft = [], []
    for row in rows:
        rate = draw.uniform(*FLIPS)
        wrong = draw.random() < rate
        hard.append({**row, "chosen_prob": 0.0 if wrong else 1.0})
        soft.append({**row, "chosen_prob": rate if wrong else 1 - rate})
    return hard, soft


def ids_of(rows: Sequence[Row], setting: Setting, folder: Path) -> list[Pair]:
    """Return rows as ids."""
    path = write(rows, folder / "ids.jsonl")
    return load_pairs([path], Renderer(AutoTokenizer.from_pretrained(setting.model)), max_length=setting.max_length)[0]


def write(rows: Sequence[Row], path: Path) -> Path:
    """Write rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def agrees(scores: Sequence[float]) -> Right:
    """Return whether each chosen answer, at the even places, scores above the rejected one behind it."""
    return [a > b for a, b in zip(scores[::2], scores[1::2], strict=True)]


def held_ids(pairs: Sequence[Pair]) -> list[tuple[int, ...]]:
    """Return the ids of both answers of each pair with their prompts."""
    return [side.prompt + side.answer for pair in pairs for side in (pair.chosen, pair.rejected)]


def ours(rows: Sequence[Row], held: Sequence[Pair], setting: Setting, seed: int, folder: Path) -> tuple[Right, int]:
    """Train as the recipe does; return what is ranked right, and the steps."""
    config = RewardConfig(
        model=setting.model, data=[write(rows, folder / "rows.jsonl")], out=folder / "ours", seed=seed,
        learning_rate=setting.rate, warmup=0.0, batch_size=BATCH, max_length=setting.max_length, eval_fraction=0.0,
        save_every=0,
    )  # fmt: skip
    run_reward(config)
    model = PreferenceModel.load(str(config.out / "model"))
    steps = json.loads((config.out / "result.json").read_text())["steps"]
    return agrees(model.score_ids(held_ids(held))), steps


def peer(rows: Sequence[Row], held: Sequence[Pair], setting: Setting, seed: int, folder: Path) -> tuple[Right, int]:
    """Train as TRL does; return what is ranked right, and the steps."""
    import trl
    from datasets import Dataset

    pairs = ids_of(rows, setting, folder)
    tokenizer: Any = AutoTokenizer.from_pretrained(setting.model)
    data = [
        {"chosen_ids": [*each.chosen.prompt, *each.chosen.answer],
         "rejected_ids": [*each.rejected.prompt, *each.rejected.answer]}
        for each in pairs
    ]  # fmt: skip
    args: dict[str, Any] = {
        "output_dir": str(folder / "peer"), "per_device_train_batch_size": BATCH, "learning_rate": setting.rate,
        "bf16": wants_bf16("auto"), "max_length": setting.max_length, "num_train_epochs": 1, "report_to": "none",
        "save_strategy": "no", "disable_tqdm": True, "lr_scheduler_type": "constant", "dataloader_drop_last": True,
        "use_cpu": not torch.cuda.is_available(), "seed": seed, "gradient_checkpointing": False,
        "weight_decay": 0.0, "logging_strategy": "no",
    }  # fmt: skip
    torch.manual_seed(seed)
    trainer: Any = trl.RewardTrainer(
        model=setting.model,
        args=trl.RewardConfig(**args),
        train_dataset=Dataset.from_list(data),
        processing_class=tokenizer,
    )
    trainer.train()
    model = PreferenceModel(trainer.model, Renderer(tokenizer), revision="peer")
    return agrees(model.score_ids(held_ids(held))), int(trainer.state.global_step)


def interval(one: Sequence[Right], other: Sequence[Right]) -> tuple[float, float, float]:
    """Return the mean difference of two accuracies, and its 95 % interval: seeds and pairs are drawn anew."""
    gaps_SP = np.array(one, dtype=float) - np.array(other, dtype=float)
    generator = np.random.default_rng(0)
    seeds, pairs = gaps_SP.shape
    means = [
        gaps_SP[generator.integers(seeds, size=seeds)][:, generator.integers(pairs, size=pairs)].mean()
        for _ in range(DRAWS)
    ]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(gaps_SP.mean()), float(low), float(high)


def report(name: str, one: Sequence[Right], other: Sequence[Right], least: float) -> bool:
    """Print the line of a comparison; tell whether its interval lies above what it must."""
    mine, theirs = (float(np.mean(np.array(each))) for each in (one, other))
    gap, low, high = interval(one, other)
    good = low > least
    print(
        f"{name}  {mine:.3f}  {theirs:.3f}  {mine / max(theirs, 1e-9):.2f}x  difference's lower end > {least:+.2f}  "
        f"{'PASS' if good else 'FAIL'}   difference {gap:+.3f} [{low:+.3f}, {high:+.3f}], {len(one)} seeds, "
        f"{len(one[0])} held-out pairs",
        flush=True,
    )
    return good


def measure(train: Sequence[Row], held: Sequence[Row], setting: Setting, seeds: int) -> dict[str, list[Right]]:
    """Train every arm with every seed; return what each ranks right."""
    found: dict[str, list[Right]] = {"ours": [], "peer": [], "hard": [], "soft": []}
    for seed in range(seeds):
        hard, soft = flipped(train, seed)
        arms: dict[str, tuple[Callable[..., tuple[Right, int]], Sequence[Row]]] = {
            "ours": (ours, train), "peer": (peer, train), "hard": (ours, hard), "soft": (ours, soft),
        }  # fmt: skip
        steps = {}
        for name, (run, rows) in arms.items():
            with tempfile.TemporaryDirectory() as folder:
                right, steps[name] = run(rows, ids_of(held, setting, Path(folder)), setting, seed, Path(folder))
            found[name].append(right)
            print(f"seed {seed} {name}: {np.mean(right):.3f}", file=sys.stderr, flush=True)
            gc.collect()
        if len(set(steps.values())) != 1:
            raise SystemExit(f"the arms took different numbers of steps: {steps}")
    return found


def main() -> int:
    """Measure; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="a few rows, one seed")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--model", default="embedded")
    given = parser.parse_args()
    model = resolve_model(given.model)
    full, quick = Setting(model, 1100, 267, 512, 2e-5), Setting(model, 24, 12, 128, 2e-5)
    setting = quick if given.quick else full
    train, held = split(given.pairs, setting)
    print(f"{given.model}, {len(train)} pairs to train on, {len(held)} held out, batches of {BATCH}", flush=True)
    found = measure(train, held, setting, 1 if given.quick else given.seeds)
    met = report("held-out accuracy, ours against TRL", found["ours"], found["peer"], -MARGIN)
    met = report("held-out accuracy, soft against hard labels", found["soft"], found["hard"], 0.0) and met
    return 0 if met or given.quick else 1


if __name__ == "__main__":
    sys.exit(main())
