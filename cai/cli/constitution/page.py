"""A constitution as a page to read: it stands alone, loads nothing, and no text in it is markup."""

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cai.constitution import Constitution, Principle


def to_html(constitution: "Constitution") -> str:
    """Return the page: hard constraints first, then the tiers in their order."""
    page: str = _template().render(constitution=constitution, groups=grouped(constitution))
    return page


def grouped(constitution: "Constitution") -> "list[tuple[str, list[Principle]]]":
    """Return the principles under headings, each group in the file's order; one group alone has no heading."""
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
    return environment.get_template("page.html")
