"""`cai`: the command line. Each command says what it does, checks what it is given, and ends with a telling code."""

import os
from pathlib import Path
from typing import Annotated, NoReturn, get_args

import typer

from cai import __version__
from cai.cli.chat import chat
from cai.cli.command import ends_well
from cai.cli.constitution import constitution as constitution_app
from cai.cli.data import data
from cai.cli.doctor import doctor
from cai.cli.export import export
from cai.cli.generate import generate, grow
from cai.cli.judge import judge
from cai.cli.label import label
from cai.cli.serve_reward import serve_reward
from cai.errors import InputError, Problem
from cai.processes import leave
from cai.successor.plan import RunConfig, Tracker
from cai.successor.sizes import Size

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
app.add_typer(constitution_app, name="constitution")
app.add_typer(judge, name="judge")
app.add_typer(data, name="data")
data.command()(ends_well(export))
app.command()(ends_well(generate))
app.command()(ends_well(grow))
app.command()(ends_well(label))
app.command()(ends_well(doctor))
app.command()(ends_well(chat))
app.command()(ends_well(serve_reward))


@app.callback()
def cai() -> None:
    """Train a language model under a written constitution, with AI feedback."""


@app.command()
def version() -> None:
    """Print the version."""
    print(__version__)


@app.command()
@ends_well
def demo(
    out: Annotated[Path, typer.Option(help="The run's folder; the same command goes on from where it stopped.")] = Path(
        "runs/demo"
    ),
    model: Annotated[str, typer.Option(help="Generation 0: a folder, a Hugging Face id, or 'embedded'.")] = "embedded",
    constitution: Annotated[str, typer.Option(help="A YAML file, or the name of a shipped constitution.")] = "harmless",
    prompts: Annotated[
        list[Path] | None,
        typer.Option(help="Red-team prompts in place of the packaged ones (JSONL, CSV, Parquet)."),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="The same seed gives the same run, byte for byte, on one machine.")
    ] = 0,
    size: Annotated[
        str, typer.Option(help="smoke (under 3 minutes on two cores), demo (under 15), or full (hours).")
    ] = "demo",
    rl: Annotated[str, typer.Option(help="ppo, or dpo, online_dpo, grpo or rloo in its place.")] = "ppo",
    processes: Annotated[int, typer.Option(min=1, help="Processes that work on each stage.")] = 1,
    report_to: Annotated[list[str] | None, typer.Option(help="wandb, trackio or tensorboard.")] = None,
) -> None:
    """Take a model through the whole loop, from generation 0 to generation 1, and write a report."""
    given = {
        "out": out,
        "model": model,
        "constitution": constitution,
        "prompts": prompts or [],
        "seed": seed,
        "size": _one_of("--size", size, get_args(Size)),
        "rl": _one_of("--rl", rl, ("ppo", "dpo", "online_dpo", "grpo", "rloo")),
        "processes": processes,
        "report_to": [_one_of("--report-to", name, get_args(Tracker)) for name in report_to or []],
    }
    run_and_report(RunConfig.model_validate(given))


@app.command()
@ends_well
def report(run: Annotated[Path, typer.Argument(help="A run's folder.")]) -> None:
    """Write the HTML report of a run again."""
    from cai.report import write_report

    print(write_report(run))


def run_and_report(config: RunConfig) -> None:
    """Run to the end, write the report, and print the short table."""
    from cai.cli.summary import print_summary
    from cai.report import write_report
    from cai.successor.runner import run_successor

    _check_folder(config.out)
    run = run_successor(config)
    print_summary(run, write_report(run))


def _check_folder(out: Path) -> None:
    """Raise InputError when a file stands where a run's folder, or one around it, should be."""
    there = next(path for path in (out.absolute(), *out.absolute().parents) if os.path.exists(path))
    if not there.is_dir():
        raise InputError(Problem(str(out), 0, 0, f"{there} is a file, not a folder", "name another folder as --out"))


def _one_of(option: str, value: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise InputError(Problem(option, 0, 0, f"unknown value {value!r}", f"use one of {', '.join(choices)}"))
    return value


def main() -> NoReturn:
    """Run the command line and end the process."""
    try:
        app()
    except SystemExit as ended:
        leave(int(ended.code or 0))
    leave(0)


if __name__ == "__main__":
    main()
