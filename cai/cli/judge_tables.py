"""What `cai judge` prints for people."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from cai.judges.attacks import AttackReport, Figures
    from cai.judges.audit import Audit
    from cai.judges.single import Discrimination
    from cai.label.learned import LearnedWeights

SHOWN = 3
"""Reasons for abstaining that are listed."""

WIDE = 30
"""Characters of a reliability diagram's bars."""


def show_audits(audits: "Sequence[Audit]", alpha: float | None, console: Console) -> None:
    """Print audits: one table of all, then each judge's own."""
    table = _table("judge", "agrees", "95 %", "pairs", "none", "flips", "Brier", "ECE", "T", "longer", gap=1)
    for each in audits:
        table.add_row(
            each.judge,
            _percent(each.accuracy),
            f"{100 * each.interval[0]:.0f}–{100 * each.interval[1]:.0f}",
            str(each.pairs),
            str(each.abstained),
            _percent(each.flip_rate),
            f"{_short(each.brier)}/{_short(each.brier_scaled)}",
            f"{_short(each.ece)}/{_short(each.ece_scaled)}",
            f"{each.temperature:.1f}",
            f"{_percent(each.longer_share)}/{_percent(each.longer_better)}".replace("%", ""),
        )
    console.print(table)
    console.print(
        "none: no vote; flips: another vote in the other order; Brier, ECE: as it is/with\n"
        "logits divided by a temperature fitted on other pairs; T: that temperature, on\n"
        "all; longer: % of votes for the longer answer/of people's. A coin: 50 %, .25.",
        style="dim",
    )
    for each in audits:
        _show_own(each, console)
    for name, shares in (
        ("source", {each.judge: each.by_source for each in audits}),
        ("principle", {each.judge: each.by_principle for each in audits}),
    ):
        if len(set().union(*shares.values())) > 1:
            console.print(_agreement(name, shares))
    if alpha is not None:
        console.print(f"Krippendorff's alpha between the judges: {alpha:.2f} (1: they agree, 0: as by chance)")


def _show_own(each: "Audit", console: Console) -> None:
    if each.abstained == each.pairs:
        console.print(Text(f"{each.judge}: not one vote", style="yellow"))
    elif each.interval[0] <= 0.5:
        what = "worse than a coin" if each.interval[1] < 0.5 else "no better than a coin on these pairs"
        console.print(Text(f"{each.judge}: {what}", style="yellow"))
    if each.reasons:
        reasons = sorted(each.reasons.items(), key=lambda item: -item[1])
        said = [f"{each.judge}, no vote: {each.abstained}"]
        said += [f"  {count} × {reason}" for reason, count in reasons[:SHOWN]]
        if len(reasons) > SHOWN:
            said.append(f"  {sum(count for _, count in reasons[SHOWN:])} × other reasons")
        console.print(Text("\n".join(said)))
    if each.bins:
        console.print(_reliability(each))


def _reliability(each: "Audit") -> Table:
    table = _table("sure", "votes", "mean", "right", title=f"{each.judge}: how sure, and how often right")
    table.add_column("right █, sure ┃", no_wrap=True)
    for part in each.bins:
        bar = ["█" if cell + 0.5 <= part.accuracy * WIDE else " " for cell in range(WIDE)]
        bar[min(WIDE - 1, int(part.confidence * WIDE))] = "┃"
        table.add_row(
            f"{100 * part.low:.0f}–{100 * part.high:.0f} %",
            str(part.n),
            _percent(part.confidence),
            _percent(part.accuracy),
            "".join(bar),
        )
    return table


def _agreement(name: str, shares: dict[str, dict[str, tuple[int, float]]]) -> Table:
    """Return how often each judge's votes agree with people, by source or principle; who has none is left out."""
    judges = [judge for judge, own in shares.items() if own]
    keys = set().union(*shares.values())

    def worst_last(key: str) -> tuple[float, str]:
        found = [shares[judge][key] for judge in judges if key in shares[judge]]
        return -sum(votes * share for votes, share in found) / sum(votes for votes, _ in found), key

    table = _table(f"{name}: agrees", *judges)
    for key in sorted(keys, key=worst_last):
        cells = [shares[judge].get(key) for judge in judges]
        table.add_row(key, *("–" if cell is None else f"{_percent(cell[1])} of {cell[0]}" for cell in cells))
    return table


def show_discriminations(found: "Sequence[Discrimination]", console: Console) -> None:
    """Print how well scores of single answers tell good from bad."""
    table = _table("judge", "AUROC", "95 %", "answers", "good", "no score")
    for each in found:
        low, high = each.interval
        counts = map(str, (each.answers, each.good, each.unscored))
        table.add_row(each.judge, f"{each.auroc:.2f}", f"{low:.2f}–{high:.2f}", *counts)
    console.print(table)
    console.print("AUROC: how often a good answer's score is above a bad one's. A coin: 0.50.", style="dim")


def show_weights(learned: "LearnedWeights", path: Path | None, console: Console) -> None:
    """Print what votes should count."""
    if learned.folded:
        console.print(f"Weights: no vote deserves more than another; each counts {learned.common:.2f}.")
    else:
        some = [(name, weight) for name, weight in learned.weights.items() if weight >= 0.005]
        table = _table("vote", "weight")
        for name, weight in sorted(some, key=lambda item: -item[1]):
            table.add_row(name, f"{weight:.2f}")
        table.add_row(f"{len(learned.weights) - len(some)} others", "0")
        console.print(table)
    console.print(
        f"On pairs that the weights were not fitted on: right in {learned.accuracy:.0%}, loss {learned.nll:.3f}\n"
        f"(all votes counted alike: {learned.accuracy_common:.0%}, {learned.nll_common:.3f}; a coin: 50%, 0.693)."
    )
    console.print(Text(f"written to {path}"), soft_wrap=True)


def show_attacks(name: str, report: "AttackReport", missed: Sequence[str], console: Console) -> None:
    """Print how a judge fares under attacks, worst first."""
    from cai.judges.attacks import BLANK, CONTROL

    table = _table("attack", "trials", "before", "after", "gain", "95 %", "none", "alike", title=f"{name}: wins")
    families = {key: found for key, found in report.families.items() if key not in (BLANK, CONTROL)}
    for key, found in sorted(families.items(), key=lambda item: -item[1].gain):
        table.add_row(key, *_cells(found))
    table.add_section()
    table.add_row("all of these", *_cells(report.overall))
    for key, said in ((CONTROL, "no attack"), (BLANK, "no words")):
        if key in report.families:
            table.add_row(said, *_cells(report.families[key]))
    console.print(table)
    console.print(
        "before, after: how often an answer wins without and with the attack, on both\n"
        "sides and in both orders; gain: in points, its 95 % interval over pairs; none:\n"
        "no verdict under attack; alike: the same outcome in both orders. no attack: a\n"
        "harmless sentence is added; no words: the answer is replaced by a bare mark.",
        style="dim",
    )
    if CONTROL in report.families:
        beyond = report.overall.gain - report.families[CONTROL].gain
        console.print(f"Beyond what a harmless sentence does, attacks gain {100 * beyond:+.1f} points.")
    if missed:
        console.print(Text(f"{name} gives in:", style="red"))
        for line in missed:
            console.print(Text(f"  {line}"))
    else:
        console.print(Text(f"{name} holds on {report.pairs} pairs", style="green"))


def _cells(found: "Figures") -> list[str]:
    within = "–"
    if found.margin is not None:
        low, high = max(-1.0, found.gain - found.margin), min(1.0, found.gain + found.margin)
        within = f"{100 * low:+.1f} to {100 * high:+.1f}"
    return [
        str(found.trials),
        _percent(found.wins_before),
        _percent(found.wins),
        f"{100 * found.gain:+.1f}",
        within,
        _percent(found.abstained),
        _percent(found.consistent),
    ]


def _table(first: str, *others: str, title: str | None = None, gap: int = 2) -> Table:
    # The box itself puts one space between columns.
    space = (0, gap - 1, 0, 0)
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False, padding=space, title_justify="left")
    table.add_column(first, overflow="fold")  # alone may be broken: names hold models' paths
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _short(figure: float) -> str:
    return f"{figure:.2f}".removeprefix("0")


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.0%}"
