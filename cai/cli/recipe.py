"""How a recipe is started: ``NAME.py [--config FILE.yaml] [key=value …]``, alone or by `accelerate launch`."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TypeVar

from cai.config import Config, load_config
from cai.errors import guarded
from cai.processes import become_many, leave, quiet_libraries

C = TypeVar("C", bound=Config)


def run_recipe(cls: type[C], run: Callable[[C], object], *, about: str) -> NoReturn:
    """Read the config from the command line, run, and end the process with the exit code.

    `about` is the recipe's own docstring: the head of its ``--help``, which lists every key with its default.
    """
    parser = argparse.ArgumentParser(
        description=about, epilog=_keys(cls), formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--config", type=Path, help="a YAML file of settings")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings over those of the file")
    given = parser.parse_args()
    become_many()
    quiet_libraries()
    leave(guarded(lambda: run(load_config(cls, given.config, given.settings))))


def _keys(cls: type[Config]) -> str:
    lines = ["settings:"]
    for name, field in cls.model_fields.items():
        default = "required" if field.is_required() else repr(field.get_default(call_default_factory=True))
        said = " ".join((field.description or "").split())
        lines.append(f"  {name}  ({default})" + (f"\n      {said}" if said else ""))
    return "\n".join(lines).replace("%", "%%")
