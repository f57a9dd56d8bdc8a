"""`cai constitution …`: read, check, compare, convert and try constitutions. One module per command."""

import typer

from cai.cli.command import ends_well
from cai.cli.constitution import trial
from cai.cli.constitution.diff import diff
from cai.cli.constitution.files import import_, render
from cai.cli.constitution.lint import lint
from cai.cli.constitution.new import new
from cai.cli.constitution.show import show

constitution = typer.Typer(no_args_is_help=True, help="Read, check, compare, convert and try constitutions.")
for command in (show, lint, diff, render, new):
    constitution.command()(ends_well(command))
constitution.command("import")(ends_well(import_))
constitution.command("test")(ends_well(trial.trial))
