"""`cai label`: pairs of answers and their soft labels, and what these look like."""

import json
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cai.cli.options import ConfigFile, KeepGoing, Shard, Words, words_of
from cai.config import load_config
from cai.errors import InputError, Problem

if TYPE_CHECKING:
    from cai.report.labels import LabelView

SHOWN = 12
"""Reasons, and principles, that the tables list; `--json` has all."""


def label(
    settings: Words = None,
    config: ConfigFile = None,
    shard: Shard = None,
    keep_going: KeepGoing = False,
    report: Annotated[
        Path | None, typer.Option(help="Label nothing; show the labels in this folder's journals.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="With --report: JSON in place of the tables.")] = False,
) -> None:
    """Label pairs of answers by a judge under a constitution, and write the rows of a preference model or DPO.

    cai label --config recipes/configs/label.yaml out=runs/label

    pairs.kind says which answers are compared: samples, models, revisions, best_of, contrast.
    """
    if report is None:
        from cai.label import LabelConfig, run_label
        from cai.processes import quiet_libraries

        quiet_libraries()
        run_label(load_config(LabelConfig, config, words_of(settings, shard=shard, keep_going=keep_going)))
        return
    view = _view(report)
    if as_json:
        print(json.dumps(figures(view), indent=2))
    else:
        show(view, Console())


def _view(folder: Path) -> "LabelView":
    """Return the labels of a folder; raises InputError when there are none and nothing was left out."""
    from cai.records.journal import read_ranks
    from cai.report.files import RunFiles
    from cai.report.labels import read_labels

    found = {name: list(read_ranks(folder, name).values()) for name in ("responses", "preferences")}
    files = RunFiles(folder)
    view = read_labels(found["responses"], found["preferences"], files.object("summary.json"))
    if not view.labelled and not view.drops:
        fix = "give the folder that out= of cai label named"
        raise InputError(Problem(str(folder), 0, 0, "no labels here", fix))
    return view


def figures(view: "LabelView") -> dict[str, Any]:
    """Return what the tables show, whole."""
    return {
        "judges": list(view.judges),
        "labels": view.labelled,
        "dropped": [{"stage": stage, "reason": reason, "n": n} for (stage, reason), n in view.drops.items()],
        "sureness": view.sureness,
        "share_a": view.share_a,
        "undecided": view.undecided,
        "position": {"asked_twice": view.asked_twice, "flip_rate": view.flip_rate, "mean_bias": view.mean_bias},
        "disagreement": {"labels": len(view.spread), "mean": view.mean_spread},
        "by_principle": {
            name: {"labels": own.labels, "confidence": own.confidence, "undecided": own.undecided}
            for name, own in view.by_principle.items()
        },
    }


def show(view: "LabelView", console: Console) -> None:
    """Print the tables for people."""
    from cai.report.labels import BINS
    from cai.report.words import percent

    settings = dict(view.summary)
    about = f"{view.labelled} labels by {', '.join(view.judges) or 'no judge'}"
    console.print(about + (f", pairs of {settings['pairs']}" if "pairs" in settings else ""), highlight=False)
    if view.labelled:
        table = _table("", *(f"{100 * low:.0f}–{100 * high:.0f} %" for low, high in pairwise(BINS)))
        table.add_row("sure of its choice", *map(str, view.sureness))
        console.print(table)
        console.print("\n".join(_sentences(view)), highlight=False)
    if len(view.by_principle) > 1:
        table = _table("principle", "labels", "sureness", "undecided")
        for name, own in list(view.by_principle.items())[:SHOWN]:
            table.add_row(escape(name), str(own.labels), percent(own.confidence), percent(own.undecided))
        console.print(table)
        about = "sureness: mean probability of the likelier answer; undecided: 0.4 to 0.6"
        console.print(about, style="dim", highlight=False, soft_wrap=True)
        _rest(len(view.by_principle), "principles", console)
    if view.drops:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        table.add_column("without a label", justify="right")
        table.add_column("why")
        for (stage, reason), n in list(view.drops.items())[:SHOWN]:
            what = "answer" if stage == "response" else "pair"
            table.add_row(f"{n} {what}{'s' if n > 1 else ''}", escape(reason))
        console.print(table)
        _rest(len(view.drops), "reasons", console)


def _sentences(view: "LabelView") -> list[str]:
    from cai.report.words import percent

    a = f"A ({view.answer_a})" if view.answer_a else "A"
    found = [f"{a} is the likelier in {percent(view.share_a)}"]
    found.append(f"{percent(view.undecided)} of the labels lie between 0.4 and 0.6")
    if view.asked_twice:
        bias = view.mean_bias or 0.0
        towards = f"{100 * abs(bias):.1f} points on average to the one shown {'first' if bias >= 0 else 'second'}"
        found.append(f"the order decides {percent(view.flip_rate)} of {view.asked_twice}: {towards}")
    if view.spread:
        found.append(f"votes under several principles disagree by {view.mean_spread:.2f} logits on average")
    return found


def _table(first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _rest(count: int, name: str, console: Console) -> None:
    if count > SHOWN:
        console.print(f"and {count - SHOWN} more {name}: --json", style="dim", highlight=False)
