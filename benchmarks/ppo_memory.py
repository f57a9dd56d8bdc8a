"""Four models over one base: the peak memory of PPO with adapters against that of training one model alone.

Start: PYTHONPATH=. python benchmarks/ppo_memory.py [--micro 4] [--batch 16]

PPO: policy, value head and reference share one frozen base in bfloat16, the policy's adapter off for the reference; the
preference model is a model apart, or a third adapter over that base. Two whole steps: rollout of 64 tokens per answer,
rewards, log-probabilities, the updates of an epoch. One model: the same base with the same adapter takes the same
updates on rows of the same lengths, with nothing else in memory. Each is a process of its own, whose peak is all of it,
Python and its libraries included; without these (a process that has only imported them) the ratio is larger, and that
is the one that counts.

Prints `name  PPO  one model  ratio  target  PASS|FAIL`, and exits with 1 when it fails.
"""

import argparse
import multiprocessing
import resource
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.ppo import NEW_TOKENS, RATE, prepare

TARGET, STEPS, EPOCHS = 1.5, 2, 1

LORA = {"r": 16, "alpha": 32}


def settings(given: dict[str, Any]) -> Any:
    """Return the settings of all."""
    from cai.train.ppo.config import PPOConfig

    return PPOConfig.model_validate(
        {
            "model": given["model"],
            "out": Path(given["folder"]) / "out",
            "prompts": [given["prompts"]],
            "rewards": [{"kind": "model", "path": given["reward"], "dtype": "bfloat16"}],
            "lora": LORA,
            "steps": STEPS,
            "batch_size": given["batch"],
            "micro_batch": given["micro"],
            "epochs": EPOCHS,
            "max_new_tokens": NEW_TOKENS,
            "learning_rate": RATE,
            "precision": "bf16",
            "save_every": 0,
        }
    )


def apart(given: dict[str, Any], ids: list[list[int]]) -> str:
    """Save an adapter of a preference model over the policy's base, untrained, and return its folder."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from cai.train.common import ADAPTER, save_adapted

    base: Any = AutoModelForSequenceClassification.from_pretrained(given["model"], dtype="float32", num_labels=1)
    config = LoraConfig(task_type="SEQ_CLS", modules_to_save=["score"], r=LORA["r"], lora_alpha=LORA["alpha"])
    out = Path(given["folder"]) / "apart"
    tokenizer: Any = AutoTokenizer.from_pretrained(given["model"])
    save_adapted(get_peft_model(base, config), tokenizer, out, constitutions=[])
    return str(out / ADAPTER)


def imports(given: dict[str, Any], ids: list[list[int]]) -> int:
    """Return the peak of a process that has imported what the others import, in bytes."""
    import cai.train.ppo.trainer  # noqa: F401

    settings(given)
    return peak()


def ppo(given: dict[str, Any], ids: list[list[int]]) -> int:
    """Return the peak of whole steps."""
    from accelerate import Accelerator

    from cai.train.ppo.trainer import Trainer

    trainer = Trainer(settings(given), Accelerator())
    trainer.renderer.end_ids = frozenset()
    for step in range(1, STEPS + 1):
        trainer.step(step)
    return peak()


def one_model(given: dict[str, Any], ids: list[list[int]]) -> int:
    """Return the peak of the updates alone, on answers that are made up."""
    import torch
    from accelerate import Accelerator

    from cai.train.ppo.batch import Sample, make_batch
    from cai.train.ppo.policy import load_policy
    from cai.train.ppo.step import Learner
    from cai.types import Message

    config, accelerator = settings(given), Accelerator()
    learner = Learner(accelerator, load_policy(config, accelerator.device), config, pad_id=0)
    samples = [
        Sample(
            row=row, key="", prompt=(Message("user", ""),), answer="", prompt_ids=tuple(prompt),
            answer_ids=tuple(range(100, 100 + NEW_TOKENS)), cut_off=True, score=float(row),
        )
        for row, prompt in enumerate(ids)
    ]  # fmt: skip
    zeros_BT = torch.zeros(len(samples), NEW_TOKENS)
    for step in range(1, STEPS + 1):
        batch = make_batch(
            samples, logprobs_BT=zeros_BT, ref_logprobs_BT=zeros_BT, values_BT=zeros_BT, config=config,
            kl_coefficient=0.0,
        )  # fmt: skip
        learner.learn(batch, step=step)
    return peak()


def peak() -> int:
    """Return the most memory that this process has held, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--micro", type=int, default=4, help="answers per forward pass")
    parser.add_argument("--batch", type=int, default=16, help="answers per step")
    told = parser.parse_args()
    spawned = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory() as name,
        ProcessPoolExecutor(1, mp_context=spawned, max_tasks_per_child=1) as processes,
    ):
        sizes = {"epochs": EPOCHS, "steps": STEPS, "batch": told.batch, "micro": told.micro}
        prepared = processes.submit(prepare, Path(name), **sizes).result()
        given, ids = prepared
        held = {**given, "reward": processes.submit(apart, given, ids).result()}
        base, one = (processes.submit(work, given, ids).result() for work in (imports, one_model))
        peaks = {name: processes.submit(ppo, its, ids).result() for name, its in (("apart", given), ("adapter", held))}
    for name, four in peaks.items():
        ratio, gross = (four - base) / (one - base), four / one
        print(
            f"peak memory, preference model {name}  {four / 1e9:.2f} GB  {one / 1e9:.2f} GB  {ratio:.2f}x without "
            f"{base / 1e9:.2f} GB of imports ({gross:.2f}x with them)  <= {TARGET}x  "
            f"{'PASS' if ratio <= TARGET else 'FAIL'}"
        )
    return 0 if all(four - base <= TARGET * (one - base) for four in peaks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
