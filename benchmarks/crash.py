"""Whether a training that crashes at a write loses nothing: in its last save, the removal of older ones, and its end.

Start: PYTHONPATH=. python benchmarks/crash.py [--quick] [--only sft|reward|dpo|ppo]

R3: every call of the process that changes a file of a run's folder (open, write, fsync, rename, unlink, mkdir, …),
whether Python, safetensors or torch made it, is numbered (benchmarks/crash.c). At each, the process is killed before it
or in its middle, or the call does a part of its work (a short write), or the disk is full from then on (ENOSPC), or
broken (EIO). Then the newest whole checkpoint is sound, or the model is there; a command that the disk refused has
ended with 5; and the same command again comes to the weights and metrics of a training that nobody disturbed. What two
faults leave alike is gone on from once.

Trainings are forked from one that has come to its last save. Prints `name ours target PASS|FAIL`; exits with 1 when one
fails. `--quick`: every fifth point, each in one way. Linux, and a C compiler.
"""

import argparse
import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import TrainerCallback

from cai.errors import guarded
from cai.storage import MARKER, damaged_file, digest, hash_file
from cai.train import checkpoints, hf
from cai.train.common import read_metrics
from cai.train.ppo import checkpoint as ppo_checkpoint
from cai.train.ppo import held_out
from cai.train.ppo import trainer as ppo
from tests.engines import tiny
from tests.train import rig
from tests.train.ppo import rig as ppo_rig

SHIM = "CAI_CRASH_SHIM"
SOURCE = Path(__file__).with_suffix(".c")
FAULTS = {"die": 1, "torn": 2, "short": 3, "ENOSPC": 4, "EIO": 5}
"""As crash.c numbers them."""

GROWS = ("write", "open", "open64", "openat", "openat64", "fopen", "mkdir", "mkdirat", "ftruncate", "ftruncate64")
"""What a full disk refuses."""

LAST = 3
"""The step whose save is disturbed; two checkpoints are there by then."""


class Served(BaseException):
    """Ends a training from which all others were forked."""


class Fault(NamedTuple):
    """What goes wrong at which call."""

    at: int
    call: str
    how: str


def faults_at(calls: list[str], *, every: bool) -> Iterator[Fault]:
    """Yield what can go wrong at each call, or at every fifth one thing in turn."""
    for at, call in list(enumerate(calls))[:: 1 if every else 5]:
        ways = ["die", "EIO"]
        if call in GROWS:
            ways.append("ENOSPC")
        if call == "write":
            ways += ["torn", "short"]
        yield from (Fault(at, call, how) for how in (ways if every else [ways[at // 5 % len(ways)]]))


class Run:
    """A training that others are forked from at its last save, and what has become of them."""

    def __init__(self, kind: str, folder: Path, *, every: bool) -> None:
        """Make the model and the settings."""
        self.kind, self.folder, self.every = kind, folder, every
        model = folder / "model"
        tiny.llama(hidden_size=24, intermediate_size=48).save_pretrained(model)
        tiny.tokenizer().save_pretrained(model)
        if kind == "ppo":
            prompts = rig.write(folder / "held_out.jsonl", [{"prompt": "And now?"}])
            changes = {"batch_size": 2, "minibatches": 1, "epochs": 1, "max_new_tokens": 4, "learning_rate": 0.01}
            best = {"eval_prompts": [prompts], "eval_every": 1, "keep": "best"}
            self.config: Any = ppo_rig.settings(folder, model, steps=LAST + 1, save_every=1, **changes, **best)
            self.train: Callable[[], Any] = lambda: ppo.run_ppo(self.config, ppo_rig.vowels)
            undecorated: Any = ppo.run_ppo
            self._begin = lambda: undecorated.__wrapped__(self.config, ppo_rig.vowels)
        else:
            self.config = rig.settings(kind, folder, model, save_every=1)
            entry: Any = rig.KINDS[kind][1]
            self.train = lambda: entry(self.config)
            self._begin = lambda: entry.__wrapped__(self.config)  # those who go on must be able to take the lock
        self._shim = ctypes.CDLL(os.environ[SHIM])
        self._shim.crash_name.restype = ctypes.c_char_p
        self._whole: tuple[Any, Any] = ((), ())
        self._ends: dict[str, str] = {}
        self.wrong: list[str] = []
        self.calls: list[str] = []
        self.faults = 0

    def serve(self) -> None:
        """Train up to the last save, and from there on once for each fault."""
        stop_at_last_save(self._fork_all)
        code = 1
        try:
            code = guarded(self._begin)
            if os.environ.get("CAI_CRASH_COUNT"):
                seen = range(self._shim.crash_seen())
                names = [self._shim.crash_name(number).decode() for number in seen]
                (self.folder / "calls.json").write_text(json.dumps(names))
        except Served:
            return
        finally:
            if os.getpid() != self._server:
                os._exit(code)

    def _fork_all(self) -> None:
        """Return in a child for each fault; here, raise Served when all are done."""
        self._server = os.getpid()
        out, kept = self.config.out, self.folder / "kept"
        shutil.copytree(out, kept)
        if self._child(None) is None:
            return
        self.calls = json.loads((self.folder / "calls.json").read_text())
        self._whole = self._found()
        for fault in faults_at(self.calls, every=self.every):
            shutil.rmtree(out)
            shutil.copytree(kept, out)
            code = self._child(fault)
            if code is None:
                return
            self.faults += 1
            wrong = self._aftermath(code, fault)
            if wrong:
                self.wrong.append(f"{fault.how} at {fault.at} ({fault.call}): {wrong}")
        raise Served

    def _child(self, fault: Fault | None) -> int | None:
        """Fork; return None in the child, which fails there, and its exit code here."""
        child = os.fork()
        if child:
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        quiet(self.folder / "said")
        if fault is None:
            os.environ["CAI_CRASH_COUNT"] = "1"
        at, how = (fault.at, FAULTS[fault.how]) if fault else (-1, 0)
        self._shim.crash_arm(str(self.config.out.resolve()).encode(), ctypes.c_long(at), how)
        return None

    def _aftermath(self, code: int, fault: Fault) -> str:
        """Say what is wrong after a fault, or nothing."""
        out = self.config.out
        wanted = {"die": (-9,), "torn": (-9,), "short": (0,)}.get(fault.how, (0, 5))
        if code not in wanted:
            return f"ended with {code}: {(self.folder / 'said').read_text()[-300:]}"
        if fault.how == "short":
            return self._end()
        model = out / "model"
        if model.exists() and self._model() != self._whole[0]:
            return "half a model"
        newest = checkpoints.newest_checkpoint(out / "checkpoints")
        if not (out / "result.json").exists() and (newest is None or damaged_file(newest)):
            return f"the newest checkpoint is {newest}"
        left = digest([self._files(), stripped(out)])
        if left not in self._ends:
            child = os.fork()
            if not child:
                quiet(self.folder / "said")
                again = 1
                try:
                    hf.CountedTrainer.__init__ = PLAIN  # type: ignore[method-assign]
                    ppo.Trainer.save = PLAIN_SAVE  # type: ignore[method-assign]
                    again = guarded(self.train)
                finally:
                    os._exit(again)
            again = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            said = (self.folder / "said").read_text()[-300:]
            self._ends[left] = f"the same command again ended with {again}: {said}" if again else self._end()
        return self._ends[left]

    def _files(self) -> dict[str, str]:
        """Return hashes of what is left, but for metrics, and (quick) what is in a checkpoint without its marker."""
        found = {}
        for path in sorted(self.config.out.rglob("*")):
            name = path.relative_to(self.config.out).as_posix()
            name = re.sub(r"\.[a-z0-9_]{8}\.part$|\.tmp\w{6}$", ".part", name)
            unread = not self.every and "checkpoint-" in name and not (path.parent / MARKER).exists()
            if path.is_file() and path.suffix != ".jsonl" and not unread:
                found[name] = hash_file(path)
        return found

    def _model(self) -> dict[str, str]:
        return {path.name: hash_file(path) for path in (self.config.out / "model").iterdir()}

    def _found(self) -> tuple[Any, Any]:
        return self._model(), stripped(self.config.out)

    def _end(self) -> str:
        """Say in what a training's end is not that of the undisturbed one, or nothing."""
        out = self.config.out
        if not (out / "result.json").exists():
            return "no result"
        if self._found() != self._whole:
            return "another model or other metrics"
        rubbish = sorted(path.name for path in out.iterdir())
        known = {"model", "metrics.jsonl", "samples.jsonl", "result.json", ".lock"}
        return "" if set(rubbish) <= known else f"left over: {rubbish}"


def stripped(out: Path) -> list[dict[str, Any]]:
    """Return the metrics without what a clock says."""
    rows = read_metrics(out / "metrics.jsonl")
    return [{name: value for name, value in row.items() if not name.startswith(ppo_rig.CLOCKS)} for row in rows]


def quiet(said: Path) -> None:
    """Let what this process says go into a file."""
    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(file, stream)


PLAIN, PLAIN_SAVE = hf.CountedTrainer.__init__, ppo.Trainer.save


def stop_at_last_save(forks: Callable[[], None]) -> None:
    """Have something called, in every training from now on, when the last save begins."""

    class AtLast(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == LAST:
                forks()

    def with_it(self: hf.CountedTrainer, *args: Any, **kwargs: Any) -> None:
        PLAIN(self, *args, **kwargs)
        self.add_callback(AtLast())

    def saves(self: ppo.Trainer, step: int) -> None:
        if step == LAST:
            forks()
        PLAIN_SAVE(self, step)

    hf.CountedTrainer.__init__ = with_it  # type: ignore[method-assign]
    ppo.Trainer.save = saves  # type: ignore[method-assign]


def break_something(name: str) -> None:
    """Make checkpoints worse in one way: it must be found."""
    if name == "unmarked":  # the newest folder counts, whatever is in it
        for module in (checkpoints, hf, ppo, held_out):
            module.newest_checkpoint = lambda folder: next(reversed(checkpoints._all(folder)), None)  # type: ignore
            module.set_damaged_aside = lambda folder: None  # type: ignore
    elif name == "early":  # older ones go before the new one is whole
        mark = checkpoints.mark_whole

        def complete(path: Path, *, keep: int = 2) -> None:
            for other in checkpoints._whole(path.parent):
                shutil.rmtree(other)
            mark(path)

        for module in (hf, ppo_checkpoint):
            module.complete = complete  # type: ignore


def report(name: str, ours: object, target: object, *, good: bool) -> bool:
    """Print a line and return whether it passed."""
    print(f"{name:<42} {ours!s:>14} {target!s:>10} {'PASS' if good else 'FAIL'}", flush=True)
    return good


def check(kind: str, folder: Path, *, every: bool) -> bool:
    """R3 of one trainer, in a process of its own."""
    told = folder / "told.json"
    child = os.fork()
    if not child:
        code = 1
        try:
            torch.set_num_threads(1)
            run = Run(kind, folder, every=every)
            run.serve()
            told.write_text(json.dumps([run.calls, run.faults, len(run._ends), run.wrong]))
            code = 0
        except Exception:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    if os.waitpid(child, 0)[1]:
        raise SystemExit(f"{kind}: the training that is disturbed has failed")
    calls, faults, ends, wrong = json.loads(told.read_text())
    for line in wrong[:20]:
        print(f"# {kind}: {line}")
    passed = report(f"R3 {kind} points", len(calls), ">= 40", good=len(calls) >= 40)
    print(f"# {kind}: {ends} different ends were gone on from")
    return passed & report(f"R3 {kind} faults that lost something", f"{len(wrong)} of {faults}", 0, good=not wrong)


def with_shim(work: Callable[[], int]) -> int:
    """Compile the shim and start this command again under it, or do the work if that has been done."""
    if SHIM in os.environ:
        return work()
    with tempfile.TemporaryDirectory(prefix="cai-shim-") as name:
        shim = Path(name) / "crash.so"
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(shim), str(SOURCE), "-ldl"], check=True)
        environment = {**os.environ, "LD_PRELOAD": str(shim), SHIM: str(shim), "OMP_NUM_THREADS": "1"}
        return subprocess.run([sys.executable, *sys.argv], env=environment, check=False).returncode


def main() -> int:
    """Run all of it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="one fault at each point")
    parser.add_argument("--only", choices=[*rig.KINDS, "ppo"], help="one of the trainers")
    parser.add_argument("--break", dest="broken", choices=["unmarked", "early"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    return with_shim(partial(_all, given))


def _all(given: argparse.Namespace) -> int:
    if given.broken:
        break_something(given.broken)
    passed = True
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # what a disk does is played here
    with tempfile.TemporaryDirectory(prefix="cai-crash-", dir=place) as name:
        os.environ |= {"CAI_CACHE": f"{name}/cache", "ACCELERATE_USE_CPU": "true"}
        for kind in [given.only] if given.only else [*rig.KINDS, "ppo"]:
            start = time.monotonic()
            (Path(name) / kind).mkdir()
            passed &= check(kind, Path(name) / kind, every=not given.quick)
            print(f"# {kind} took {time.monotonic() - start:.1f} s")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
