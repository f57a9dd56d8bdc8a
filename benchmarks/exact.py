"""Whether training is exact: stopped anywhere and gone on with, cut into micro-batches, shared among processes.

Start: PYTHONPATH=. python benchmarks/exact.py [--quick] [--only R4|R7]

- R4: SFT, preference model and DPO; all weights and an adapter; one process and two (gloo); dropout on. Each is killed
  after step 1, between the micro-batches of a step, in mid-epoch, at the epoch's end and in the second epoch, and
  started again. Later losses and gradient norms are those of a run that nobody stopped, and so is every weight, to the
  bit (float32 on a CPU). That run writes no checkpoint, so that writing one changes nothing either.
- R7: 20 steps of 8 rows of ragged lengths: in 1, 2 and 8 micro-batches, and in two processes. No weight differs by more
  than 1e-6. The same of a run that is killed and goes on in two processes after one, in one after two, and in two with
  the model in pieces (accelerate's FSDP2, by recipes/configs/accelerate). Each row is trained on once an epoch.

The model is a Llama of two layers with random weights. Trainings are forked from this process, which has loaded
everything. Prints `name ours target PASS|FAIL`; exits with 1 when one fails. `--quick`: a few of the cells.
"""

import argparse
import gc
import itertools
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import peft  # noqa: F401  before processes are forked, not in each
import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.state import AcceleratorState, DistributedType, PartialState
from accelerate.utils.launch import prepare_multi_gpu_env
from safetensors.torch import load_file
from torch import Tensor
from transformers import Trainer, TrainerCallback, trainer

from cai.errors import guarded
from cai.train import hf
from tests.engines import tiny
from tests.train import rig

FSDP2 = Path(__file__).parents[1] / "recipes" / "configs" / "accelerate" / "fsdp2.yaml"
WAYS: dict[str, dict[str, Any]] = {"full": {}, "lora": {"lora": {"r": 4, "alpha": 8, "dropout": 0.2}}}
TOLERANCE = 1e-6


class Stop(NamedTuple):
    """Where a run of two epochs of three steps is killed."""

    step: int
    """So many steps are done."""
    within: bool = False
    """Between the micro-batches of the next step; else before it."""
    every: int = 1
    """Steps between checkpoints."""

    @property
    def resumed_at(self) -> int:
        """The step that the second start goes on from."""
        return self.step - self.step % self.every


STOPS = {
    "step 1": Stop(1),
    "mid-accumulation": Stop(2, within=True),
    "mid-epoch": Stop(2),
    "epoch end": Stop(3),
    "epoch 2": Stop(5, every=2),
}

Cell = tuple[str, str, int, str]
"""Trainer, way, processes, stop."""

QUICK: list[Cell] = [
    ("sft", "lora", 1, "mid-accumulation"),
    ("sft", "full", 2, "epoch end"),
    ("reward", "full", 1, "step 1"),
    ("reward", "lora", 2, "mid-accumulation"),
    ("dpo", "lora", 2, "epoch 2"),
    ("dpo", "full", 1, "mid-epoch"),
]


class Dies(TrainerCallback):
    """Kills its own process."""

    def __init__(self, stop: Stop) -> None:
        """Do so at this place."""
        self._stop = stop

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Die before a step, the checkpoint of the one before being whole."""
        if state.global_step == self._stop.step and not self._stop.within:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_substep_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Die when the first micro-batch of a step has its gradient."""
        if state.global_step == self._stop.step and self._stop.within:
            os.kill(os.getpid(), signal.SIGKILL)


def with_callback(callback: TrainerCallback) -> None:
    """Give every trainer that is made from now on a callback."""
    before = hf.CountedTrainer.__init__

    def with_it(self: hf.CountedTrainer, *args: Any, **kwargs: Any) -> None:
        before(self, *args, **kwargs)
        self.add_callback(callback)

    hf.CountedTrainer.__init__ = with_it  # type: ignore[method-assign]


def in_processes(count: int, work: Callable[[], object]) -> list[int]:
    """Do a piece of work in so many processes that know of each other; return exit codes, negative for signals."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = set()
    for rank in range(count):
        child = os.fork()
        if not child:
            _become(rank, count, port, work)
        running.add(child)
    codes = []
    while running:
        child, status = os.wait()
        running.remove(child)
        codes.append(os.waitstatus_to_exitcode(status))
        if status:  # as launchers do: the others might wait for it
            for other in running:
                os.kill(other, signal.SIGKILL)
    return codes


def _become(rank: int, count: int, port: int, work: Callable[[], object]) -> None:
    code = 1
    try:
        os.environ |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}  # else accelerate takes all cores for each
        if count > 1:
            names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
            os.environ |= dict(zip(names, map(str, (rank, rank, count, "127.0.0.1", port)), strict=True))
        os.dup2(os.open(f"{tempfile.gettempdir()}/stderr-{rank}", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        code = guarded(work)
        sys.stderr.flush()
    finally:
        os._exit(code)  # gloo's threads can abort a process that ends in the usual way


def write_rows_down(path: Path) -> None:
    """Let every trainer write down which rows it takes: lines of (steps done, names)."""
    before = hf.CountedTrainer.get_batch_samples

    def with_a_line(self: hf.CountedTrainer, *args: Any) -> Any:
        found = before(self, *args)
        with path.open("a") as file:
            file.write(json.dumps([self.state.global_step, self._names]) + "\n")
        return found

    hf.CountedTrainer.get_batch_samples = with_a_line  # type: ignore[assignment,method-assign]


def use_fsdp() -> None:
    """Have accelerate cut models into pieces on a CPU as it does on GPUs; by itself it leaves them whole here."""
    arguments, *_ = _validate_launch_command(launch_command_parser().parse_args(["--config_file", str(FSDP2), "-"]))
    told = prepare_multi_gpu_env(arguments)
    os.environ |= {name: value for name, value in told.items() if "FSDP" in name}
    before = AcceleratorState.__init__

    def as_on_gpus(self: AcceleratorState, *args: Any, **kwargs: Any) -> None:
        PartialState(True)
        if PartialState._shared_state["distributed_type"] == DistributedType.MULTI_CPU:
            PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
        before(self, *args, **kwargs)

    AcceleratorState.__init__ = as_on_gpus


def train(kind: str, config: Any, *callbacks: TrainerCallback, sharded: bool = False) -> None:
    """Train in this process, from whatever its random numbers have come to."""
    torch.manual_seed(os.getpid())
    if sharded:
        use_fsdp()
    for callback in callbacks:
        with_callback(callback)
    write_rows_down(config.out.parent / f"taken-{os.getpid()}.jsonl")
    rig.KINDS[kind][1](config)


def taken(folder: Path) -> Counter[tuple[int, str]]:
    """Return how often each row was taken at which step by trainings of a folder, and forget it."""
    found: Counter[tuple[int, str]] = Counter()
    for path in folder.glob("taken-*.jsonl"):
        for line in path.read_text().splitlines():
            step, names = json.loads(line)
            found.update((step, name) for name in names)
        path.unlink()
    return found


def trained(
    kind: str, config: Any, processes: int, *, sharded: bool = False
) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """Train to the end in so many processes; return the logged steps and the weights."""
    if any(in_processes(processes, partial(train, kind, config, sharded=sharded))):
        raise SystemExit(f"{config.out}: a training that nobody stopped has failed")
    return rig.metrics(config.out), rig.weights(config.out)


class Resumes:
    """Runs of one folder, and what those that nobody stopped have come to."""

    def __init__(self, folder: Path) -> None:
        """Make the model: with dropout."""
        self._folder, self._model = folder, folder / "model"
        tiny.llama(attention_dropout=0.2).save_pretrained(self._model)
        tiny.tokenizer().save_pretrained(self._model)
        self._whole: dict[tuple[str, str, int], tuple[list[dict[str, Any]], dict[str, Tensor]]] = {}

    def _settings(self, kind: str, way: str, name: str, **changes: Any) -> Any:
        changes = {"micro_batch": 1, "epochs": 2, "schedule": "cosine", "warmup": 0.4, **WAYS[way], **changes}
        return rig.settings(kind, self._folder / name, self._model, **changes)

    def whole(self, kind: str, way: str, processes: int) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
        """Return the run that nobody stopped."""
        key = (kind, way, processes)
        if key not in self._whole:
            config = self._settings(kind, way, f"whole-{kind}-{way}-{processes}")
            self._whole[key] = trained(kind, config, processes)
        return self._whole[key]

    def differs(self, cell: Cell) -> str:
        """Kill a run and start it again; return what of it is not as in the whole run, or nothing."""
        kind, way, processes, place = cell
        stop = STOPS[place]
        logged, weights = self.whole(kind, way, processes)
        config = self._settings(kind, way, "cut", save_every=stop.every)
        codes = in_processes(processes, partial(train, kind, config, Dies(stop)))
        if -signal.SIGKILL not in codes or 0 in codes:
            return f"ended with {codes} in place of a kill"
        relogged, found = trained(kind, config, processes)
        resumed = json.loads((config.out / "result.json").read_text())["resumed_at"]
        shutil.rmtree(config.out.parent)
        wrong = [name for name in ("loss", "grad_norm") if _column(logged, name) != _column(relogged, name)]
        wrong += [name for name in weights if not torch.equal(weights[name], found[name])]
        return ", ".join(wrong if resumed == stop.resumed_at else [f"resumed at {resumed}", *wrong])


def _column(rows: Sequence[dict[str, Any]], name: str) -> list[tuple[int, float]]:
    return [(row["step"], row[name]) for row in rows]


class Splits:
    """One training in several divisions of its work."""

    def __init__(self, folder: Path) -> None:
        """Make the model: without dropout, whose draws follow the division."""
        self._folder, self._model = folder, folder / "model"
        tiny.llama().save_pretrained(self._model)
        tiny.tokenizer().save_pretrained(self._model)

    def _settings(self, kind: str, name: str, **changes: Any) -> Any:
        changes |= {"batch_size": 8, "learning_rate": 1e-4, "rows": 80, "epochs": 2}
        return rig.settings(kind, self._folder / f"{kind}-{name}", self._model, **changes)

    def trained(self, kind: str, micro_batch: int, processes: int, **changes: Any) -> dict[str, Tensor]:
        """Return the weights that 20 steps come to."""
        config = self._settings(kind, f"{micro_batch}x{processes}{len(changes)}", micro_batch=micro_batch, **changes)
        logged, weights = trained(kind, config, processes)
        start = load_file(self._model / "model.safetensors")
        moved = rig.largest_difference({name: weights[name] for name in start}, start)
        if len(logged) != 20 or moved < 100 * TOLERANCE:
            raise SystemExit(f"{kind}: {len(logged)} steps have moved the weights by {moved:.1e}")
        return weights

    def passed_on(
        self, kind: str, first: int, second: int, *, sharded: bool = False, **changes: Any
    ) -> tuple[dict[str, Tensor], int]:
        """Begin in so many processes and end in others; return the weights, and how many rows were not taken twice.

        Two epochs: each row's share is two.
        """
        name = f"{first}-to-{second}{sharded}{len(changes)}"
        config = self._settings(kind, name, micro_batch=2, save_every=4, **changes)
        in_processes(first, partial(train, kind, config, Dies(Stop(11)), sharded=sharded))
        before = Counter({key: count for key, count in taken(config.out.parent).items() if key[0] < 8})
        _, weights = trained(kind, config, second, sharded=sharded)
        rows: Counter[str] = Counter()
        for (_, name), count in (before + taken(config.out.parent)).items():
            rows[name] += count
        return weights, sum(count != 2 for count in rows.values()) + 80 - len(rows)


def report(name: str, ours: object, target: object, *, good: bool) -> bool:
    """Print a line and return whether it passed."""
    print(f"{name:<52} {ours!s:>14} {target!s:>10} {'PASS' if good else 'FAIL'}", flush=True)
    return good


def check_resumes(folder: Path, *, quick: bool) -> bool:
    """R4."""
    cells = QUICK if quick else list(itertools.product(rig.KINDS, WAYS, (1, 2), STOPS))
    runs, failed = Resumes(folder), 0
    for cell in cells:
        wrong = runs.differs(cell)
        name = "R4 {} {} x{} {}".format(*cell)
        failed += not report(name, wrong[:60] or "equal", "equal", good=not wrong)
    return report("R4 cells that differ", f"{failed} of {len(cells)}", 0, good=not failed)


def check_splits(folder: Path, *, quick: bool) -> bool:
    """R7."""
    runs, passed = Splits(folder), True
    for kind in rig.KINDS:
        whole = runs.trained(kind, 8, 1)
        for micro_batch, processes in ((4, 2),) if quick else ((1, 1), (4, 1), (4, 2), (1, 2)):
            apart = rig.largest_difference(whole, runs.trained(kind, micro_batch, processes))
            pieces = f"{8 // micro_batch // processes} x {micro_batch} in {processes}"
            passed &= report(f"R7 {kind} 1 x 8 against {pieces}", f"{apart:.1e}", TOLERANCE, good=apart <= TOLERANCE)
        for first, second in () if quick and kind != "dpo" else ((1, 2), (2, 1)):
            found = runs.passed_on(kind, first, second)
            passed &= _same(f"R7 {kind} begun in {first}, ended in {second}", whole, *found)
        if not quick or kind == "sft":
            passed &= _same(f"R7 {kind} full, FSDP2 in 2", whole, *runs.passed_on(kind, 2, 2, sharded=True))
        if not quick:
            lora = {"lora": {"r": 4, "alpha": 8}}
            found = runs.passed_on(kind, 2, 2, sharded=True, **lora)
            passed &= _same(f"R7 {kind} lora, FSDP2 in 2", runs.trained(kind, 8, 1, **lora), *found)
    return passed


def _same(name: str, whole: dict[str, Tensor], weights: dict[str, Tensor], wrong: int) -> bool:
    apart = rig.largest_difference(whole, weights)
    passed = report(name, f"{apart:.1e}", TOLERANCE, good=apart <= TOLERANCE)
    return passed & report(f"{name}: rows not taken twice", wrong, 0, good=not wrong)


def break_something(name: str) -> None:
    """Make the trainers worse in one way: a detector must find it."""
    if name == "draws":  # dropout goes on from anywhere
        Trainer._load_rng_state = lambda self, checkpoint: None  # type: ignore[method-assign]
    elif name == "skip":  # the rows begin anew
        trainer.skip_first_batches = lambda rows, count: rows
    elif name == "mean":  # a mean of the micro-batches' means
        before = hf.CountedTrainer.compute_loss

        def local(
            self: Any, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            units = self.units(inputs) * self.args.gradient_accumulation_steps * self.accelerator.num_processes
            return before(self, model, inputs, return_outputs, units)

        hf.CountedTrainer.compute_loss = local  # type: ignore[method-assign]


def main() -> int:
    """Run all of it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a few of the cells, some seconds")
    parser.add_argument("--only", choices=["R4", "R7"], help="one of the two")
    parser.add_argument("--break", dest="broken", choices=["draws", "skip", "mean"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.broken:
        break_something(given.broken)
    gc.collect()
    gc.freeze()  # the trainings' own collections then leave alone what they share
    passed = True
    with tempfile.TemporaryDirectory(prefix="cai-exact-") as name:
        os.environ["CAI_CACHE"] = f"{name}/cache"
        tempfile.tempdir = name
        for part, check in (("R4", check_resumes), ("R7", check_splits)):
            if given.only in (None, part):
                start = time.monotonic()
                (Path(name) / part).mkdir()
                passed &= check(Path(name) / part, quick=given.quick)
                print(f"# {part} took {time.monotonic() - start:.1f} s")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
