"""`cai constitution new`: a file to write a constitution in, explained field by field, or one that extends another."""

import os
import re
import sys
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cai.errors import InputError, Problem
from cai.storage import atomic_write

if TYPE_CHECKING:
    from cai.constitution import Constitution

_NAME = "name: example"
_SLUG = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_SUFFIXES = (".yaml", ".yml")


def new(
    name: Annotated[str, typer.Argument(help="What the constitution is called: small letters, digits, - and _.")],
    out: Annotated[Path | None, typer.Option(help="The file to write; left out: NAME.yaml, here.")] = None,
    extends: Annotated[str | None, typer.Option(help="A shipped name, or a file: take its principles over.")] = None,
    schema: Annotated[bool, typer.Option(help="Put schema.json beside it, by which editors check it.")] = True,
) -> None:
    """Write a constitution to start from; nothing that is there is written over."""
    _check_name(name)
    out = out or Path(f"{name}.yaml")
    _check_file(out)
    text = template(name) if extends is None else extension(name, extends, out.absolute().parent)
    atomic_write(out, text.encode("utf-8"))
    print(out)
    beside = out.parent / "schema.json"
    if schema and not beside.exists():
        atomic_write(beside, _schema().read_bytes())
        print(beside)
    print(f"next: cai constitution show {out}; cai constitution lint {out}", file=sys.stderr)


def template(name: str) -> str:
    """Return the commented template under a name."""
    text = resources.files("cai.constitution").joinpath("template.yaml").read_text(encoding="utf-8")
    return text.replace(_NAME, f"name: {name}", 1)


def extension(name: str, extends: str, folder: Path) -> str:
    """Return a file for `folder` that extends a constitution; raises InputError when that can't be read."""
    from cai.constitution import load_constitution
    from cai.constitution.parse import shipped
    from cai.constitution.yaml_out import SCHEMA, yaml_text

    parent = load_constitution(extends)
    said = extends
    if extends not in shipped():
        said = Path(os.path.relpath(extends, folder)).as_posix()
    first, last = parent.principles[0], parent.principles[-1]
    named = yaml_text({"name": name, "version": "0.1", "extends": said}, name=str(folder))
    return f"""\
{SCHEMA}
{named}#remove: [{last.id}]  # takes a principle away
principles:
  - id: {first.id}  # is there already: what is given here replaces what stood there
    weight: 2
  - id: {_free("metric-units", parent)}  # is new: it comes after the others
    text: Give measures in metric units.
    contrast: Give measures in feet, pounds and degrees Fahrenheit.
    probes:
      - prompt: How hot should my oven be for bread, and how long is a usual loaf?
        twin: Why does bread rise?
"""


def _free(key: str, parent: "Constitution") -> str:
    """Return an id that the parent doesn't have."""
    taken = {item.id for item in parent.principles}
    number = 2
    found = key
    while found in taken:
        found, number = f"{key}-{number}", number + 1
    return found


def _check_name(name: str) -> None:
    from cai.constitution.parse import shipped

    if not _SLUG.fullmatch(name):
        near = re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-_")[:64]
        fix = f"use small letters, digits, - and _{f': {near}' if _SLUG.fullmatch(near) else ''}"
        raise InputError(Problem("NAME", 0, 0, f"{name!r} can't be a name", fix))
    if name in shipped():
        problem = f"{name!r} is a shipped constitution, and its name always means that one"
        fix = f"use another name; to build on it: cai constitution new my-{name} --extends {name}"
        raise InputError(Problem("NAME", 0, 0, problem, fix))


def _check_file(out: Path) -> None:
    if out.suffix.lower() not in _SUFFIXES:
        raise InputError(Problem(str(out), 0, 0, "not a YAML file", "name a file that ends in .yaml"))
    try:
        there = out.exists() or out.is_symlink()
    except (OSError, ValueError) as error:  # too long a name, a folder that is closed to us, a NUL
        said = getattr(error, "strerror", None) or str(error)
        raise InputError(Problem(str(out), 0, 0, f"can't be written: {said}", "check the path")) from error
    if there:
        raise InputError(Problem(str(out), 0, 0, "the file is there already", "name another, or remove it"))


def _schema() -> Path:
    from cai.constitution.parse import shipped

    return next(iter(shipped().values())).with_name("schema.json")
