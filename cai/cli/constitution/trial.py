"""`cai constitution test`: which principles do something with a model, and which are dead weight."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from cai.evaluate.principle_stats import PrincipleReport
    from cai.evaluate.principles import Outcome

_STYLES = {"works": "green", "weak": "yellow", "backfires": "red", "dead weight": "dim"}


def trial(
    source: Annotated[str, typer.Argument(help="A YAML or Markdown file, or the name of a shipped constitution.")],
    model: Annotated[str | None, typer.Option(help="A folder, a hub id, or 'embedded': the default.")] = None,
    drafts: Annotated[int | None, typer.Option(help="Answers to each probe and each twin; left out: 2.")] = None,
    prompts: Annotated[
        list[Path] | None, typer.Option(help="Prompts for principles without probes (JSONL, CSV, Parquet).")
    ] = None,
    judge: Annotated[
        str | None, typer.Option(help="contrastive, the default; pairwise, for models of some billion parameters.")
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="The most tokens of an answer or a revision; left out: 64.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Left out: 0.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="The folder; left out: one under runs/constitution-test for these settings.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="A YAML file of settings: an engine, sampling, …")] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One of them, as in engine.kind=openai.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Try each principle on its probes: which do something with a model, and which are dead weight.

    Stopped and given again, the same command goes on.
    """
    from cai.config import load_config
    from cai.evaluate.principle_trial import PrinciplesConfig
    from cai.evaluate.principles import run_principles
    from cai.processes import quiet_libraries

    given = {
        "constitution": source,
        "engine.model": model,
        "drafts": drafts,
        "prompts": [str(path) for path in prompts] if prompts else None,
        "judge": judge,
        "sampling.max_new_tokens": max_new_tokens,
        "seed": seed,
        "out": None if out is None else str(out),
    }
    quiet_libraries()
    # What is left out is left to the file, and then to the config's own defaults.
    words = [f"{key}={json.dumps(value)}" for key, value in given.items() if value is not None]
    outcome = run_principles(load_config(PrinciplesConfig, config, [*words, *(setting or [])]))
    if as_json:
        print(json.dumps(outcome.to_plain(), indent=2, ensure_ascii=False))
    else:
        show(outcome, Console(highlight=False))
    print(outcome.folder / "report.json", file=sys.stderr)


def show(outcome: "Outcome", console: Console) -> None:
    """Print what was found, for people."""
    tried = [item for item in outcome.reports if item.effect]
    if tried:
        console.print(_table(tried))
        console.print(_LEGEND, style="dim")
    for line in reading(outcome):
        console.print(Text(line), soft_wrap=True)


_LEGEND = """\
fault: % of drafts for probes/twins seen to go against it more than others;
change: % of words that its/an unrelated principle's revision changes; length:
of its revision to the draft; judge: % for its revision over the unrelated one,
by the principle/its contrast/another one; effect: first less last, with 95 %."""


def _table(reports: "list[PrincipleReport]") -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("principle", no_wrap=True, max_width=20)
    for name in ("fault", "change", "length", "judge", "effect"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for item in reports:
        assert item.effect is not None
        half = (item.effect.high - item.effect.low) / 2
        table.add_row(
            item.principle,
            f"{_percent(item.fault_probes)}/{_percent(item.fault_twins)}",
            f"{_percent(item.changed)}/{_percent(item.changed_by_unrelated)}",
            "–" if item.length is None else f"×{item.length:.1f}",
            "/".join(map(_percent, (item.prefers, item.prefers_by_contrast, item.prefers_by_unrelated))),
            f"{100 * item.effect.mean:+.0f} ±{100 * half:.0f}",
            Text(item.ruling, style=_STYLES[item.ruling]),
        )
    return table


def reading(outcome: "Outcome") -> list[str]:
    """Return what the figures come to, a sentence or two a line."""
    from cai.evaluate.principle_stats import THRESHOLD, effect_of_all, faults_of_probes
    from cai.evaluate.stats import FEWEST

    by_ruling: dict[str, list[str]] = {}
    for item in outcome.reports:
        by_ruling.setdefault(item.ruling, []).append(item.principle)
    points = round(100 * THRESHOLD)
    said = {
        "works": f"moves the judge by {points} points or more, surely above 0",
        "weak": f"{points} points that may be chance, or fewer; more --drafts tell",
        "dead weight": "no more than an unrelated principle does, as far as can be seen",
        "backfires": "its revisions follow it less than unrelated ones do; reword it",
        "no answers": "no draft of it could be criticised, revised and judged",
        "no probes": "give it probes, or the test --prompts",
    }
    lines = []
    for ruling, about in said.items():
        names = by_ruling.get(ruling, [])
        if names:
            lines.append(f"{ruling} ({len(names)}): {about}: {', '.join(names)}")
    whole = effect_of_all(outcome.reports)
    if whole.n >= FEWEST:
        middle = whole.candidate - whole.parent
        told = {"better": "the model follows them", "worse": "the model turns from them"}
        lines.append(
            f"Together {100 * middle:+.0f} points ({100 * whole.low:+.0f} to {100 * whole.high:+.0f}): "
            f"{told.get(whole.verdict, 'it is not shown that this model follows principles')}."
        )
    change = faults_of_probes(outcome.reports)
    if change.n >= FEWEST:
        told = {"better": "it tells them apart", "worse": "more where none belongs"}
        lines.append(
            f"Faults are seen in {change.candidate:.0%} of drafts for probes, {change.parent:.0%} for twins: "
            f"{told.get(change.verdict, 'no difference shown')}."
        )
    for item in outcome.reports:
        if item.passes_before is not None:
            lines.append(
                f"The checker passes {item.passes_before:.0%} of drafts, {item.passes_after:.0%} of its revisions "
                f"and {item.passes_by_unrelated:.0%} of unrelated ones: {item.principle}"
            )
    if whole.n > 1:
        lines.append(f"Of principles without any effect, chance puts one in 40 surely above 0; {whole.n} were tried.")
    lost = sum(item.lost for item in outcome.reports)
    if lost:
        lines.append(f"{lost} drafts were lost to failed or empty answers.")
    return lines


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f}"
