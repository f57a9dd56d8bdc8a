"""`cai judge audit`: how far a judge agrees with people, before anyone is trained on what it says."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from cai.cli.command import ends_well
from cai.errors import InputError, Problem

if TYPE_CHECKING:
    from cai.judges.audit import Audit, Judgement
    from cai.records.pairs import LabelledPair

judge = typer.Typer(no_args_is_help=True, help="Judges: how far they can be trusted.")


@judge.callback()
def _judge() -> None:
    """Judges: how far they can be trusted."""


@judge.command()
@ends_well
def audit(
    on: Annotated[
        list[Path],
        typer.Option(help="Pairs that people labelled: hh-rlhf, RewardBench, the 2022 paper's, chosen and rejected."),
    ],
    kind: Annotated[
        list[str] | None, typer.Option("--judge", help="direction, contrastive, pairwise or preference_model.")
    ] = None,
    model: Annotated[
        str, typer.Option(help="Who judges: a folder, a hub id, 'embedded'; a preference model's folder.")
    ] = "embedded",
    constitution: Annotated[str, typer.Option(help="A file, or the name of a shipped constitution.")] = "harmless",
    limit: Annotated[int, typer.Option(min=0, help="So many pairs of each file, drawn by their content; 0: all.")] = 0,
    principles: Annotated[int, typer.Option(min=1, help="Principles drawn per pair; several are averaged.")] = 1,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1)] = 0,
    out: Annotated[Path | None, typer.Option(help="A folder for judgements.jsonl and what a judge learns.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Ask a judge about pairs that people labelled, and say how often it agrees, and how sure it is when it errs."""
    from cai.constitution import load_constitution
    from cai.judges.build import JudgeKind
    from cai.processes import quiet_libraries
    from cai.records.pairs import take_pairs

    quiet_libraries()
    kinds = kind or ["direction"]
    for name in kinds:
        if name not in get_args(JudgeKind):
            raise InputError(Problem("--judge", 0, 0, f"unknown value {name!r}", f"use one of {_names(JudgeKind)}"))
    rules = load_constitution(constitution)
    pairs = take_pairs(on, limit)
    with tempfile.TemporaryDirectory() as scratch:
        found = [_audit(name, model, rules, pairs, principles, seed, out or Path(scratch)) for name in kinds]
    audits, judgements = [each for each, _ in found], [each for _, each in found]
    alpha = agreement(judgements)
    if as_json:
        print(json.dumps({"audits": [asdict(each) for each in audits], "alpha": alpha}, indent=2))
    else:
        show(audits, alpha, Console())


def _audit(
    kind: str, model: str, rules: object, pairs: "Sequence[LabelledPair]", principles: int, seed: int, out: Path
) -> "tuple[Audit, list[Judgement]]":
    from cai.constitution import Constitution
    from cai.engines.build import EngineConfig
    from cai.judges.audit import audit as figures
    from cai.judges.audit import judge_pairs
    from cai.judges.build import JudgeConfig, build_judge
    from cai.progress import progress
    from cai.records.export import write_rows
    from cai.records.loaders import load_prompts, packaged_prompts

    assert isinstance(rules, Constitution)
    config = JudgeConfig.model_validate({"kind": kind, "engine": EngineConfig(model=model)})
    prompts = load_prompts([packaged_prompts("red_team")])
    (out / kind).mkdir(parents=True, exist_ok=True)
    asked = build_judge(config, rules, prompts=prompts, folder=out / kind, seed=seed)
    judgements = []
    with progress(kind, len(pairs), "pairs") as bar:
        for each in judge_pairs(asked, rules, pairs, principles_per_pair=principles, seed=seed):
            judgements.append(each)
            bar.advance()
    write_rows(out / kind / "judgements.jsonl", [asdict(each) for each in judgements])
    return figures(judgements, pairs, judge=kind, model=asked.model, constitution=rules.digest), judgements


def agreement(judgements: "Sequence[Sequence[Judgement]]") -> float | None:
    """Return Krippendorff's alpha between judges; None for one alone."""
    from cai.judges.audit import krippendorff_alpha

    if len(judgements) < 2:
        return None
    return krippendorff_alpha([[None if item.prob is None else item.prob > 0.5 for item in own] for own in judgements])


def show(audits: "Sequence[Audit]", alpha: float | None, console: Console) -> None:
    """Print audits for people."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("judge", no_wrap=True)
    for name in ("agrees", "95 %", "pairs", "none", "flips", "Brier", "ECE", "T", "longer"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in audits:
        table.add_row(
            each.judge,
            _percent(each.accuracy),
            f"{100 * each.interval[0]:.0f}–{100 * each.interval[1]:.0f}",
            str(each.pairs),
            str(each.abstained),
            _percent(each.flip_rate),
            f"{each.brier:.2f}",
            f"{each.ece:.2f}",
            f"{each.temperature:.1f}",
            f"{_percent(each.longer_share)}/{_percent(each.longer_better)}",
        )
    console.print(table)
    console.print(
        "none: abstained; flips: another verdict in the other order; T: what logits should be divided by;\n"
        "longer: votes for the longer answer / people's. A coin agrees with 50 % and has a Brier score of 0.25.",
        style="dim",
        highlight=False,
    )
    for each in audits:
        if each.interval[0] <= 0.5:
            what = "worse than a coin" if each.interval[1] < 0.5 else "no better than a coin on these pairs"
            console.print(f"[yellow]{each.judge}: {what}[/yellow]")
        if len(each.by_source) > 1:
            console.print(_shares("source", each.by_source, each.judge))
        if len(each.by_principle) > 1 and each.judge in ("contrastive", "pairwise"):
            console.print(_shares("principle", each.by_principle, each.judge))
    if alpha is not None:
        console.print(f"Krippendorff's alpha between the judges: {alpha:.2f}", highlight=False)


def _shares(name: str, shares: dict[str, tuple[int, float]], judge: str) -> Table:
    table = Table(name, title=judge, box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left")
    table.add_column("votes", justify="right")
    table.add_column("agrees", justify="right")
    for key, (votes, share) in sorted(shares.items(), key=lambda item: -item[1][1]):
        table.add_row(key, str(votes), _percent(share))
    return table


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.0%}"


def _names(choices: object) -> str:
    return ", ".join(map(str, get_args(choices)))
