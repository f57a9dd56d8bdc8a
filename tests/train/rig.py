"""Small parts for the tests of the trainers over fixed rows."""

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from cai.train.configs import DPOConfig, EpochsConfig, RewardConfig, SFTConfig
from cai.train.dpo import run_dpo
from cai.train.reward import run_reward
from cai.train.sft import run_sft

KINDS: dict[str, tuple[type[EpochsConfig], Callable[[Any], None]]] = {
    "sft": (SFTConfig, run_sft),
    "reward": (RewardConfig, run_reward),
    "dpo": (DPOConfig, run_dpo),
}


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "flipped": _flip,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "emptied": lambda path: path.write_bytes(b""),
    "deleted": Path.unlink,
}
"""What can happen to a file."""

WORDS = re.findall(r"\w+", "the quick brown fox jumps over a lazy dog and thinks that it is a good thing to do")


def sentence(number: int, length: int) -> str:
    """Return words that depend on the number."""
    return " ".join(random.Random(number).choices(WORDS, k=length)) + "."


def chat(number: int) -> dict[str, Any]:
    """Return a row with `messages`; neighbours differ much in length."""
    question, answer = sentence(number, 3 + number % 4), sentence(100 + number, 1 + 3 * (number % 5))
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def pair(number: int, **more: Any) -> dict[str, Any]:
    """Return a row with `prompt`, `chosen` and `rejected` of different length."""
    prompt = [{"role": "user", "content": sentence(number, 3 + number % 4)}]
    chosen, rejected = sentence(200 + number, 2 + number % 3), sentence(300 + number, 1 + 3 * (number % 4))
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def settings(kind: str, folder: Path, model: Path, *, rows: int = 12, **changes: Any) -> Any:
    """Return a config for the tiny model and a file of rows of its kind, with a rate that moves weights a lot."""
    made = [chat(number) if kind == "sft" else pair(number) for number in range(rows)]
    if kind == "reward":
        changes = {"eval_fraction": 0.0, **changes}
    values: dict[str, Any] = {
        "model": str(model), "out": folder / "out", "data": [folder / "rows.jsonl"], "batch_size": 4, "micro_batch": 2,
        "learning_rate": 1e-3, "warmup": 0.0, "precision": "fp32", "save_every": 0,
    }  # fmt: skip
    values |= changes
    if "data" not in changes:
        write(folder / "rows.jsonl", made)
    return KINDS[kind][0](**values)


def train(kind: str, config: Any) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Train here; return the weights and the logged steps."""
    KINDS[kind][1](config)
    return weights(config.out), metrics(config.out)


def weights(out: Path) -> dict[str, Tensor]:
    """Return the saved weights of a finished training."""
    found: dict[str, Tensor] = load_file(out / "model" / "model.safetensors")
    return found


def metrics(out: Path) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl."""
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def loaded_whole(loader: Any, folder: Path) -> Any:
    """Return what plain transformers loads, after checking that no weight is missing and none is left over."""
    model, info = loader.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    return model


def largest_difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Return the largest difference of two sets of weights."""
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)
