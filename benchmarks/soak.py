"""Whether `cai generate` loses nothing: killed at random, at every write, and in whatever order answers come.

Start: python benchmarks/soak.py [--quick] [--seed 0]

- R1: eight workers, a shard each; 300 SIGKILLs, 30 SIGINTs and 30 SIGTERMs at random moments, a new worker for each
  that fell. What is joined in the end has the SHA-256 of an undisturbed run; each kill costs at most a step.
- R2: every write, fsync, rename, chmod, cut and removal of a run is numbered. At each, the process dies before it, in
  its middle and after it, or the disk says ENOSPC or EIO. Then a second start has the undisturbed run's bytes; in
  between, a file is whole or as it was.
- R10: 5 runs x workers {1, 2, 8} x answers in any order x PYTHONHASHSEED: one SHA-256, and another for another seed.

Workers are forked from this process, which has loaded everything: a kill costs milliseconds. Prints
`name ours target PASS|FAIL`; exits with 1 when one fails. `--quick`: 40 kills, 3 and 3, fewer points.
"""

import argparse
import errno
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cai.constitution import load_constitution
from cai.engines.base import Failure, Generated, GenerateRequest
from cai.engines.scripted import ScriptedEngine
from cai.errors import guarded
from cai.generate import GenerateConfig, pipeline
from cai.generate.merge import merge_shards
from cai.storage import AtomicFile, seed_from

WORKERS = 8
WINDOW = 4
JOURNALS = ("drafts.jsonl", "critiques.jsonl", "revisions.jsonl")
MADE = ("sft.jsonl", "left_out.jsonl", "result.json")
OLD = b'"what was here before"\n'
CALLS = ("write", "fsync", "replace", "chmod", "ftruncate", "unlink")
FAULTS = ("before", "after", "torn", "ENOSPC", "EIO")


def reply(request: GenerateRequest, seed: int) -> str:
    """Answer with words that only the request and the seed decide."""
    return f"Words number {seed_from(seed, str(request.prompt)) % 100_000} and some more of them."


class Slow(ScriptedEngine):
    """Takes a little while for each answer, and marks each call in a file."""

    def __init__(self, calls: Path, seconds: float) -> None:
        """Mark calls in this file."""
        super().__init__(reply)
        self._calls, self._seconds = os.open(calls, os.O_WRONLY | os.O_APPEND | os.O_CREAT), seconds

    def generate(self, requests: Iterable[GenerateRequest]) -> Iterator[Generated | Failure]:
        """Yield the results in order."""
        for request in requests:
            os.write(self._calls, b".")
            time.sleep(self._seconds)
            yield from super().generate([request])


class Shuffled(ScriptedEngine):
    """Gives its results in an order that nothing decides."""

    def generate(self, requests: Iterable[GenerateRequest]) -> Iterator[Generated | Failure]:
        """Yield the results in any order."""
        results = list(super().generate(requests))
        random.SystemRandom().shuffle(results)
        yield from results


def use(engine: ScriptedEngine) -> None:
    """Let this process's runs ask an engine."""
    pipeline.build_engine = lambda config: engine


def prompts_of(folder: Path, count: int) -> Path:
    """Write a file of prompts."""
    path = folder / f"prompts-{count}.jsonl"
    kinds = ["red_team", "red_team", "helpful"]
    rows = [{"prompt": f"Question {number}?", "kind": kinds[number % 3]} for number in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def config(prompts: Path, out: Path, shard: str | None = None, *, seed: int = 0) -> GenerateConfig:
    """Return the settings of all runs here."""
    return GenerateConfig(
        prompts=[prompts], out=out, rounds=1, window=WINDOW, shard=shard, seed=seed, helpful_per_prompt=1
    )


def fork(work: Callable[[], object]) -> int:
    """Do a piece of work in a process of its own and return its id; its exit code is the command's."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        code = guarded(work)
    finally:
        os._exit(code)


def wait(child: int) -> int:
    """Return the exit code of a child, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def digest(out: Path, *, ordered: bool = True) -> str:
    """Return the SHA-256 of what a run made; not `ordered`: journals by their lines, in whatever order."""
    found = hashlib.sha256()
    for name in (*JOURNALS, *MADE):
        content = (out / name).read_bytes()
        if name in JOURNALS and not ordered:
            content = b"".join(sorted(content.splitlines(keepends=True)))
        found.update(hashlib.sha256(content).digest())
    return found.hexdigest()


def undisturbed(prompts: Path, out: Path, *, seed: int = 0) -> str:
    """Make a run and return its hash."""
    use(ScriptedEngine(reply))
    if wait(fork(lambda: pipeline.run_generate(config(prompts, out, seed=seed)))):
        raise SystemExit("the undisturbed run failed")
    return digest(out)


# R1


def kills(folder: Path, wanted: dict[signal.Signals, int], chance: random.Random) -> dict[str, int]:
    """Send so many signals of each kind to workers; run after run, until all are sent. Return what was counted."""
    prompts = prompts_of(folder, 480 if sum(wanted.values()) > 100 else 96)
    expected = undisturbed(prompts, folder / "undisturbed")
    owed = [name for name, count in wanted.items() for _ in range(count)]
    chance.shuffle(owed)
    found = {"sent": 0, "runs": 0, "differ": 0, "records": 0, "calls": 0}
    while owed:
        out, calls = folder / f"run-{found['runs']}", folder / f"calls-{found['runs']}"
        _one_run(prompts, out, calls, owed, chance, found)
        merge_shards([out], out)
        found["runs"] += 1
        found["differ"] += digest(out) != expected
        found["calls"] += calls.stat().st_size
        found["records"] += sum((out / name).read_bytes().count(b"\n") for name in JOURNALS)
        shutil.rmtree(out)
    return found


def _one_run(
    prompts: Path, out: Path, calls: Path, owed: list[signal.Signals], chance: random.Random, found: dict[str, int]
) -> None:
    use(Slow(calls, 0.002))
    todo = {number: _worker(prompts, out, number) for number in range(1, WORKERS + 1)}
    while todo:
        time.sleep(chance.uniform(0, 0.012))
        todo = {number: child for number, child in todo.items() if _alive(child)}
        if not todo or not owed:
            continue
        number = chance.choice(sorted(todo))
        os.kill(todo[number], owed[-1])
        if wait(todo.pop(number)) != 0:  # else it had just been done
            owed.pop()
            found["sent"] += 1
            todo[number] = _worker(prompts, out, number)


def _worker(prompts: Path, out: Path, number: int) -> int:
    return fork(lambda: pipeline.run_generate(config(prompts, out, f"{number}/{WORKERS}")))


def _alive(child: int) -> bool:
    """Tell whether a worker still works; one that ended badly by itself ends this."""
    done, status = os.waitpid(child, os.WNOHANG)
    if done and os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit(f"a worker that nobody killed ended with {os.waitstatus_to_exitcode(status)}")
    return not done


# R2


class Points:
    """Counts the calls that change the disk, and lets one of them fail."""

    def __init__(self, at: int | None, fault: str = "") -> None:
        """Fail at the call of this number, from 0; None: only count."""
        self.count = 0
        self._at, self._fault = at, fault

    def install(self) -> None:
        """Put itself before the system's calls; for a process that ends soon."""
        for name in CALLS:
            setattr(os, name, self._watched(name, getattr(os, name)))

    def _watched(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*given: Any, **more: Any) -> Any:
            number = self.count
            self.count += 1
            if number != self._at:
                return call(*given, **more)
            if self._fault in ("ENOSPC", "EIO"):
                if name == "write":
                    call(given[0], bytes(given[1])[: len(given[1]) // 2])  # a disk takes what still fits
                raise OSError(getattr(errno, self._fault), os.strerror(getattr(errno, self._fault)))
            if self._fault == "torn" and name == "write":
                call(given[0], bytes(given[1])[: len(given[1]) // 2])
            elif self._fault == "after":
                call(*given, **more)
            os._exit(99)

        return watched


def crash_points(folder: Path, *, prompts: int, faults: Sequence[str], every: bool) -> dict[str, int]:
    """Fail at every point, in every way or in one in turn; return how many there were and what was wrong then."""
    path = prompts_of(folder, prompts)
    use(ScriptedEngine(reply))
    expected = undisturbed(path, folder / "whole")
    whole = {name: (folder / "whole" / name).read_bytes() for name in (*JOURNALS, *MADE)}
    points = _count(folder, path)
    found = {"points": points, "faults": 0, "differ": 0, "torn": 0, "codes": 0}
    for at in range(points):
        for fault in faults if every else [faults[at % len(faults)]]:
            out = folder / "out"
            out.mkdir()
            for name in MADE:
                (out / name).write_bytes(OLD)
            code = wait(fork(partial(_failing, at, fault, path, out)))
            found["faults"] += 1
            found["codes"] += code not in ((5,) if fault in ("ENOSPC", "EIO") else (99,))
            found["torn"] += any(
                not (out / name).exists() or (out / name).read_bytes() not in (OLD, whole[name]) for name in MADE
            )
            again = wait(fork(partial(pipeline.run_generate, config(path, out))))
            rubbish = [item.name for item in out.iterdir() if item.name.startswith(".")]
            found["differ"] += again != 0 or digest(out) != expected or bool(rubbish)
            shutil.rmtree(out)
    return found


def _count(folder: Path, path: Path) -> int:
    counter, told = Points(None), folder / "points"

    def work() -> None:
        counter.install()
        pipeline.run_generate(config(path, folder / "counted"))
        count = counter.count
        told.write_text(str(count))

    if wait(fork(work)):
        raise SystemExit("the run that is counted failed")
    return int(told.read_text())


def _failing(at: int, fault: str, path: Path, out: Path) -> None:
    Points(at, fault).install()
    pipeline.run_generate(config(path, out))


# R10


def arrivals(folder: Path, prompts: Path, workers: int, seed: int) -> str:
    """Run with so many workers whose answers come in any order; return the hash of the whole."""
    out = folder / f"{os.getpid()}-{workers}-{seed}"
    use(Shuffled(reply))
    shards = [f"{number}/{workers}" for number in range(1, workers + 1)] if workers > 1 else [None]
    children = [fork(partial(pipeline.run_generate, config(prompts, out, shard, seed=seed))) for shard in shards]
    if any(sorted(map(wait, children))):  # all are waited for
        raise SystemExit("a worker failed")
    if workers > 1:
        merge_shards([out], out)
    return digest(out, ordered=False)


def orders(folder: Path, runs: Iterable[tuple[int, int]]) -> tuple[set[str], set[str]]:
    """Return the hashes of runs (PYTHONHASHSEED, workers), and those of the same with another seed of the run."""
    path = prompts_of(folder, 40)
    hashes: tuple[set[str], set[str]] = (set(), set())
    for number, workers in runs:
        environment = {**os.environ, "PYTHONHASHSEED": str(number), "PYTHONPATH": str(Path(__file__).parent.parent)}
        command = [sys.executable, __file__, "--arrivals", str(folder), str(path), str(workers), *BROKEN]
        said = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout.split()
        for found, told in zip(hashes, said, strict=True):
            found.add(told)
    return hashes


# What a detector is worth: each fault below must be found.

BROKEN: list[str] = []
"""What processes that are not forked from this one are told of it."""


def break_something(name: str) -> None:
    """Make the library worse in one way."""
    if name == "uncut":  # half a line stays where it is
        os.ftruncate = lambda descriptor, length: None
    elif name == "in-place":  # files are written where they are
        AtomicFile.__enter__ = _in_place  # type: ignore[method-assign]
    elif name == "clock":  # a seed that nobody can know
        pipeline.seed_from = lambda *parts: seed_from(*parts, time.monotonic_ns())
    BROKEN.extend(["--break", name])


def _in_place(self: AtomicFile) -> AtomicFile:
    self.path.parent.mkdir(parents=True, exist_ok=True)
    self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    self._temporary = str(self.path)
    return self


def report(name: str, ours: object, target: object, *, good: bool) -> bool:
    """Print a line and return whether it passed."""
    print(f"{name:<42} {ours!s:>14} {target!s:>14} {'PASS' if good else 'FAIL'}", flush=True)
    return good


def main() -> int:
    """Run all of it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="the small tier, some seconds")
    parser.add_argument("--seed", type=int, default=0, help="of the moments at which workers are killed")
    parser.add_argument("--only", choices=["R1", "R2", "R10"], help="one of the three")
    parser.add_argument("--break", dest="broken", choices=["uncut", "in-place", "clock"], help=argparse.SUPPRESS)
    parser.add_argument("--arrivals", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    constitution = load_constitution("harmless")
    pipeline.load_constitution = lambda source: constitution  # read once, not in each of a thousand workers
    if given.broken:
        break_something(given.broken)
    if given.arrivals:
        folder, path, workers = given.arrivals
        print(*[arrivals(Path(folder), Path(path), int(workers), seed) for seed in (0, 1)])
        return 0
    passed = True
    with tempfile.TemporaryDirectory(prefix="cai-soak-") as name:
        for part, check in (("R1", check_kills), ("R2", check_points), ("R10", check_orders)):
            if given.only in (None, part):
                (Path(name) / part).mkdir()
                start = time.monotonic()
                passed &= check(Path(name) / part, quick=given.quick, seed=given.seed)
                print(f"# {part} took {time.monotonic() - start:.1f} s")
    return 0 if passed else 1


def check_kills(folder: Path, *, quick: bool, seed: int) -> bool:
    """R1."""
    wanted = {signal.SIGKILL: 40, signal.SIGINT: 3, signal.SIGTERM: 3}
    if not quick:
        wanted = {signal.SIGKILL: 300, signal.SIGINT: 30, signal.SIGTERM: 30}
    found = kills(folder, wanted, random.Random(seed))
    total = sum(wanted.values())
    # A kill costs the step that was under way, of which the records that were journalled are kept but asked again.
    most = found["records"] + total * WINDOW
    passed = report("R1 signals that ended a worker", found["sent"], total, good=found["sent"] == total)
    passed &= report(
        "R1 runs whose SHA-256 differs", f"{found['differ']} of {found['runs']}", 0, good=not found["differ"]
    )
    good = found["records"] <= found["calls"] <= most
    passed &= report("R1 calls for records", f"{found['calls']}/{found['records']}", f"<= {most}", good=good)
    return passed


def check_points(folder: Path, *, quick: bool, seed: int) -> bool:
    """R2."""
    found = crash_points(folder, prompts=2 if quick else 9, faults=FAULTS, every=not quick)
    passed = report("R2 points", found["points"], ">= 36", good=found["points"] >= 36)
    passed &= report(
        "R2 second starts that differ", f"{found['differ']} of {found['faults']}", 0, good=not found["differ"]
    )
    passed &= report("R2 files neither old nor new", found["torn"], 0, good=not found["torn"])
    passed &= report("R2 wrong exit codes", found["codes"], 0, good=not found["codes"])
    return passed


def check_orders(folder: Path, *, quick: bool, seed: int) -> bool:
    """R10."""
    runs = [(0, 1), (1, 8)] if quick else [(number, workers) for number in range(5) for workers in (1, 2, 8)]
    one, other = orders(folder, runs)
    passed = report("R10 hashes of one seed", f"{len(one)} of {len(runs)}", 1, good=len(one) == 1)
    passed &= report("R10 hashes that two seeds share", len(one & other), 0, good=not one & other)
    return passed


if __name__ == "__main__":
    sys.exit(main())
