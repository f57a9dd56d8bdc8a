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
    """Join the shards of a run of `cai generate` or `cai label`: the bytes are those of a run that was never divided.

    cai data merge runs/generate
    """
    import json

    from cai.errors import InputError, Problem
    from cai.generate.merge import merge_shards
    from cai.label.merge import merge_labels
    from cai.records.inputs import noted_inputs
    from cai.records.merge import shard_folders

    if out is None and len(folders) != 1:
        raise InputError(Problem("--out", 0, 0, "several folders, and none for the whole", "name one with --out"))
    whole = out or folders[0]
    judged = "judge" in (noted_inputs(shard_folders(folders)[0]) or {})
    (merge_labels if judged else merge_shards)(folders, whole, prompts=prompts or ())
    counts = json.loads((whole / "result.json").read_text("utf-8"))["counts"]
    print(f"{whole}: " + ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items()))


@data.command()
@ends_well
def inspect(
    files: Annotated[
        list[Path], typer.Argument(help="Pairs to train on, or chats ('messages'): .jsonl, .csv, .parquet.")
    ],
    model: Annotated[str, typer.Option(help="Whose tokenizer counts: a folder, a hub id or 'embedded'.")] = "embedded",
    max_length: Annotated[int, typer.Option(min=8, help="Tokens of a row, as the training's config has it.")] = 1024,
    head: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=KIND,…", help="A head of the config's 'heads' and its rows; once for each."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Show lengths, labels and what is wrong with training rows, before a model is trained on them.

    cai data inspect runs/label/preferences.jsonl

    Ends with 2 when a finding is an error.
    """
    import json

    from rich.console import Console

    from cai.cli.data_tables import show_rows
    from cai.engines.render import Renderer
    from cai.errors import InputError, Problem
    from cai.train.checks import measure_chats, measure_pairs, rows_of
    from cai.train.heads import count_heads, head_of, parse_heads
    from cai.train.inspection import describe

    heads = parse_heads(head or [])
    first = next(iter(rows_of(files)), None)
    if first is None:
        raise InputError(Problem(", ".join(map(str, files)), 0, 0, "no rows", "name a file that has some"))
    if heads and "messages" in first[1]:
        raise InputError(Problem("--head", 0, 0, "the rows are chats, which teach no score", "leave it out"))
    from cai.engines.loading import read_tokenizer

    tokenizer = read_tokenizer(model)
    renderer, rows = Renderer(tokenizer), rows_of(files)
    taught = (lambda place, row: head_of(place, row, heads)) if heads else None
    items = measure_chats(rows, renderer) if "messages" in first[1] else measure_pairs(rows, renderer, head=taught)[0]
    told = describe(items, max_length, template=tokenizer.chat_template is not None)
    told |= {"heads": count_heads(items, heads)} if heads else {}
    if as_json:
        print(json.dumps(told, indent=2))
    else:
        show_rows(told, Console())
    if any(each["severity"] == "error" for each in told["findings"]):
        raise typer.Exit(2)
