"""DPO, the preference model and SFT against TRL's trainers: the same rows in the same batches, in alternation.

Start: PYTHONPATH=. python benchmarks/training.py --pairs PAIRS.jsonl.gz [--quick] [--only dpo] [--steps 5]

The file has rows with `chosen` and `rejected` (hh-rlhf's form). Ours and the peer are each a process of its own, which
keeps its peak memory apart; both load, then take optimizer steps by turns, a step of ours and the peer's step on the
same eight rows, while the other waits. The first step of each is not counted. A step is all of it: reading the batch,
the reference's pass (DPO), forward, backward, clipping, AdamW, logging. Both compute in bfloat16 over float32 weights,
at most 512 tokens per answer with its prompt, no gradient checkpointing. The first losses are compared before any
speed.

The floor is the arithmetic that can't be left out (each prompt once, no padding, the vocabulary only where an answer is
predicted; forward 1, backward 2) at the rate of a large matrix product, measured between the steps. Prints `name  ours
peer  ratio  target  PASS|FAIL` and exits with 1 when one fails. Where other work shares the machine only the ratios
mean anything, and processor time with OMP_NUM_THREADS=1 the most. Both processes are in memory at once: have 24 GB
free, of which the peer's DPO takes 17.
"""

import argparse
import gzip
import itertools
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    TrainerCallback,
)

from benchmarks.ppo import matmul_rate
from cai.engines.embedded import resolve_model
from cai.engines.render import Renderer
from cai.train.configs import DPOConfig, RewardConfig, SFTConfig
from cai.train.data import Example, Pair, load_pairs
from cai.train.packing import pack_ends, pack_tokens
from cai.train.reward import load_with_head

BATCH = 8
MAX_LENGTH = 512
RATE = 1e-5
SPEED = {"dpo": 4.0, "reward": 2.0, "sft": 1.8}
MEMORY = {"dpo": 0.4}
UNIT = {"dpo": "pairs/s", "reward": "pairs/s", "sft": "rows/s"}


class Turns(TrainerCallback):
    """Waits for its turn before each step, and says how long the step took and what it lost."""

    def __init__(self) -> None:
        """Speak on what is standard output now; everything else goes to standard error."""
        self._out = sys.stdout
        sys.stdout = sys.stderr
        self._start = self._work = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Wait; the clock starts with the word."""
        self.say({"ready": state.global_step})
        if not sys.stdin.readline():
            raise SystemExit(1)
        self._start, self._work = time.perf_counter(), time.process_time()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop the clock."""
        self.say({"seconds": [time.perf_counter() - self._start, time.process_time() - self._work]})

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Pass the loss on."""
        if "loss" in logs:
            self.say({"loss": logs["loss"]})

    def say(self, what: dict[str, Any]) -> None:
        """Write a line to the process that measures."""
        self._out.write(json.dumps(what) + "\n")
        self._out.flush()


def read_pairs(path: Path) -> list[Pair]:
    """Return the pairs that the parent wrote as ids."""
    return [
        Pair(Example(prompt, chosen, str(n)), Example(prompt, rejected, str(n)), 1.0, "", str(n))
        for n, (prompt, chosen, rejected) in enumerate(json.loads(path.read_text()))
    ]


def ours(kind: str, path: str, pairs: list[Pair], folder: Path) -> Any:
    """Return our trainer, made as the recipe makes it."""
    from cai.train import dpo, reward, sft
    from cai.train.hf import Rows, prepare_process, training_arguments
    from cai.train.loading import load_packed

    common: dict[str, Any] = {
        "model": path, "out": folder, "data": [], "batch_size": BATCH, "learning_rate": RATE, "warmup": 0.0,
        "precision": "bf16", "save_every": 0, "max_length": MAX_LENGTH,
    }  # fmt: skip
    prepare_process(0)
    order = range(len(pairs))
    trainer: Any
    if kind == "reward":
        scored = RewardConfig(**common)
        args = training_arguments(scored, len(pairs))
        model = load_with_head(path, scored, 0, args.device)
        trainer = reward.PreferenceModelTrainer(
            model=model, args=args, train_dataset=Rows(pairs, order), data_collator=reward.collate
        )
    elif kind == "sft":
        told = SFTConfig(**common)
        args = training_arguments(told, len(pairs))
        model = load_packed(AutoModelForCausalLM, path, told, args.device)
        rows = Rows([pair.chosen for pair in pairs], order)
        trainer = sft.SFTTrainer(model=model, args=args, train_dataset=rows, data_collator=sft.collate)
    else:
        config = DPOConfig(**common, reference_mode="copy")  # the reference's pass is in the step, as the peer's is
        args = training_arguments(config, len(pairs))
        model = load_packed(AutoModelForCausalLM, path, config, args.device)
        trainer = dpo.DPOTrainer(
            model=model,
            args=args,
            train_dataset=Rows(pairs, order),
            data_collator=lambda rows: dpo.collate(rows, None),
        )
        trainer.settings = config
        trainer.frozen = load_packed(AutoModelForCausalLM, path, config, args.device).requires_grad_(False)
    return trainer


def peer(kind: str, path: str, pairs: list[Pair], folder: Path) -> Any:
    """Return TRL's trainer with the settings that make it do the same."""
    import trl
    from datasets import Dataset

    common: dict[str, Any] = {
        "output_dir": str(folder), "per_device_train_batch_size": BATCH, "learning_rate": RATE, "bf16": True,
        "max_length": MAX_LENGTH, "gradient_checkpointing": False, "num_train_epochs": 1, "logging_steps": 1,
        "train_sampling_strategy": "sequential", "report_to": "none", "save_strategy": "no", "disable_tqdm": True,
        "lr_scheduler_type": "constant", "use_cpu": not torch.cuda.is_available(), "remove_unused_columns": False,
    }  # fmt: skip
    tokenizer: Any = AutoTokenizer.from_pretrained(path)
    parts = [(list(pair.chosen.prompt), list(pair.chosen.answer), list(pair.rejected.answer)) for pair in pairs]
    trainer: Any
    if kind == "reward":
        settings = RewardConfig(out=folder, data=[])
        model: Any = load_with_head(path, settings, tokenizer.pad_token_id, torch.device("cpu"))  # the same head
        model.set_attn_implementation("sdpa")
        rows = [{"chosen_ids": p + c, "rejected_ids": p + r} for p, c, r in parts]
        trainer = trl.RewardTrainer(
            model=model,
            args=trl.RewardConfig(**common),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
        )
        return trainer
    model = AutoModelForCausalLM.from_pretrained(path, dtype="float32")
    if kind == "sft":
        rows = [{"input_ids": p + c, "labels": [-100] * len(p) + c} for p, c, _ in parts]
        some = Dataset.from_list([{"prompt": "x", "completion": " y"}])
        trainer = trl.SFTTrainer(
            model=model, args=trl.SFTConfig(**common), train_dataset=some, processing_class=tokenizer
        )
    else:
        rows = [{"prompt_ids": p, "chosen_ids": c, "rejected_ids": r} for p, c, r in parts]
        some = Dataset.from_list([{"prompt": "x", "chosen": " y", "rejected": " z"}])
        trainer = trl.DPOTrainer(
            model=model, args=trl.DPOConfig(**common), train_dataset=some, processing_class=tokenizer
        )
    trainer.train_dataset = Dataset.from_list(rows)  # the ids as they are: both train on the same tokens
    return trainer


def child(who: str, kind: str, path: str, rows: Path) -> None:
    """Train in this process, a step at a time."""
    turns = Turns()
    with tempfile.TemporaryDirectory() as folder:
        trainer = (ours if who == "ours" else peer)(kind, path, read_pairs(rows), Path(folder))
        trainer.add_callback(turns)
        trainer.train()
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    gpu = torch.cuda.max_memory_allocated() // 1024 if torch.cuda.is_available() else 0
    turns.say({"memory": (gpu or used) * 1024})


class Runner:
    """A process that trains by turns."""

    def __init__(self, who: str, kind: str, path: str, rows: Path) -> None:
        """Start it, and return when it has loaded."""
        command = [sys.executable, __file__, "--child", who, kind, path, str(rows)]
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True
        )
        self.losses: list[float] = []
        self.memory = 0
        self._until("ready")

    def step(self) -> tuple[float, float]:
        """Take one step; return its seconds, on the clock and of processor time."""
        assert self._process.stdin
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        clock, work = self._until("seconds")
        return clock, work

    def end(self) -> None:
        """Let it end, and take its peak memory."""
        self.memory = self._until("memory")
        self._process.wait()

    def _until(self, name: str) -> Any:
        assert self._process.stdout
        for line in self._process.stdout:
            said = json.loads(line)
            if "loss" in said:
                self.losses.append(float(said["loss"]))
            if name in said:
                return said[name]
        self._log.seek(0)
        raise SystemExit(f"the process ended:\n{self._log.read()[-3000:]}")


@dataclass
class Measured:
    """What one workload gave."""

    ours: list[tuple[float, float]]
    peer: list[tuple[float, float]]
    memory: tuple[int, int]
    losses: tuple[float, float]
    rate: float


def measure(kind: str, path: str, rows: Path, steps: int) -> Measured:
    """Take turns; the first step of each is not counted."""
    runners = {who: Runner(who, kind, path, rows) for who in ("ours", "peer")}
    seconds: dict[str, list[tuple[float, float]]] = {who: [] for who in runners}
    rates = []
    for step in range(steps + 1):
        for who, runner in runners.items():
            took = runner.step()
            if step:
                seconds[who].append(took)
                rates.append(matmul_rate())
    for runner in runners.values():
        runner.end()
    return Measured(
        ours=seconds["ours"],
        peer=seconds["peer"],
        memory=(runners["ours"].memory, runners["peer"].memory),
        losses=(runners["ours"].losses[0], runners["peer"].losses[0]),
        rate=statistics.median(rates),
    )


def work_of(kind: str, path: str, pairs: list[Pair]) -> float:
    """Return the FLOP that training on these rows can't do without."""
    config = AutoConfig.from_pretrained(path)
    width, layers = config.hidden_size, config.num_hidden_layers
    keys = width * config.num_key_value_heads // config.num_attention_heads
    body = layers * (2 * width * width + 2 * width * keys + 3 * width * config.intermediate_size)
    rows = [pair.chosen.row if kind == "sft" else pair.row for pair in pairs]
    batch = pack_ends(rows) if kind == "reward" else pack_tokens(rows)
    seen = int(batch["position_ids"].sum()) + batch["position_ids"].numel()
    forward = 2 * body * batch["input_ids"].numel() + 4 * layers * width * seen
    if kind != "reward":
        forward += 2 * width * config.vocab_size * len(batch["read"])
    return float(forward * (4 if kind == "dpo" else 3))


def tokens_of(kind: str, pairs: list[Pair]) -> tuple[int, int]:
    """Return how many tokens ours computes, and how many positions the peer does, padding included."""
    packed = sum(len(pair.chosen) if kind == "sft" else len(pair) for pair in pairs)
    padded = 0
    for start in range(0, len(pairs), BATCH):
        batch = pairs[start : start + BATCH]
        lengths = [len(pair.chosen) for pair in batch]
        lengths += [] if kind == "sft" else [len(pair.rejected) for pair in batch]
        padded += max(lengths) * len(lengths)
    return packed, padded


def draw(path: Path, model: str, count: int) -> list[Pair]:
    """Return the first pairs of a file, as ids."""
    renderer = Renderer(AutoTokenizer.from_pretrained(model))
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "pairs.jsonl"
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
            plain.write_text("".join(itertools.islice(file, 2 * count)))
        pairs, _ = load_pairs([plain], renderer, max_length=MAX_LENGTH)
    return pairs[:count]


def report(kind: str, pairs: list[Pair], found: Measured, work: float) -> bool:
    """Print the lines of a workload; tell whether it met its targets."""
    gap = abs(found.losses[0] - found.losses[1])
    same = gap < 0.02  # bfloat16
    print(f"{kind}, first loss  {found.losses[0]:.3f}  {found.losses[1]:.3f}  -  -  {'PASS' if same else 'FAIL'}")
    mine, theirs = (statistics.median(clock for clock, _ in some) for some in (found.ours, found.peer))
    cores, their_cores = (statistics.median(work for _, work in some) for some in (found.ours, found.peer))
    ratio, floor = theirs / mine, work / found.rate
    good = ratio >= SPEED[kind]
    packed, padded = tokens_of(kind, pairs)
    print(
        f"{kind}, speed  {BATCH / mine:.2f} {UNIT[kind]}  {BATCH / theirs:.2f} {UNIT[kind]}  {ratio:.2f}x  "
        f">= {SPEED[kind]}x  {'PASS' if good else 'FAIL'}   step: ours {mine:.1f} s, peer {theirs:.1f} s, floor "
        f"{floor:.1f} s ({floor / mine:.0%} of ours, {floor / theirs:.0%} of the peer's) at {found.rate / 1e9:.0f} "
        f"GFLOP/s; processor time {cores:.1f} s against {their_cores:.1f} s; tokens {packed} against {padded} positions"
    )
    share = found.memory[0] / found.memory[1]
    fits = share <= MEMORY.get(kind, 1.0)
    sizes = "  ".join(f"{used / 1e9:.1f} GB" for used in found.memory)
    verdict = "PASS" if fits else "FAIL"
    print(f"{kind}, peak memory  {sizes}  {share:.2f}x  <= {MEMORY.get(kind, 1.0)}x  {verdict}", flush=True)
    return same and good and fits


def main() -> int:
    """Measure; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path)
    parser.add_argument("--quick", action="store_true", help="two steps of each")
    parser.add_argument("--only", choices=sorted(SPEED))
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        who, kind, path, rows = given.child
        child(who, kind, path, Path(rows))
        return 0
    if given.pairs is None:
        parser.error("--pairs is needed: a file of rows with 'chosen' and 'rejected'")
    path = resolve_model(given.model)
    steps = 2 if given.quick else given.steps
    pairs = draw(given.pairs, path, (steps + 1) * BATCH)
    met = True
    print(f"{given.model}, bf16, batches of {BATCH}, {steps} steps each, {torch.get_num_threads()} threads", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.json"
        rows.write_text(json.dumps([(p.chosen.prompt, p.chosen.answer, p.rejected.answer) for p in pairs]))
        for kind in [given.only] if given.only else SPEED:
            found = measure(kind, path, rows, steps)
            counted = pairs[BATCH:]
            met = report(kind, counted, found, work_of(kind, path, counted) / steps) and met
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
