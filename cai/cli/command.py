"""What all commands share: exit codes in the place of tracebacks."""

import functools
from collections.abc import Callable
from typing import ParamSpec

import typer

from cai.errors import guarded

P = ParamSpec("P")


def ends_well(command: Callable[P, object]) -> Callable[P, None]:
    """Give a command the exit codes of `cai.errors`, and messages in the place of tracebacks."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        raise typer.Exit(guarded(lambda: command(*args, **kwargs)))

    return run
