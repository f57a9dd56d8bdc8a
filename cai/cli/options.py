"""Options that several commands have, and the settings that they stand for."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

ConfigFile = Annotated[Path | None, typer.Option(help="A YAML file of settings.")]
Words = Annotated[
    list[str] | None,
    typer.Argument(metavar="key=value", help="Settings over those of the file; dots go into sections."),
]
Shard = Annotated[
    str | None, typer.Option(help="3/16: the third of sixteen shares, for as many starts; then `cai data merge`.")
]
KeepGoing = Annotated[bool, typer.Option("--keep-going", help="Set bad rows of the prompts aside, in rejected.jsonl.")]


def words_of(settings: Sequence[str] | None, *, shard: str | None, keep_going: bool) -> list[str]:
    """Return the settings of the command line, options among them.

    >>> words_of(["seed=1"], shard="1/2", keep_going=True)
    ['seed=1', 'shard=1/2', 'keep_going=true']
    """
    options = [f"shard={shard}"] if shard else []
    options += ["keep_going=true"] if keep_going else []
    return [*(settings or []), *options]
