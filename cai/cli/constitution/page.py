"""A constitution as a page to read: it stands alone, loads nothing, and no text in it is markup."""

import re
from functools import cache
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cai.constitution import Constitution, Principle


def to_html(constitution: "Constitution") -> str:
    """Return the page: hard constraints first, then the tiers in their order; prose in its own order, by heading."""
    of_prose = any(principle.path for principle in constitution.principles)
    page: str = _template().render(constitution=constitution, groups=grouped(constitution), of_prose=of_prose)
    return page


def grouped(constitution: "Constitution") -> "list[tuple[str, list[Principle]]]":
    """Return the principles under headings, each group in the file's order; one group alone has no heading."""
    if any(principle.path for principle in constitution.principles):
        return _by_heading(constitution)
    groups: dict[str | int, list[Principle]] = {}
    for principle in constitution.principles:
        groups.setdefault(principle.priority, []).append(principle)
    tiers = sorted(tier for tier in groups if isinstance(tier, int))
    order: list[str | int] = [*(["hard"] if "hard" in groups else []), *tiers]
    if len(order) == 1:
        return [("Hard constraints" if order == ["hard"] else "", groups[order[0]])]
    names: dict[str | int, str] = {"hard": "Hard constraints", **{tier: f"Tier {tier}" for tier in tiers}}
    if len(tiers) == 1:
        names[tiers[0]] = "Principles"
    return [(names[key], groups[key]) for key in order]


def _by_heading(constitution: "Constitution") -> "list[tuple[str, list[Principle]]]":
    below = [_headings(principle) for principle in constitution.principles]
    titled = bool(below[0]) and all(path[:1] == below[0][:1] for path in below)
    named = [" › ".join(path[1:] if titled and len(path) > 1 else path) for path in below]
    parts = groupby(zip(named, constitution.principles, strict=True), key=itemgetter(0))
    return [(heading, [principle for _, principle in part]) for heading, part in parts]


def _headings(principle: "Principle") -> tuple[str, ...]:
    """Return a principle's headings without the sentence that leads into its list."""
    return principle.path[:-1] if lead_in(principle) else principle.path


def lead_in(principle: "Principle") -> str:
    """Return the sentence that leads into the list that a principle of prose is an item of."""
    last = principle.path[-1] if principle.path else ""
    return last if last.rstrip("*_").endswith(":") else ""


def heading(principle: "Principle") -> str:
    """Return a principle's title, unless it only says how a paragraph of prose begins."""
    said = " ".join(re.sub(r"[*_`#>|\[\]]+", "", principle.text).split())
    return "" if principle.path and principle.title.rstrip("…") in said else principle.title


def prose(text: str) -> str:
    """Return Markdown as HTML of which nothing comes from the text but its words: no tags, links or pictures."""
    from markdown_it import MarkdownIt
    from markupsafe import Markup

    plain = ["html_block", "html_inline", "link", "image", "autolink", "entity", "reference"]
    parser = MarkdownIt("commonmark", {"html": False}).enable("table").disable(plain)
    return Markup(parser.render(text))  # the parser escapes all text


@cache
def _template() -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cai.cli.constitution", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(lead_in=lead_in, heading=heading)
    environment.filters["prose"] = prose
    return environment.get_template("page.html")
