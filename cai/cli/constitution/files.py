"""`cai constitution import` and `cai constitution render`: constitutions from and into other files."""

import html
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cai.errors import InputError, Problem
from cai.storage import atomic_write

if TYPE_CHECKING:
    from cai.constitution import Constitution, Principle

FORMATS = ("md", "html", "prompt")
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_STYLE = """
body { max-width: 46rem; margin: 2rem auto; padding: 0 1rem; font: 1rem/1.5 system-ui, sans-serif; }
code, dt { font-family: ui-monospace, monospace; font-size: .875rem; }
dt { margin-top: .75rem; color: #555; }
dd { margin: 0; white-space: pre-wrap; }
p { white-space: pre-wrap; }
section { border-top: 1px solid #ccc; margin-top: 2rem; }
@media (prefers-color-scheme: dark) { body { background: #111; color: #eee; } dt { color: #aaa; } }
"""

ASKED = "<what a person asked>"
ANSWER = "<the answer>"
CRITIQUE = "<the critique>"
FIRST, SECOND = "<the first answer>", "<the second answer>"
"""What stands in a rendered prompt for what only a run knows."""


def import_(
    paths: Annotated[list[Path], typer.Argument(help="Files of another project, or folders of them.")],
    out: Annotated[Path | None, typer.Option(help="The YAML file to write; it must not be there yet.")] = None,
    format: Annotated[
        str | None, typer.Option(help="paper, handbook, inverse or text; left out: what the content says.")
    ] = None,
    name: Annotated[str, typer.Option(help="The constitution's name; left out: the first file's.")] = "",
) -> None:
    """Make a constitution of other people's files: the 2022 paper's, llm-swarm's, lists of principles."""
    from cai.constitution.importers import import_constitution
    from cai.constitution.yaml_out import to_yaml

    constitution = import_constitution(list(paths), format=format, name=name)
    text = to_yaml(constitution)
    if out is not None and out.suffix.lower() not in (".yaml", ".yml"):
        raise InputError(Problem(str(out), 0, 0, "not a YAML file", "name a file that ends in .yaml"))
    _put(text, out, keep=True)
    whole: list[Constitution | Principle] = [constitution, *constitution.principles]
    examples = sum(len(part.few_shots) + len(part.comparison_shots) for part in whole)
    print(f"{len(constitution.principles)} principles and {examples} examples", file=sys.stderr)


def render(
    source: Annotated[str, typer.Argument(help="A YAML or Markdown file, or the name of a shipped constitution.")],
    to: Annotated[str, typer.Option("--to", help="md, html, or prompt: what a model is asked.")] = "md",
    principle: Annotated[str | None, typer.Option(help="Only the principle with this id.")] = None,
    out: Annotated[Path | None, typer.Option(help="The file to write; left out: the terminal.")] = None,
) -> None:
    """Show a constitution as a document, as a page, or as the prompts that a model sees."""
    from cai.constitution import load_constitution
    from cai.constitution.markdown import to_markdown
    from cai.strict_yaml import suggestion

    if to not in FORMATS:
        raise InputError(Problem("--to", 0, 0, f"unknown format {to!r}", suggestion(to, FORMATS)))
    constitution = load_constitution(source)
    if principle is not None:
        constitution = _only(constitution, principle)
    makers = {"md": to_markdown, "html": to_html, "prompt": to_prompts}
    _put(makers[to](constitution), out)


def to_html(constitution: "Constitution") -> str:
    """Return a page that stands alone: nothing in it is loaded from elsewhere, and no text in it is markup."""
    from cai.constitution.yaml_out import constitution_fields

    said = html.escape
    fields = constitution_fields(constitution)
    title = said(constitution.name)
    head = "".join(
        f"<dt>{said(key)}</dt><dd>{said(str(fields[key]))}</dd>" for key in ("version", "licence") if key in fields
    )
    sections = "".join(_html_section(item) for item in constitution.principles)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f'<meta name="viewport" content="width=device-width">\n<title>{title}</title>\n<style>{_STYLE}</style>\n'
        f"</head>\n<body>\n<h1>{title}</h1>\n<p>{said(constitution.description)}</p>\n"
        f"<dl>{head}<dt>digest</dt><dd>{said(constitution.digest)}</dd></dl>\n{sections}</body>\n</html>\n"
    )


def _html_section(principle: "Principle") -> str:
    said = html.escape
    rows = []
    for key, value in principle.model_dump(mode="json").items():
        if key in ("id", "title", "text") or value in ("", None, [], {}):
            continue
        shown = ", ".join(map(str, value)) if isinstance(value, list) and _words(value) else _lines(value)
        rows.append(f"<dt>{said(key)}</dt><dd>{said(shown)}</dd>")
    return (
        f'<section id="{said(principle.id)}">\n<h2>{said(principle.title)}</h2>\n<code>{said(principle.id)}</code>\n'
        f"<p>{said(principle.text)}</p>\n<dl>{''.join(rows)}</dl>\n</section>\n"
    )


def _words(value: list[object]) -> bool:
    return all(isinstance(item, (str, int, float)) for item in value)


def _lines(value: object) -> str:
    """Return a value as text: its parts one under the other."""
    if isinstance(value, dict):
        return "\n".join(f"{key}: {_lines(part)}" for key, part in value.items() if part not in ("", None, [], {}))
    return "\n\n".join(map(_lines, value)) if isinstance(value, list) else str(value)


def to_prompts(constitution: "Constitution") -> str:
    """Return what a model is asked for each principle: the critique, the revision and the comparison, word for word."""
    from cai.constitution.ask import CHOICE, comparison_request, critique_request, revision_request
    from cai.types import Message

    prompt = (Message("user", ASKED),)
    shots = constitution.comparison_shots
    parts = []
    for principle in constitution.principles:
        critique, _ = critique_request(constitution, principle, prompt, ANSWER)
        revision, _ = revision_request(constitution, principle, prompt, ANSWER, CRITIQUE)
        comparison, _ = comparison_request(shots, principle, prompt, FIRST, SECOND)
        asked = {
            "critique": critique,
            "revision": revision,
            "comparison": (*comparison, Message("assistant", CHOICE)),
        }
        for step, turns in asked.items():
            parts.append(f"===== {principle.id}: {step} =====")
            parts.extend(f"[{turn.role}]\n{turn.content}" for turn in turns)
    return "\n\n".join(parts) + "\n"


def _only(constitution: "Constitution", key: str) -> "Constitution":
    from cai.strict_yaml import suggestion

    known = [item.id for item in constitution.principles]
    if key not in known:
        raise InputError(Problem("--principle", 0, 0, f"{constitution.name} has no {key!r}", suggestion(key, known)))
    return constitution.model_copy(update={"principles": (constitution[key],)})


def _put(text: str, out: Path | None, *, keep: bool = False) -> None:
    """Write a file, or print; `keep` refuses to write over one."""
    if out is None:
        sys.stdout.write(text)
        return
    if out.is_dir():
        raise InputError(Problem(str(out), 0, 0, "this is a folder", "name a file"))
    if keep and out.exists():
        raise InputError(Problem(str(out), 0, 0, "the file is there already", "name another, or remove it"))
    atomic_write(out, text.encode("utf-8"))
    print(out)
