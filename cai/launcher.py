"""`torch.distributed.run` that ends as its processes did: `python -m cai.launcher --nproc-per-node=2 SCRIPT …`.

torch's own ends with 1 and a traceback whatever has happened; here bad input stays 2, and a process that was killed is
5. When one dies, torch ends the others.
"""

import signal
import sys

from cai.errors import TrainingError


def main() -> int:
    """Start the processes, and return the exit code of the one that failed first, or 0."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as run

    try:
        run(sys.argv[1:])
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode > 0:
            return failure.exitcode  # it has said why
        name = signal.Signals(-failure.exitcode).name
        print(f"error: process {rank} was ended by {name}; the same command goes on from here", file=sys.stderr)
        return TrainingError.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
