"""Small parts for the tests of PPO; run as a script, it is a training in a process of its own.

python tests/train/ppo/rig.py CONFIG.json [CALL [RANK]]   it dies at this call of the reward function, from 1; of
                                                          several processes, the one of this rank
"""

import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor

from cai.processes import leave
from cai.train.ppo.batch import Batch, Sample, make_batch
from cai.train.ppo.config import PPOConfig
from cai.train.ppo.trainer import Trainer, run_ppo
from cai.train.rewards.sum import RewardFunction
from cai.types import Dialogue, Message
from tests.train.zero import without_gpu

CLOCKS = ("seconds", "tokens_per_s")


def vowels(prompts: Sequence[Dialogue], answers: Sequence[str]) -> list[float | None]:
    """Score the share of vowels in an answer."""
    return [sum(letter in "aeiou" for letter in answer) / max(1, len(answer)) for answer in answers]


def picky(prompts: Sequence[Dialogue], answers: Sequence[str]) -> list[float | None]:
    """Score the same, and nothing for two prompts of ten, whoever asks."""
    scored = zip(prompts, vowels(prompts, answers), strict=True)
    return [None if {"3", "7"} & {*prompt[-1].content} else score for prompt, score in scored]


REWARDS = {"vowels": vowels, "picky": picky}


def interrupted(call: int) -> RewardFunction:
    """Return `vowels` with a Ctrl-C at a call, from 1."""
    calls = itertools.count(1)

    def reward(prompts: Sequence[Dialogue], answers: Sequence[str]) -> Sequence[float | None]:
        if next(calls) == call:
            raise KeyboardInterrupt
        return vowels(prompts, answers)

    return reward


def settings(folder: Path, model: Path, **changes: Any) -> PPOConfig:
    """Return a config for the tiny model, with a file of 10 prompts of different length."""
    folder.mkdir(parents=True, exist_ok=True)
    prompts = folder / "prompts.jsonl"
    rows = [{"prompt": f"What do you think of {number}?" + " Please answer." * (number % 3)} for number in range(10)]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    values: dict[str, Any] = {
        "model": str(model), "out": folder / "out", "prompts": [prompts], "steps": 2, "batch_size": 6, "micro_batch": 2,
        "minibatches": 2, "epochs": 2, "max_new_tokens": 8, "learning_rate": 1e-3, "value_learning_rate": 1e-3,
        "precision": "fp32",
    }  # fmt: skip
    return PPOConfig(**{**values, **changes})


def trainer(folder: Path, model: Path, **changes: Any) -> Trainer:
    """Return a trainer that is ready for its first step."""
    return Trainer(settings(folder, model, **changes), Accelerator(cpu=True), vowels)


def sample(row: int, prompt: Sequence[int], answer: Sequence[int], score: float | None = 0.0, **more: Any) -> Sample:
    """Return a sample by its ids."""
    dialogue = (Message("user", f"prompt {row}"),)
    return Sample(
        row=row,
        key=f"key{row}",
        prompt=dialogue,
        answer="answer",
        prompt_ids=tuple(prompt),
        answer_ids=tuple(answer),
        score=score,
        **{"cut_off": False, **more},
    )


def batch_of(samples: Sequence[Sample], config: PPOConfig, **tensors: Tensor) -> Batch:
    """Return a batch with log-probabilities of -1 and values of 0 where none are given."""
    shape = (len(samples), max(len(one.answer_ids) for one in samples))
    values: dict[str, Any] = {
        "logprobs_BT": torch.full(shape, -1.0),
        "ref_logprobs_BT": torch.full(shape, -1.0),
        "values_BT": torch.zeros(shape),
        **tensors,
    }
    return make_batch(samples, config=config, kl_coefficient=config.kl_coefficient, **values)


def weights(out: Path, name: str = "model") -> dict[str, Tensor]:
    """Return the weights that a finished run has saved."""
    return load_file(out / name / "model.safetensors")


def metrics(out: Path) -> list[dict[str, float]]:
    """Return the logged steps without what a clock says."""
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith(CLOCKS)} for row in rows]


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a training in processes of its own; main says what `more` may be."""
    root = str(Path(__file__).parents[3])
    return {**os.environ, "PYTHONPATH": root, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", **more}


def alone_and_cut(folder: Path, model: Path, options: dict[str, Any]) -> tuple[PPOConfig, PPOConfig]:
    """Train in this process; return that run's config, and the same for several, which is in config.json, too."""
    changes: dict[str, Any] = {
        "steps": 4, "save_every": 2, "batch_size": 7, "micro_batch": 1, "learning_rate": 1e-4, **options,
    }  # fmt: skip
    if "keep" in options:
        changes["eval_prompts"] = [folder / "held_out.jsonl"]
        changes["eval_prompts"][0].write_text("".join(json.dumps({"prompt": f"And {n}?"}) + "\n" for n in range(3)))
    alone, cut = (settings(folder / name, model, **changes) for name in ("alone", "cut"))
    run_ppo(alone, vowels)
    (folder / "config.json").write_text(cut.model_dump_json())
    return alone, cut


def assert_ended_alike(alone: PPOConfig, cut: PPOConfig) -> None:
    """Hold two processes' steps and weights to those of one, which have moved."""
    steps = metrics(cut.out)
    assert [row["step"] for row in steps] == [1, 2, 3, 4]
    for single, double in zip(metrics(alone.out), steps, strict=True):
        assert double == pytest.approx(single, abs=1e-4, rel=1e-4)
    start, expected, found = load_file(Path(alone.model) / "model.safetensors"), weights(alone.out), weights(cut.out)
    assert expected.keys() == found.keys()
    assert max(float((expected[name] - found[name]).abs().max()) for name in expected) <= 1e-6
    assert max(float((expected[name] - start[name]).abs().max()) for name in expected) > 1e-5
    assert json.loads((cut.out / "result.json").read_text())["processes"] == 2


def cut_into_pieces() -> None:
    """Have accelerate cut models as it does on GPUs, and say what by: as it is, it leaves them whole on a CPU."""
    from torch.distributed import fsdp

    from benchmarks.exact import use_fsdp

    use_fsdp()
    cut, seen = fsdp.fully_shard, set()

    def watched(module: Any, **given: Any) -> Any:
        if type(module).__name__ not in seen:
            seen.add(type(module).__name__)
            print(f"in pieces: {type(module).__name__}", file=sys.stderr, flush=True)
        return cut(module, **given)

    fsdp.fully_shard = watched


def main(path: str, dies_at: int = 0, rank: int = 0) -> None:
    """Train by a config file; die without a word at a call of the reward function."""
    torch.set_num_threads(1)
    calls, scores = 0, REWARDS[os.environ.get("REWARD", "vowels")]

    def reward(prompts: Sequence[Dialogue], answers: Sequence[str]) -> Sequence[float | None]:
        nonlocal calls
        calls += 1
        if calls == dies_at and rank == int(os.environ.get("RANK", "0")):
            if "RANK" in os.environ:
                print(json.dumps({"dead": time.time()}), flush=True)
                os.kill(os.getpid(), signal.SIGKILL)
            os._exit(9)
        return scores(prompts, answers)

    if "IN_PIECES" in os.environ:
        cut_into_pieces()
    if os.environ.get("ACCELERATE_USE_DEEPSPEED"):
        without_gpu()
    run_ppo(PPOConfig.model_validate_json(Path(path).read_text()), reward)
    leave(0)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
