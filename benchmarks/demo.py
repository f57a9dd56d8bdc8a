"""The demo's cost: wall time, peak memory, and how fast a finished run is recognised.

Start: python benchmarks/demo.py [--quick]    (--quick measures the smoke size)

Prints one line per figure, `name  ours  peer  ratio  target  PASS|FAIL`, and exits with 1 when one fails. There is no
peer: no maintained package runs the loop.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMITS = {"smoke": 180.0, "demo": 900.0}
"""Seconds that a size may take on two cores."""

MEMORY_GB = 8.0


def start(out: Path, size: str) -> float:
    """Run the demo and return the seconds it took."""
    begun = time.monotonic()
    command = [sys.executable, "-m", "cai.cli.main", "demo", "--size", size, "--out", str(out)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    return time.monotonic() - begun


def line(name: str, ours: float, unit: str, target: float) -> bool:
    """Print one figure against its target; return whether it is met."""
    met = ours < target
    print(f"{name}  {ours:.1f} {unit}  -  -  < {target:.0f} {unit}  {'PASS' if met else 'FAIL'}")
    return met


def main() -> int:
    """Measure one size; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="measure the smoke size")
    size = "smoke" if parser.parse_args().quick else "demo"
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        first = start(out, size)
        # Of the largest process, and they run one after the other; the kernel counts in KiB.
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024**2
        again = start(out, size)
    met = [
        line(f"{size}, wall time", first, "s", LIMITS[size]),
        line(f"{size}, peak memory of a process", peak, "GB", MEMORY_GB),
        line(f"{size}, finished run recognised", again, "s", 10.0),
    ]
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
