"""PPO against TRL 1.12.0, the last release that has it: the same prompts and models, step by step in alternation.

Start: bash scripts/trl-1.12.sh && python benchmarks/ppo.py [--quick] [--steps 5] [--epochs 4] [--batch 16]

Each is a process of its own, the peer's in an environment of its own, and waits while the other takes its step. A step
is all of it: 16 answers of exactly 64 tokens (no answer may end by itself), rewards, both models' log-probabilities,
values, the updates of all epochs, logging. Both compute in bfloat16; the peer's frozen models are in bfloat16, too. It
trains a value model of its own, where ours has a head on the policy. A forward pass has 4 answers here (the default of
`micro_batch`), 16 there (no accumulation); ``--micro 16`` gives both the same. The first step of each is not counted.

The floor is the arithmetic that can't be left out (every token once per forward pass, no padding, the vocabulary where
an answer is predicted; rollout, reference and reward 1, an epoch 3) at the rate of a large matrix product, measured
between the steps. Prints `name  ours  peer  ratio  target  PASS|FAIL`, and exits with 1 when one fails. Where other
work shares the machine only the ratios mean anything.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
NEW_TOKENS, RATE = 64, 1e-6
TIME, MEMORY = 1 / 3, 0.4
"""Targets: ours as a share of the peer's."""


class Turns:
    """Speaks to the process that measures, on what was standard output; everything else goes to standard error."""

    def __init__(self) -> None:
        """Take standard output over."""
        self._out = sys.stdout
        sys.stdout = sys.stderr

    def wait(self) -> None:
        """Say that a step may begin, and return when it shall."""
        self.say({"ready": True})
        if not sys.stdin.readline():
            raise SystemExit(1)

    def say(self, what: dict[str, Any]) -> None:
        """Write a line."""
        self._out.write(json.dumps(what) + "\n")
        self._out.flush()


def ours(turns: Turns, given: dict[str, Any]) -> None:
    """Take steps of our trainer, made as the recipe makes it."""
    from accelerate import Accelerator

    from cai.train.ppo.config import PPOConfig
    from cai.train.ppo.trainer import Trainer
    from cai.train.rewards.config import ModelReward

    config = PPOConfig(
        model=given["model"],
        out=Path(given["folder"]) / "ours",
        prompts=[Path(given["prompts"])],
        rewards=[ModelReward(kind="model", path=Path(given["reward"]), dtype="bfloat16")],
        steps=given["steps"],
        batch_size=given["batch"],
        micro_batch=given["micro"],
        epochs=given["epochs"],
        max_new_tokens=NEW_TOKENS,
        learning_rate=RATE,
        precision="bf16",
        save_every=0,
    )
    trainer = Trainer(config, Accelerator())
    trainer.renderer.end_ids = frozenset()
    for step in range(1, given["steps"] + 1):
        turns.wait()
        start = time.perf_counter()
        values = trainer.step(step)
        seconds = time.perf_counter() - start
        phases = {name.removeprefix("seconds_"): took for name, took in values.items() if name.startswith("seconds_")}
        turns.say({"seconds": seconds, "phases": phases, "length": values["length"], "kl": values["kl"]})


class Phases:
    """Seconds by phase, measured around functions of the peer's module."""

    def __init__(self) -> None:
        """Start with no phase."""
        self.seconds: dict[str, float] = {}

    def timed(self, name: str, function: Any) -> Any:
        """Return the function, its calls counted as a phase's."""

        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

        return call

    def watch(self, module: Any, trainer: Any) -> None:
        """Measure the module's calls, told apart by the model that they are made with."""
        score, read = module.get_reward, module.forward
        values_of, scores_of, reference_of = (
            self.timed(name, function) for name, function in (("value", score), ("reward", score), ("reference", read))
        )
        module.batch_generation = self.timed("rollout", module.batch_generation)
        module.get_reward = lambda model, *more: (scores_of if model is trainer.reward_model else values_of)(
            model, *more
        )
        module.forward = lambda model, *more: (reference_of if model is trainer.ref_model else read)(model, *more)


def peer(turns: Turns, given: dict[str, Any]) -> None:
    """Take steps of TRL's trainer with the settings that make it do the same."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl.experimental.ppo import ppo_trainer  # type: ignore[import-not-found]

    phases = Phases()

    class Steps(TrainerCallback):
        """Waits for its turn before each step, and says how long the step took."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            """Wait for the first."""
            self._begin()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            """Stop the clock, then wait for the next."""
            seconds = time.perf_counter() - self._start
            rest = {"train": seconds - sum(phases.seconds.values())}
            turns.say({"seconds": seconds, "phases": {**phases.seconds, **rest}, "length": NEW_TOKENS})
            if state.global_step < given["steps"]:
                self._begin()

        def _begin(self) -> None:
            phases.seconds.clear()
            turns.wait()
            self._start = time.perf_counter()

    tokenizer: Any = AutoTokenizer.from_pretrained(given["model"], padding_side="left")
    policy: Any = AutoModelForCausalLM.from_pretrained(given["model"], dtype="float32")
    policy.generation_config.eos_token_id = None
    trainer = peer_trainer(
        policy,
        tokenizer,
        json.loads(Path(given["ids"]).read_text()),
        given,
        [Steps()],
        per_device_train_batch_size=given["batch"],
        gradient_accumulation_steps=1,
        num_ppo_epochs=given["epochs"],
        total_episodes=given["batch"] * given["steps"],
        response_length=NEW_TOKENS,
        learning_rate=RATE,
    )
    phases.watch(ppo_trainer, trainer)
    trainer.train()


def peer_trainer(
    policy: Any, tokenizer: Any, ids: list[list[int]], given: dict[str, Any], callbacks: list[Any] | None = None,
    **settings: Any,
) -> Any:  # fmt: skip
    """Return TRL's trainer of a policy on prompts, as its examples make it, with a value model like the reward's."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    classifier = AutoModelForSequenceClassification
    rows = Dataset.from_list([{"input_ids": one} for one in ids])
    shared: dict[str, Any] = {
        "output_dir": str(Path(given["folder"]) / "peer"), "num_mini_batches": 1, "temperature": 1.0, "bf16": True,
        "gradient_checkpointing": False, "num_sample_generations": 0, "save_strategy": "no", "report_to": "none",
        "disable_tqdm": True, "use_cpu": not torch.cuda.is_available(),
    }  # fmt: skip
    return PPOTrainer(
        args=PPOConfig(**shared, **settings),
        processing_class=tokenizer,
        model=policy,
        ref_model=AutoModelForCausalLM.from_pretrained(given["model"], dtype="bfloat16"),
        reward_model=classifier.from_pretrained(given["reward"], dtype="bfloat16"),
        value_model=classifier.from_pretrained(given["reward"], dtype="float32"),
        train_dataset=rows,
        eval_dataset=rows.select(range(min(16, len(rows)))),
        callbacks=callbacks,
    )


def child(who: str, path: str) -> None:
    """Take steps in this process."""
    turns = Turns()
    given = json.loads(Path(path).read_text())
    {"ours": ours, "peer": peer}[who](turns, given)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    gpu = torch.cuda.max_memory_allocated() // 1024 if torch.cuda.is_available() else 0
    turns.say({"memory": (gpu or used) * 1024})


class Runner:
    """A process that takes steps by turns."""

    def __init__(self, python: str, who: str, settings: Path) -> None:
        """Start it, and return when it has loaded."""
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the process
        command = [python, __file__, "--child", who, str(settings)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, cwd=ROOT
        )
        self._until("ready")
        self.steps: list[dict[str, Any]] = []

    def step(self, *, last: bool) -> None:
        """Take one step."""
        assert self._process.stdin
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        self.steps.append(self._until("seconds"))
        if not last:
            self._until("ready")

    def end(self) -> int:
        """Let it end; return its peak memory in bytes."""
        memory: int = self._until("memory")["memory"]
        self._process.wait()
        return memory

    def stop(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.wait()

    def _until(self, name: str) -> dict[str, Any]:
        assert self._process.stdout
        for line in self._process.stdout:
            said: dict[str, Any] = json.loads(line)
            if name in said:
                return said
        self._log.seek(0)
        raise SystemExit(f"the process ended:\n{self._log.read()[-3000:]}")


def matmul_rate() -> float:
    """Return the rate of a large bfloat16 product, FLOP/s: the best of three."""
    side, device = (8192, "cuda") if torch.cuda.is_available() else (2048, "cpu")
    left = torch.randn(side, side, dtype=torch.bfloat16, device=device)
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        float((left @ left)[0, 0])
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def work_of(model: str, prompts: list[list[int]], epochs: int) -> dict[str, float]:
    """Return the FLOP that a step can't do without, by phase."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model)
    width, layers = config.hidden_size, config.num_hidden_layers
    keys = width * config.num_key_value_heads // config.num_attention_heads
    body = 2 * layers * (2 * width * width + 2 * width * keys + 3 * width * config.intermediate_size)
    tokens = sum(len(ids) + NEW_TOKENS for ids in prompts)
    seen = sum((len(ids) + NEW_TOKENS) ** 2 / 2 for ids in prompts)
    trunk = body * tokens + 4 * layers * width * seen
    head = 2 * width * config.vocab_size * len(prompts) * NEW_TOKENS
    forward = trunk + head
    return {"rollout": forward, "reference": forward, "reward": trunk, "train": 3 * epochs * forward}


def prepare(folder: Path, *, epochs: int, steps: int, batch: int, micro: int) -> tuple[dict[str, Any], list[list[int]]]:
    """Write prompts and a preference model with a head drawn at random, which both sides use."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from cai.engines.embedded import resolve_model
    from cai.engines.render import Renderer
    from cai.records.loaders import load_prompts

    model = resolve_model("embedded")
    tokenizer: Any = AutoTokenizer.from_pretrained(model)
    chosen = load_prompts([ROOT / "cai/data/prompts/red_team.jsonl"])[:batch]
    ids = [Renderer(tokenizer).prompt_ids(prompt.messages) for prompt in chosen]
    (folder / "ids.json").write_text(json.dumps(ids))
    (folder / "prompts.jsonl").write_text(
        "".join(json.dumps({"prompt": prompt.messages[-1].content}) + "\n" for prompt in chosen)
    )
    torch.manual_seed(0)
    reward: Any = AutoModelForSequenceClassification.from_pretrained(model, num_labels=1, dtype="float32")
    reward.config.pad_token_id = tokenizer.pad_token_id
    reward.save_pretrained(folder / "reward")
    tokenizer.save_pretrained(folder / "reward")
    given = {
        "model": model, "reward": str(folder / "reward"), "folder": str(folder), "epochs": epochs, "steps": steps,
        "batch": batch, "micro": micro, "prompts": str(folder / "prompts.jsonl"), "ids": str(folder / "ids.json"),
    }  # fmt: skip
    (folder / "given.json").write_text(json.dumps(given))
    return given, ids


def measure(python: str, folder: Path, steps: int) -> tuple[dict[str, Runner], dict[str, int], float]:
    """Take turns; return the runners, their peak memory, and the rate of a large product."""
    runners: dict[str, Runner] = {}
    rates = []
    try:
        for who, its in (("ours", sys.executable), ("peer", python)):
            runners[who] = Runner(its, who, folder / "given.json")
        for step in range(steps):
            for who, runner in runners.items():
                runner.step(last=step == steps - 1)
                print(f"{who}, step {step}  {runner.steps[-1]['seconds']:.1f} s", file=sys.stderr, flush=True)
                rates.append(matmul_rate())
        return runners, {who: runner.end() for who, runner in runners.items()}, statistics.median(rates)
    finally:
        for runner in runners.values():
            runner.stop()


def report(runners: dict[str, Runner], memory: dict[str, int], rate: float, work: dict[str, float]) -> bool:
    """Print the lines; tell whether all targets are met."""
    counted = {who: runner.steps[1:] for who, runner in runners.items()}
    mine, theirs = (statistics.median(step["seconds"] for step in counted[who]) for who in ("ours", "peer"))
    floor = sum(work.values()) / rate
    quick, small = mine / theirs <= TIME, memory["ours"] / memory["peer"] <= MEMORY
    print(
        f"seconds per step  {mine:.1f}  {theirs:.1f}  {mine / theirs:.2f}x  <= {TIME:.2f}x  "
        f"{'PASS' if quick else 'FAIL'}   floor {floor:.1f} s at {rate / 1e9:.0f} GFLOP/s: {floor / mine:.0%} of ours, "
        f"{floor / theirs:.0%} of the peer's"
    )
    sizes = "  ".join(f"{memory[who] / 1e9:.1f} GB" for who in ("ours", "peer"))
    share = memory["ours"] / memory["peer"]
    print(f"peak memory  {sizes}  {share:.2f}x  <= {MEMORY}x  {'PASS' if small else 'FAIL'}")
    names = dict.fromkeys(name for steps in counted.values() for step in steps for name in step["phases"])
    for name in names:
        times = [statistics.median(step["phases"].get(name, 0.0) for step in counted[who]) for who in ("ours", "peer")]
        least = f"floor {work[name] / rate:.1f} s" if name in work else "no floor: what the rollout computes has it"
        print(f"  {name}  {times[0]:.1f}  {times[1]:.1f}  {least}")
    return quick and small


def main() -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help="one counted step of one epoch")
    parser.add_argument("--steps", type=int, default=5, help="counted steps")
    parser.add_argument("--epochs", type=int, default=4, help="passes over each step's answers; the peer's default")
    parser.add_argument("--batch", type=int, default=16, help="answers per step; the peer holds some 15 GB with 16")
    parser.add_argument("--micro", type=int, default=4, help="our answers per forward pass")
    parser.add_argument("--peer", type=Path, default=ROOT / ".venv-trl", help="what scripts/trl-1.12.sh has made")
    given = parser.parse_args()
    if given.child:
        child(*given.child)
        return 0
    python = given.peer / "bin" / "python"
    if not python.exists():
        raise SystemExit(f"{python}: no such file; make it with scripts/trl-1.12.sh")
    steps, epochs = (1, 1) if given.quick else (given.steps, given.epochs)
    with tempfile.TemporaryDirectory() as name:
        settings, ids = prepare(Path(name), epochs=epochs, steps=steps + 1, batch=given.batch, micro=given.micro)
        measured = measure(str(python), Path(name), steps + 1)
        good = report(*measured, work_of(settings["model"], ids, epochs))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
