"""`cai data`: what was generated, joined and made ready for others."""

from pathlib import Path
from typing import Annotated

import typer

from cai.cli.command import ends_well

data = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Join, check and give away what was made.")


@data.command()
@ends_well
def merge(
    folders: Annotated[list[Path], typer.Argument(help="The shards' folders, or the one that they lie in.")],
    out: Annotated[Path | None, typer.Option(help="Where the whole is to lie; by default the folder given.")] = None,
    prompts: Annotated[
        list[Path] | None, typer.Option(help="The prompt files, where they are not where the shards found them.")
    ] = None,
) -> None:
    """Join the shards of a run of `cai generate`: the bytes are those of a run that was never divided.

    cai data merge runs/generate
    """
    import json

    from cai.errors import InputError, Problem
    from cai.generate.merge import merge_shards

    if out is None and len(folders) != 1:
        raise InputError(Problem("--out", 0, 0, "several folders, and none for the whole", "name one with --out"))
    whole = out or folders[0]
    merge_shards(folders, whole, prompts=prompts or ())
    counts = json.loads((whole / "result.json").read_text("utf-8"))["counts"]
    print(f"{whole}: " + ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items()))
