"""The page: the run's view, its figures and its records in one HTML file that loads nothing from anywhere.

What a model or a file wrote is never markup here. The templates escape all of it, the tables' data is JSON without a
``<``, the script makes nodes from text only, and the page's own policy lets no script and no style run but the two it
names by their hash.
"""

import base64
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from cai.errors import InputError, Problem
from cai.progress import clock
from cai.records.schema import EvalResult
from cai.report import figures, summary, words
from cai.report.chains import Chain
from cai.report.diff import Segment
from cai.report.files import Row
from cai.report.model import GenerationView, RunView, read_run
from cai.storage import atomic_write

_CODES = {"same": 0, "gone": -1, "new": 1}


def write_report(run: Path, out: Path | None = None) -> Path:
    """Write the report of a run folder, finished or not, and return its path (RUN/report.html unless given)."""
    if not run.is_dir():
        raise InputError(Problem(str(run), 0, 0, "no such run folder", "give the folder that --out of a run named"))
    target = out or run / "report.html"
    atomic_write(target, render(read_run(run)).encode("utf-8", "replace"))
    return target


def render(view: RunView) -> str:
    """Return the page of a run."""
    environment = _environment()
    style = _source("style.css")
    script = _source("browse.js")
    return environment.get_template("report.html").render(
        run=view,
        style=Markup(style),
        script=Markup(script),
        policy=f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; base-uri 'none'; "
        "form-action 'none'",
        figures=figures,
        summary=summary,
        data={generation.number: Markup(embed(payload(generation, view))) for generation in view.generations},
    )


def embed(value: Any) -> str:
    r"""Return JSON that can stand inside a script element: ASCII, and without the characters that HTML reads.

    >>> print(embed("</script>"))
    "\u003c/script\u003e"
    """
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def payload(generation: GenerationView, view: RunView) -> Row:
    """Return the rows of a generation's tables, with short keys: there may be thousands."""
    titles = {principle.id: principle.title or principle.id for principle in generation.principles}
    return {
        "chains": [_chain(chain, titles) for chain in generation.chains],
        "evals": [_eval(result) for result in generation.comparison.results],
        "measures": [
            {"name": measure.name, "trained": measure.trained_on} for measure in generation.comparison.measures
        ],
    }


def _chain(chain: Chain, titles: dict[str, str]) -> Row:
    rounds = [
        {
            "number": step.number,
            "principle": words.visible(titles.get(step.principle, step.principle)),
            "critique": words.visible(step.critique),
            "critiqueCut": step.critique_cut,
            "revised": step.revision is not None,
            "cut": step.revision_cut,
            "changes": _changes(step.changes),
        }
        for step in chain.rounds
    ]
    return {
        "kind": chain.kind,
        "category": words.visible(chain.category),
        "turns": _turns(chain.messages),
        "sample": chain.sample,
        "draft": words.visible(chain.draft),
        "cut": chain.draft_cut,
        "rounds": rounds,
        "changes": _changes(chain.changes),
        "changed": None if chain.changed is None else round(chain.changed, 3),
        "dropped": [words.visible(reason) for reason in chain.dropped],
    }


def _eval(result: EvalResult) -> Row:
    return {
        "kind": result.kind,
        "category": words.visible(result.category),
        "turns": _turns(result.messages),
        "parent": words.visible(result.parent),
        "candidate": words.visible(result.candidate),
        "wins": {words.visible(name): value for name, value in result.wins.items()},
        "scores": {words.visible(name): list(pair) for name, pair in result.scores.items()},
    }


def _turns(messages: tuple[Any, ...]) -> list[list[str]]:
    return [[words.visible(role), words.visible(content)] for role, content in messages]


def _changes(segments: tuple[Segment, ...]) -> list[list[Any]]:
    return [[_CODES[segment.change], words.visible(segment.text)] for segment in segments]


def _source(name: str) -> str:
    environment = _environment()
    loader = environment.loader
    assert loader is not None
    return loader.get_source(environment, name)[0].strip()


def _hash(source: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()


def _finalize(value: Any) -> Any:
    """Make control characters visible in every text that the templates print."""
    return words.visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cai.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": words.percent,
        "figure": words.figure,
        "plain": words.plain_name,
        "shorten": words.shorten,
        "clock": clock,
    }
    return environment
