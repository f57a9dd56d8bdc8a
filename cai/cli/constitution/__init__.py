"""`cai constitution …`: read, check, compare, convert and try constitutions. One module per command."""

import typer

from cai.cli.command import ends_well
from cai.cli.constitution.files import import_, render

constitution = typer.Typer(no_args_is_help=True, help="Read, check, compare, convert and try constitutions.")
constitution.command("import")(ends_well(import_))
constitution.command()(ends_well(render))
