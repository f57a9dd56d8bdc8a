"""`cai generate`: critique and revision, and what each round of it did. `cai grow`: more red-team prompts."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from cai.cli.options import ConfigFile, KeepGoing, Shard, Words, words_of
from cai.config import load_config
from cai.errors import InputError, Problem

if TYPE_CHECKING:
    from cai.constitution import Constitution
    from cai.generate.config import GenerateConfig
    from cai.generate.rounds import RoundView, Standing


def generate(
    settings: Words = None,
    config: ConfigFile = None,
    shard: Shard = None,
    keep_going: KeepGoing = False,
    push_to_hub: Annotated[
        str | None, typer.Option(help="owner/name: upload the rows as this data set, see `cai data export`.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Make nothing; show what each round did, from this folder's journals.")
    ] = None,
    judge: Annotated[
        str | None, typer.Option(help="With --report: how often this judge prefers each round's answers to the drafts.")
    ] = None,
    model: Annotated[str, typer.Option(help="With --judge: the model that it asks.")] = "embedded",
    limit: Annotated[int, typer.Option(min=1, help="With --judge: chains to judge.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="With --judge: which principles it is asked about.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="With --report: JSON in place of the table.")] = False,
) -> None:
    """Draft, criticise and revise answers under a constitution, and write the rows to finetune on.

    cai generate --config recipes/configs/generate.yaml out=runs/generate
    """
    from cai.generate.config import GenerateConfig

    if report is None:
        from cai.cli.export import give
        from cai.generate import run_generate
        from cai.processes import quiet_libraries
        from cai.records.hub import check_repo

        quiet_libraries()
        made = load_config(GenerateConfig, config, words_of(settings, shard=shard, keep_going=keep_going))
        if push_to_hub is not None:
            if made.shard is not None:
                fix = "merge the shards, then cai data export --push-to-hub"
                raise InputError(Problem("--push-to-hub", 0, 0, "a shard is no whole data set", fix))
            check_repo(push_to_hub)
        run_generate(made)
        if push_to_hub is not None:
            give(made.out, push_to_hub=push_to_hub)
        return
    given = _config_of(report, config, settings or [])
    show_report(report, given, judge=judge, model=model, limit=limit, seed=seed, as_json=as_json)


def grow(settings: Words = None, config: ConfigFile = None) -> None:
    """Write new red-team prompts after the example of given ones, category by category.

    cai grow prompts=[red_team.jsonl] held_out=[held_out.jsonl] out=runs/grow per_category=50
    """
    from cai.generate.grow import GrowConfig, run_grow
    from cai.processes import quiet_libraries

    quiet_libraries()
    run_grow(load_config(GrowConfig, config, settings or []))


def _config_of(folder: Path, config: Path | None, settings: Sequence[str]) -> "GenerateConfig | None":
    """Return the settings that a folder was made with: those given, or those that lie in it."""
    from cai.generate.config import GenerateConfig

    own = folder / "config.json"
    if config is None and not settings:
        return load_config(GenerateConfig, own) if own.is_file() else None
    return load_config(GenerateConfig, config or (own if own.is_file() else None), settings)


def show_report(
    folder: Path,
    config: "GenerateConfig | None",
    *,
    judge: str | None,
    model: str,
    limit: int,
    seed: int,
    as_json: bool,
) -> None:
    """Print what each round did."""
    from cai.constitution import load_constitution
    from cai.evaluate.measures import MEASURES
    from cai.generate.rounds import Standing, Standings, round_views

    standings: Iterable[Standing] = Standings(folder) if folder.is_dir() else []
    if next(iter(standings), None) is None:
        fix = "give the folder that out= of a run with red-team prompts named"
        raise InputError(Problem(str(folder), 0, 0, "no chains of critique and revision", fix))
    constitution = load_constitution(config.constitution) if config else None
    judged = None
    if judge is not None:
        standings = chains = list(islice(standings, limit))
        judged = _judged(judge, model, chains, config, constitution, folder, seed)
    measures = {name: MEASURES[name] for name in ("words", "refusal_wording")}
    views = round_views(standings, measures, constitution, judged)
    if as_json:
        print(json.dumps({"judge": judge, "rounds": [asdict(view) for view in views]}, indent=2))
    else:
        show(views, judge, Console())


def _judged(
    kind: str,
    model: str,
    standings: "Sequence[Standing]",
    config: "GenerateConfig | None",
    constitution: "Constitution | None",
    folder: Path,
    seed: int,
) -> list[list[float | None]]:
    from cai.engines.build import EngineConfig
    from cai.generate.rounds import judge_rounds
    from cai.judges.build import JudgeConfig, JudgeKind, build_judge
    from cai.records.loaders import PromptSet

    if kind not in get_args(JudgeKind):
        fix = f"use one of {', '.join(get_args(JudgeKind))}"
        raise InputError(Problem("--judge", 0, 0, f"unknown value {kind!r}", fix))
    if config is None or constitution is None:
        fix = "give --config FILE or prompts=[…], as the run had them"
        raise InputError(Problem(str(folder), 0, 0, "no config.json here, so nobody knows the prompts", fix))
    rejected = folder / "rejected.jsonl" if config.keep_going else None
    prompts = PromptSet.load(config.prompts, held_out=config.held_out, rejected=rejected)
    made = JudgeConfig.model_validate({"kind": kind, "engine": EngineConfig(model=model)})
    first = list(islice(prompts, made.contrasts))  # more is not learned from
    asked = build_judge(made, constitution, prompts=first, folder=folder / "report", seed=seed)
    return judge_rounds(asked, standings, prompts, constitution, seed=seed)


def show(views: "Sequence[RoundView]", judge: str | None, console: Console) -> None:
    """Print the table for people."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    names = ["round", "chains", "revised", "words", "refuses"]
    names += ["passes", "95 %"] if any(view.passes for view in views) else []
    names += ["beats the draft", "95 %", "none"] if judge else []
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for view in views:
        cells = ["draft" if view.round == 0 else str(view.round), str(view.chains), str(view.revised)]
        cells += [f"{view.measures['words']:.1f}", f"{view.measures['refusal_wording']:.0%}"]
        cells += _share(view.passes) if "passes" in names else []
        cells += [*_share(view.wins), str(view.abstained)] if judge else []
        table.add_row(*cells)
    console.print(table)
    console.print(
        "Each round: all chains, as they stand after it. revised: got a new answer; refuses: wording of a refusal."
        + (f"\n{judge}: ties count half; none: abstained." if judge else ""),
        style="dim",
        highlight=False,
    )


def _share(share: tuple[float, float, float] | None) -> list[str]:
    if share is None:
        return ["–", "–"]
    return [f"{share[0]:.0%}", f"{100 * share[1]:.0f}–{100 * share[2]:.0f}"]
