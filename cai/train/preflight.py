"""What the trainers say before the first step: of their rows, and how much memory and time it will take.

Errors end the training; warnings and the estimate are told once.
"""

import sys
from collections.abc import Sequence

from transformers import TrainingArguments

from cai.errors import InputError, Problem
from cai.processes import is_main
from cai.train.checks import Finding
from cai.train.configs import EpochsConfig
from cai.train.estimate import estimate, is_short, will_it_fit
from cai.train.hf import newest_checkpoint
from cai.train.packing import Row


def refuse_or_tell(found: Sequence[Finding]) -> None:
    """Raise InputError, in every process alike, for findings that are errors; print the others in the main process."""
    errors = [each for each in found if each.severity == "error"]
    if errors:
        raise InputError([_problem(each) for each in errors])
    if is_main():
        for each in found:
            print(each, file=sys.stderr)


def tell_estimate(
    config: EpochsConfig, path: str, rows: Sequence[Row], order: Sequence[int], args: TrainingArguments
) -> None:
    """Say what a training on `rows`, in `order`, will take, and warn when memory won't do; in the main process.

    Nothing is said of a training of a few seconds, nor of one that goes on from a checkpoint. Raises InputError for
    settings that fit no model of this kind.
    """
    if not is_main() or newest_checkpoint(config.out / "checkpoints"):
        return
    try:
        if is_short(config, path, rows, order):
            return
        micro = args.per_device_train_batch_size
        found = estimate(config, path, rows, order, micro=micro, device=args.device)
    except InputError:
        raise
    except Exception as error:  # an estimate must not stop what it is about
        print(f"no estimate of memory and time: {type(error).__name__}", file=sys.stderr)
        return
    print(found, file=sys.stderr)
    refuse_or_tell([warning] if (warning := will_it_fit(found)) else [])


def _problem(found: Finding) -> Problem:
    path, _, line = found.places[0].rpartition(":")
    about = f"{found.problem} ({found.id}, {found.count} of {found.total} rows)"
    return Problem(path, int(line), 1, about, found.fix)
