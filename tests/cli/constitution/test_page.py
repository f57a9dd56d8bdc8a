import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cai.cli.constitution.page import grouped, heading, lead_in, prose, to_html
from cai.constitution import ComparisonShot, Constitution, FewShot, Principle, Probe, load_constitution

EVIL = "<script>alert(1)</script>{{ 7*7 }}"
PROSE = Path(__file__).parents[2] / "constitution" / "fixtures" / "prose.md"
ALLOWED = {"p", "em", "strong", "code", "pre", "ul", "ol", "li", "blockquote", "hr", "br"}
ALLOWED |= {"h1", "h2", "h3", "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td"}


class Tags(HTMLParser):
    """Keeps the tags, attributes and links of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.links += [value or "" for name, value in attrs if name in ("href", "src", "action")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_no_text_is_markup() -> None:
    shot = FewShot(
        prompt=EVIL, response=EVIL, critique_request=EVIL, critique=EVIL, revision_request=EVIL, revision=EVIL
    )
    pair = ComparisonShot(prompt=EVIL, chosen=EVIL, rejected=EVIL, reasons=EVIL)
    principle = Principle(
        id="evil",
        title=EVIL,
        text=EVIL,
        source=EVIL,
        path=(EVIL,),
        probes=(Probe(prompt=EVIL, twin=EVIL),),
        few_shots=(shot,),
        comparison_shots=(pair,),
    )
    evil = Constitution(name="evil", version=EVIL, description=EVIL, licence=EVIL, principles=(principle,))
    page = to_html(evil)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") > 15
    assert "{{ 7*7 }}" in page
    assert "Content-Security-Policy" in page
    assert page.startswith("<!doctype html>")


def test_everything_of_a_shipped_one_is_there() -> None:
    constitution = load_constitution("harmless")
    page = to_html(constitution)
    for principle in constitution.principles:
        assert f'id="{principle.id}"' in page
        assert f'href="#{principle.id}"' in page
    assert constitution.digest in page
    assert page.count("<details>") >= 2 * len(constitution.principles)


def test_hard_constraints_come_first_then_the_tiers() -> None:
    rules = Constitution(
        name="tiers",
        version="1",
        principles=(
            Principle(id="b", text="B.", priority=2),
            Principle(id="a", text="A."),
            Principle(id="h", text="H.", priority="hard"),
            Principle(id="c", text="C.", priority=2),
        ),
    )
    assert [(name, [item.id for item in items]) for name, items in grouped(rules)] == [
        ("Hard constraints", ["h"]),
        ("Tier 1", ["a"]),
        ("Tier 2", ["b", "c"]),
    ]
    one = Constitution(name="one", version="1", principles=(Principle(id="a", text="A."),))
    assert [name for name, _ in grouped(one)] == [""]


def test_prose_keeps_its_own_order_under_its_headings() -> None:
    constitution = load_constitution(PROSE)
    groups = grouped(constitution)
    assert [item for _, items in groups for item in items] == list(constitution.principles)
    names = [name for name, _ in groups]
    assert names[:3] == ["The reading room's charter", "Core values", "Core values › What weighing means"]
    page = Tags(to_html(constitution))
    assert [link.removeprefix("#") for link in page.links] == [f"section:{number + 1}" for number in range(len(groups))]
    assert {"blockquote", "table", "strong", "pre"} <= page.tags
    assert "A reader should be able to count on four things" in page.text


@pytest.mark.parametrize("name", ["harmless", "oversight", str(PROSE)])
def test_every_link_leads_to_a_place_on_the_page_and_no_id_is_there_twice(name: str) -> None:
    page = Tags(to_html(load_constitution(name)))
    assert page.links
    assert {link.removeprefix("#") for link in page.links} <= set(page.ids)
    assert len(set(page.ids)) == len(page.ids)


PIECES = [
    "<b>",
    "</article>",
    "[a](javascript:x)",
    "![i](http://x/y.png)",
    "<http://x>",
    "&lt;",
    "`",
    "*",
    "|",
    "-",
    "#",
]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([*PIECES, "\n", "\n\n", " ", "word", "<!--", "]]>", "[a]: http://x"])).map("".join))
def test_prose_makes_no_markup_but_that_of_text(text: str) -> None:
    found = Tags(prose(text))
    assert found.tags <= ALLOWED
    assert not found.links
    assert not found.ids


def test_prose_shows_lists_and_says_entities_as_they_are_written() -> None:
    assert re.sub(r"\s", "", prose("- *a*\n- &lt;b&gt;")) == "<ul><li><em>a</em></li><li>&amp;lt;b&amp;gt;</li></ul>"


def test_a_title_that_says_how_the_text_begins_is_not_shown_again() -> None:
    known = Principle(id="a", title="Be kind to all, and…", text="Be *kind* to all, and more.", path=("Care", "So:"))
    assert (heading(known), lead_in(known)) == ("", "So:")
    other = Principle(id="a", title="Kindness", text="Be kind.", path=("Care",))
    assert (heading(other), lead_in(other)) == ("Kindness", "")
