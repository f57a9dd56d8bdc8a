"""What the trainers say of their rows before the first step: errors end the training, warnings are told once."""

import sys
from collections.abc import Sequence

from cai.errors import InputError, Problem
from cai.processes import is_main
from cai.train.checks import Finding


def refuse_or_tell(found: Sequence[Finding]) -> None:
    """Raise InputError, in every process alike, for findings that are errors; print the others in the main process."""
    errors = [each for each in found if each.severity == "error"]
    if errors:
        raise InputError([_problem(each) for each in errors])
    if is_main():
        for each in found:
            print(each, file=sys.stderr)


def _problem(found: Finding) -> Problem:
    path, _, line = found.places[0].rpartition(":")
    about = f"{found.problem} ({found.id}, {found.count} of {found.total} rows)"
    return Problem(path, int(line), 1, about, found.fix)
