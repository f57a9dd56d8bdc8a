"""`cai constitution import` and `cai constitution render`: constitutions from and into other files."""

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cai.errors import InputError, Problem
from cai.storage import atomic_write

if TYPE_CHECKING:
    from cai.constitution import Constitution

FORMATS = ("md", "html", "prompt")

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
    for line in summary(constitution):
        print(line, file=sys.stderr)


def summary(constitution: "Constitution") -> list[str]:
    """Return what was imported, in lines for people: how many of each, and what the stages have to be told."""
    tags = Counter(tag for principle in constitution.principles for tag in principle.tags)
    tagged = f" ({', '.join(f'{count} tagged {tag}' for tag, count in tags.items())})" if tags else ""
    lines = [f"{_count(len(constitution.principles), 'principle')}{tagged}"]
    few, pairs = len(constitution.few_shots), len(constitution.comparison_shots)
    if few or pairs:
        shown = (_count(few, "example") + " of critiques and revisions", f"{pairs} of comparisons")
        lines.append(" and ".join(shown))
    return lines + constitution.description.split("\n\n") if constitution.description else lines


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def render(
    source: Annotated[str, typer.Argument(help="A YAML or Markdown file, or the name of a shipped constitution.")],
    to: Annotated[str, typer.Option("--to", help="md, html, or prompt: what a model is asked.")] = "md",
    principle: Annotated[str | None, typer.Option(help="Only the principle with this id.")] = None,
    out: Annotated[Path | None, typer.Option(help="The file to write; left out: the terminal.")] = None,
) -> None:
    """Show a constitution as a document, as a page, or as the prompts that a model sees."""
    from cai.cli.constitution.page import to_html
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


def to_prompts(constitution: "Constitution") -> str:
    """Return what a model is asked for each principle, word for word, by the code that asks it.

    The critique, the revision, the comparison, and what a contrastive judge tells a model before an answer.
    """
    from cai.constitution.ask import CHOICE, critique_request, revision_request
    from cai.judges.base import Comparison
    from cai.judges.contrastive import told
    from cai.judges.pairwise import choice_request
    from cai.types import Message

    prompt = (Message("user", ASKED),)
    answer = Message("assistant", ANSWER)
    parts = []
    for principle in constitution.principles:
        compared = Comparison(id="", prompt=prompt, response_a=FIRST, response_b=SECOND, principle=principle)
        comparison = choice_request(constitution.comparison_shots, compared, swapped=False)[0]
        asked = {
            "critique": critique_request(constitution, principle, prompt, ANSWER)[0],
            "revision": revision_request(constitution, principle, prompt, ANSWER, CRITIQUE)[0],
            "comparison": (*comparison, Message("assistant", CHOICE)),
            "answer told the principle": (*told(principle.text, prompt), answer),
            "answer told its contrast": (*told(principle.contrast, prompt), answer),
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
