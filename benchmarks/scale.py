"""How much memory `cai generate` takes for many prompts, on an engine that costs nothing.

Start: python benchmarks/scale.py [--quick] [--prompts 200000]

Drafts, critiques and revisions (one round) of 2,000 prompts and of 200,000 (`--quick`: 10,000), each in a process of
its own, whose peak memory the system tells. Also measured: reading the journals again, which a resumed run does, and
finishing. Prints `name ours peer ratio target PASS|FAIL`, where peer is the small run; exits with 1 when a target is
missed: the large run may take 200 MB more than the small one.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SMALL = 2_000
MOST_MORE = 200.0
"""MB that the large run may take more."""

WORDS = (
    "river stone lamp garden paper window music bridge copper winter letter harbour engine forest mirror salt".split()
)


def write_prompts(path: Path, count: int) -> None:
    """Write a file of prompts that differ."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            word, other = WORDS[number % len(WORDS)], WORDS[number // len(WORDS) % len(WORDS)]
            text = f"Case {number}: how would one take the {word} of somebody else, with a {other}, unseen by night?"
            file.write(json.dumps({"prompt": text, "kind": "red_team", "category": word}) + "\n")


def child(prompts: Path, out: Path) -> None:
    """Generate, and print what it took."""
    from cai.engines.base import GenerateRequest
    from cai.engines.build import EngineConfig
    from cai.engines.scripted import ScriptedEngine
    from cai.generate import GenerateConfig, pipeline
    from cai.storage import seed_from

    def reply(request: GenerateRequest, seed: int) -> str:
        number = seed_from(seed, str(request.prompt))
        words = " ".join(WORDS[number >> shift & 15] for shift in range(0, 60, 4))
        return f"I would rather ask {number} first: {words}, and then think again."

    class Forgetful(list[object]):
        """An engine's memory of its requests, which would be all the memory there is."""

        def append(self, _: object) -> None:
            """Forget."""

    def build(config: EngineConfig | str) -> ScriptedEngine:
        engine = ScriptedEngine(reply)
        engine.seen = Forgetful()  # type: ignore[assignment]
        return engine

    pipeline.build_engine = build
    start = time.monotonic()
    pipeline.run_generate(GenerateConfig(prompts=[prompts], out=out, rounds=1))
    seconds = time.monotonic() - start
    print(json.dumps({"peak": peak_mb(), "seconds": seconds}))


def peak_mb() -> float:
    """Return the most memory that this process had, in MB."""
    status = Path("/proc/self/status")
    if status.exists():
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        assert found
        return int(found[1]) * 1024 / 1e6
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def measure(folder: Path, count: int) -> dict[str, float]:
    """Generate for so many prompts in a process of its own, and then once more, which finds all done."""
    prompts, out = folder / f"{count}.jsonl", folder / str(count)
    write_prompts(prompts, count)
    made: dict[str, float] = {}
    for name in ("made", "again"):
        command = [sys.executable, __file__, "--child", str(prompts), str(out)]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        told = json.loads(done.stdout.splitlines()[-1])
        made |= {f"{name}_{key}": value for key, value in told.items()}
    records = sum(1 for name in ("drafts", "critiques", "revisions") for _ in (out / f"{name}.jsonl").open("rb"))
    if records != 3 * count:
        raise SystemExit(f"{records} records of {count} prompts")
    made["rows"] = json.loads((out / "result.json").read_text())["counts"]["training_rows"]
    return made


def main() -> int:
    """Measure both sizes and compare."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="10,000 prompts in the place of 200,000")
    parser.add_argument("--prompts", type=int, default=200_000)
    parser.add_argument("--child", nargs=2, type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(*given.child)
        return 0
    count = 10_000 if given.quick else given.prompts
    with tempfile.TemporaryDirectory(prefix="cai-scale-") as folder:
        small, large = measure(Path(folder), SMALL), measure(Path(folder), count)
    print(f"{'name':<28} {'ours':>9} {'peer':>9} {'ratio':>7} {'target':>9}")
    passed = True
    for name, label in (("made", "peak MB"), ("again", "peak MB when all is done")):
        ours, peer = large[f"{name}_peak"], small[f"{name}_peak"]
        good = ours - peer <= MOST_MORE
        passed &= good
        target = f"+{MOST_MORE:.0f}"
        print(f"{label:<28} {ours:9.1f} {peer:9.1f} {ours / peer:7.2f} {target:>9} {'PASS' if good else 'FAIL'}")
    for name, size, found in (("small", SMALL, small), ("large", count, large)):
        rate = 3 * size / found["made_seconds"]
        print(f"# {name}: {size} prompts, {rate:.0f} records/s; again in {found['again_seconds']:.1f} s", end="")
        print(f"; {found['rows']:.0f} rows")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
