"""Online DPO: rounds of answers by the policy, labels for them, and DPO on these.

    rounds/1/prompts.jsonl   what was asked
    rounds/1/label/          the answers and their labels (`cai.label`)
    rounds/1/dpo/            the training, and the policy of the next round in ``model``
    model/                   the last round's

Each stage of a round goes on from where it stopped, so the whole does.
"""

import gc
import json
import random
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from cai.errors import InputError, Problem
from cai.label import run_label
from cai.processes import is_main, wait_for_all
from cai.records.export import write_rows
from cai.records.loaders import load_prompts
from cai.records.schema import Prompt
from cai.storage import atomic_write, atomic_write_json, seed_from
from cai.successor.online_config import OnlineDPOConfig
from cai.train.common import RESULT, alone, appearing, read_metrics
from cai.train.dpo import run_dpo


@alone
def run_online_dpo(config: OnlineDPOConfig) -> None:
    """Train a policy in rounds, from where it stopped if it did; a run that is done is left as it is.

    Raises what the stages raise: InputError before a model is loaded, TrainingError, StorageError.
    """
    prompts = load_prompts(config.prompts)
    if not prompts:
        raise InputError(Problem(str(config.prompts[0]), 0, 0, "no prompt", "give some"))
    model, done = config.model, []
    for number in range(1, config.rounds + 1):
        folder = config.out / "rounds" / str(number)
        if is_main():
            print(f"online DPO  round {number} of {config.rounds}", file=sys.stderr)
            write_rows(folder / "prompts.jsonl", [prompt.to_json() for prompt in prompts_of(prompts, config, number)])
        wait_for_all()
        label, dpo = config.of_round(number, model, folder, seed_from(config.seed, "online dpo", number) % 2**32)
        if not (dpo.out / RESULT).exists():
            run_label(label)
            _free()
            wait_for_all()  # one writes the pairs, all read them
        run_dpo(dpo)
        _free()
        model = str(dpo.out / "model")
        done.append(folder)
        if is_main():
            write_metrics(config.out, done)
    if is_main():
        with appearing(config.out / "model") as partial:
            shutil.copytree(model, partial)
        atomic_write_json(config.out / RESULT, summary(done))
    wait_for_all()


def prompts_of(prompts: Sequence[Prompt], config: OnlineDPOConfig, number: int) -> list[Prompt]:
    """Return the prompts of a round (from 1): none comes again before all have come."""
    if config.prompts_per_round is None:
        return list(prompts)
    order = random.Random(seed_from(config.seed, "online prompts")).sample(range(len(prompts)), len(prompts))
    count = min(config.prompts_per_round, len(prompts))
    return [prompts[order[place % len(order)]] for place in range((number - 1) * count, number * count)]


def write_metrics(out: Path, rounds: Sequence[Path]) -> None:
    """Write the lines of all rounds as those of one training, each with its `round`."""
    lines: list[dict[str, Any]] = []
    for number, folder in enumerate(rounds, 1):
        before = int(lines[-1]["step"]) if lines else 0
        for row in read_metrics(folder / "dpo" / "metrics.jsonl"):
            lines.append({**row, "step": before + int(row["step"]), "round": number})
    atomic_write(out / "metrics.jsonl", b"".join(json.dumps(row).encode() + b"\n" for row in lines))


def summary(rounds: Sequence[Path]) -> dict[str, Any]:
    """Return the training in a few figures, and under `rounds` those of each round's DPO and labels."""
    trained = [json.loads((folder / "dpo" / RESULT).read_text("utf-8")) for folder in rounds]
    labelled = [json.loads((folder / "label" / RESULT).read_text("utf-8")) for folder in rounds]
    return {
        **trained[-1],
        **{name: sum(each[name] for each in trained) for name in ("steps", "seconds", "rows")},
        "peak_memory_mb": max(each["peak_memory_mb"] for each in trained),
        "rounds": [{"dpo": one, "label": other} for one, other in zip(trained, labelled, strict=True)],
    }


def _free() -> None:
    """Let go of a stage's model before the next one loads its own."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
