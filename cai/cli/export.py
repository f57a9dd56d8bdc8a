"""`cai data export`: the rows of a run as a data set with a card, for oneself or for the hub."""

from pathlib import Path
from typing import Annotated, cast, get_args

import typer

from cai.errors import InputError, Problem
from cai.records.dataset import Format


def export(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run of cai generate or cai label.")],
    out: Annotated[Path | None, typer.Option(help="The data set's folder; by default `dataset` in the run's.")] = None,
    form: Annotated[str, typer.Option("--format", help="parquet or jsonl.")] = "parquet",
    name: Annotated[str, typer.Option(help="What the card calls it; by default as the run's folder.")] = "",
    licence: Annotated[str, typer.Option("--license", help="For the card, as the hub writes it: apache-2.0.")] = "",
    push_to_hub: Annotated[str | None, typer.Option(help="owner/name: upload it as this data set.")] = None,
    private: Annotated[
        bool, typer.Option("--private", help="With --push-to-hub: a new data set is yours alone.")
    ] = False,
) -> None:
    """Write the rows of a run as a data set with a card, which `datasets.load_dataset` reads.

    cai data export runs/generate
    """
    give(run, out, form=form, name=name, licence=licence, push_to_hub=push_to_hub, private=private)


def give(
    run: Path,
    out: Path | None = None,
    *,
    form: str = "parquet",
    name: str = "",
    licence: str = "",
    push_to_hub: str | None = None,
    private: bool = False,
) -> None:
    """Export a run, and upload what came of it where that is asked for."""
    from cai.records.hub import check_repo, push_dataset
    from cai.report.card import export_run

    if form not in get_args(Format):
        raise InputError(Problem("--format", 0, 0, f"unknown format {form!r}", "use parquet or jsonl"))
    if push_to_hub is not None:
        check_repo(push_to_hub)
        name = name or push_to_hub.rpartition("/")[2]
    folder = out or run / "dataset"
    count = export_run(run, folder, form=cast(Format, form), name=name, licence=licence)
    print(f"{folder}: {count} rows")
    if push_to_hub is not None:
        print(push_dataset(folder, push_to_hub, private=private))
