"""What a preference model learns: against TRL's RewardTrainer, and from soft labels against hard ones.

Start: python -m benchmarks.learning --pairs PAIRS.jsonl.gz [--quick] [--seeds 5] [--first 0] [--layers 30]
       [--max-length 512] [--only beside|labels|planted] [--flips 0.2 0.3 0.4] [--keep FOLDER]

The file has rows with `chosen` and `rejected` (hh-rlhf's form), labelled by people. A hash of the prompts holds 267
of 1,367 out, whole prompts at a time; accuracy is the share of those on which the score agrees with the people.

1. ``beside``: ours against the peer's, as each would be used, with its own head, order and batching, on the same ids,
   at equal steps, batch, learning rate (constant) and precision.
2. ``labels``: 20, 30 and 40 % of the labels are flipped as by a judge that is sure of some rows (and wrong on 2 % of
   them) and guesses at the others. The hard run takes the labels as they are, the soft run the probability of each
   (what a calibrated judge knows): the same flips. Rows whose chances of a flip are all alike would show little: a
   probability then says of a row only what is true of all.
3. ``planted``: the same on made pairs, where what is right is known and what can be learned does not drown in what a
   small model can't read: each of 24 words has a worth of its own, and the answer whose words are worth more is right.
   400 pairs, three times over, with the model's first four layers. Soft labels are judged by all flips together.

Differences are paired: the same held-out pairs, seed by seed. The interval (95 %) is a bootstrap over pairs and
seeds. Ours passes when the interval's lower end is above -3 points; soft labels pass when theirs is above 0. Prints
`name ours  peer  ratio  target  PASS|FAIL`, and exits with 1 when one fails. `--keep` holds each run's result, and a
second start goes on from there. `--layers` cuts the model to its first layers, for both sides: less time. `--quick`
runs every part on a few rows with one seed: it shows that all of it works, and its verdicts mean nothing.
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
from dataclasses import dataclass, replace
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
FLIPS = (0.2, 0.3, 0.4)
"""Shares of labels that are wrong."""
SURE, GUESSED = 0.02, 0.5
"""Chances that a label is wrong, where the judge is sure and where it guesses."""
WORDS, WORDS_PER_ANSWER = 24, 6
PLANTED_LAYERS = 4
MARGIN = 0.03
DRAWS = 10_000

Row = dict[str, Any]
Right = list[bool]
"""Whether each held-out pair is ranked as people rank it."""


@dataclass(frozen=True)
class Setting:
    """What all runs of a part share."""

    model: str
    train: int
    held_out: int
    max_length: int
    rate: float
    epochs: int = 1


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


def flipped(rows: Sequence[Row], share: float, seed: int) -> tuple[list[Row], list[Row]]:
    """Return the same rows with a share of labels that are wrong: as they are, and as probabilities."""
    draw = random.Random(seed)
    guesses = (share - SURE) / (GUESSED - SURE)
    hard, soft = [], []
    for row in rows:
        rate = GUESSED if draw.random() < guesses else SURE
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
        save_every=0, epochs=setting.epochs,
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
        "bf16": wants_bf16("auto"), "max_length": setting.max_length, "num_train_epochs": setting.epochs,
        "report_to": "none",
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


def report(name: str, one: Sequence[Right], other: Sequence[Right], least: float | None) -> bool:
    """Print the line of a comparison; tell whether its interval lies above what it must, if it must."""
    mine, theirs = (float(np.mean(np.array(each))) for each in (one, other))
    gap, low, high = interval(one, other)
    good = least is None or low > least
    target = "-" if least is None else f"difference's lower end > {least:+.2f}"
    verdict = "-" if least is None else "PASS" if good else "FAIL"
    print(
        f"{name}  {mine:.3f}  {theirs:.3f}  {mine / max(theirs, 1e-9):.2f}x  {target}  {verdict}   "
        f"difference {gap:+.3f} [{low:+.3f}, {high:+.3f}], {len(one)} seeds, "
        f"{len(one[0])} held-out pairs",
        flush=True,
    )
    return good


def cut(model: str, layers: int, folder: Path) -> str:
    """Save a model's first layers as a model of their own; return its folder."""
    from transformers import AutoModelForCausalLM

    whole: Any = AutoModelForCausalLM.from_pretrained(model)
    if not 0 < layers < len(whole.model.layers):
        return model
    whole.model.layers = whole.model.layers[:layers]
    whole.config.num_hidden_layers = layers
    whole.save_pretrained(folder)
    AutoTokenizer.from_pretrained(model).save_pretrained(folder)
    return str(folder)


def planted(count: int, seed: int) -> list[Row]:
    """Return pairs of which is known what is right: the answer whose words are worth more in sum."""
    worth = list(np.random.default_rng(0).normal(size=WORDS))
    draw = random.Random(seed)
    rows: list[Row] = []
    while len(rows) < count:
        sides = [draw.choices(range(WORDS), k=WORDS_PER_ANSWER) for _ in range(2)]
        sides.sort(key=lambda words: sum(worth[word] for word in words))
        if sides[0] != sides[1]:
            rejected, chosen = (" ".join(spelled(word) for word in words) for words in sides)
            rows.append(
                {"prompt": f"Say something, number {seed}-{len(rows)}.", "chosen": chosen, "rejected": rejected}
            )
    return rows


def spelled(word: int) -> str:
    """Return a word of two letters."""
    return "bdfglmnprst"[word % 11] + "aeiouy"[word // 11]


Arm = tuple[Callable[..., tuple[Right, int]], Sequence[Row]]


def measure(arms: dict[str, Arm], held: Sequence[Row], setting: Setting, seed: int, keep: Path | None) -> list[Right]:
    """Train every arm with a seed; return what each ranks right."""
    found, steps = [], {}
    for name, (run, rows) in arms.items():
        kept = keep / f"{name}-{seed}.json" if keep else None
        if kept and kept.exists():
            right, steps[name] = json.loads(kept.read_text())
        else:
            with tempfile.TemporaryDirectory() as folder:
                right, steps[name] = run(rows, ids_of(held, setting, Path(folder)), setting, seed, Path(folder))
            gc.collect()
        if kept:
            kept.write_text(json.dumps([right, steps[name]]))
        found.append(right)
        print(f"seed {seed} {name}: {np.mean(right):.3f}", file=sys.stderr, flush=True)
    if len(set(steps.values())) != 1:
        raise SystemExit(f"the arms took different numbers of steps: {steps}")
    return found


def compare(
    name: str, arms: Callable[[int], dict[str, Arm]], held: Sequence[Row], setting: Setting, *, seeds: Sequence[int],
    keep: Path | None, least: float,
) -> bool:  # fmt: skip
    """Train two arms seed by seed, and report; tell whether the first is as good as it must be."""
    one, other = zip(*(measure(arms(seed), held, setting, seed, keep) for seed in seeds), strict=True)
    return report(f"held-out accuracy, {name}", one, other, least)


@dataclass(frozen=True)
class Labels:
    """What soft and hard labels are compared on."""

    prefix: str
    """Before the names of its runs."""
    rows: Callable[[int], Sequence[Row]]
    """The pairs to train on under a seed."""
    held: Sequence[Row]
    setting: Setting


def planted_labels(model: str, *, quick: bool) -> Labels:
    """Return pairs of which is known what is right."""
    setting = Setting(model, 24 if quick else 400, 12 if quick else 500, 128, 1e-4, epochs=1 if quick else 3)
    held = planted(setting.held_out, seed=-1)
    return Labels("planted-", lambda seed: planted(setting.train, seed), held, setting)


def compare_labels(labels: Labels, shares: Sequence[float], *, seeds: Sequence[int], keep: Path | None) -> bool:
    """Compare soft with hard labels at each share of flips and at all together; tell whether soft ones are better."""
    found: list[list[Right]] = []
    for share in shares:
        for seed in seeds:
            hard, soft = flipped(labels.rows(seed), share, seed)
            prefix = f"{labels.prefix}{share:.0%}-"
            arms: dict[str, Arm] = {f"{prefix}soft": (ours, soft), f"{prefix}hard": (ours, hard)}
            found.append(measure(arms, labels.held, labels.setting, seed, keep))
        one, other = zip(*found[-len(seeds) :], strict=True)
        report(f"held-out accuracy, {labels.prefix}labels soft against hard, {share:.0%} flipped", one, other, None)
    one, other = zip(*found, strict=True)
    return report(f"held-out accuracy, {labels.prefix}labels soft against hard, all", one, other, 0.0)


def main() -> int:
    """Measure; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="a few rows, one seed")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--layers", type=int, default=0, help="take only so many of the model's layers, the first")
    parser.add_argument("--max-length", type=int, default=512, help="tokens of prompt and answer")
    parser.add_argument("--only", choices=["beside", "labels", "planted"])
    parser.add_argument("--flips", type=float, nargs="+", default=FLIPS, help="shares of labels that are wrong")
    parser.add_argument("--keep", type=Path, help="where each run's result stays")
    given = parser.parse_args()
    seeds = range(given.first, given.first + (1 if given.quick else given.seeds))
    if given.keep:
        given.keep.mkdir(parents=True, exist_ok=True)
    met = True
    with tempfile.TemporaryDirectory() as name:
        model = cut(resolve_model(given.model), given.layers, Path(name) / "cut")
        setting = Setting(model, 1100, 267, given.max_length, 2e-5)
        if given.quick:
            setting = replace(setting, train=24, held_out=12, max_length=128)
        train, held = split(given.pairs, setting)
        print(f"{given.model}, {len(train)} pairs to train on, {len(held)} held out, batches of {BATCH}", flush=True)

        def both(seed: int) -> dict[str, Arm]:
            return {"ours": (ours, train), "peer": (peer, train)}

        if given.only in (None, "beside"):
            met = compare("ours against TRL", both, held, setting, seeds=seeds, keep=given.keep, least=-MARGIN)
        if given.only in (None, "labels"):
            labels = Labels("", lambda seed: train, held, setting)
            met &= compare_labels(labels, given.flips, seeds=seeds, keep=given.keep)
        if given.only in (None, "planted"):
            few = cut(resolve_model(given.model), PLANTED_LAYERS, Path(name) / "few")
            met &= compare_labels(planted_labels(few, quick=given.quick), given.flips, seeds=seeds, keep=given.keep)
    return 0 if met or given.quick else 1


if __name__ == "__main__":
    sys.exit(main())
