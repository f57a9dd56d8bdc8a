"""What `cai data inspect` prints for people."""

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDE = 40
"""Characters of the histogram's bars."""


def show_rows(told: dict[str, Any], console: Console) -> None:
    """Print the figures of `cai.train.inspection.describe`."""
    console.print(f"{told['rows']} {told['kind']} of {told['prompts']} prompts", highlight=False)
    if told.get("heads"):
        console.print(", ".join(f"{name} {count}" for name, count in told["heads"].items()), highlight=False)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("tokens")
    names = list(told["tokens"]["together"])
    for name in names:
        table.add_column("max" if name == "p100" else name, justify="right")
    for column, values in told["tokens"].items():
        table.add_row(column, *(str(values[name]) for name in names))
    console.print(table)
    if told["labels"] is not None:
        _histogram(told["labels"], console)
    cut = told["cut"]
    console.print(
        f"At max_length={cut['max_length']}: {cut['rows_dropped']} rows dropped, {cut['prompts_cut']} prompts cut "
        f"({cut['tokens_lost']} tokens).",
        highlight=False,
    )
    for each in told["findings"]:
        style = "bold red" if each["severity"] == "error" else "yellow"
        places = ", ".join(each["places"])
        line = Text.assemble((f"{each['severity']} {each['id']}", style), f": {each['count']} rows: {each['problem']}")
        console.print(line.append(f" ({places}); {each['fix']}"))
    if not told["findings"]:
        console.print("Nothing wrong was found.")


def _histogram(counts: list[int], console: Console) -> None:
    console.print("chosen_prob", style="bold")
    most = max(counts) or 1
    for number, count in enumerate(counts):
        if count:
            bar = "█" * max(1, round(WIDE * count / most))
            console.print(
                f"  {number / len(counts):.1f}-{(number + 1) / len(counts):.1f} {bar} {count}", highlight=False
            )
