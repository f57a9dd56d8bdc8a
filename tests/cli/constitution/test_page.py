from cai.cli.constitution.page import grouped, to_html
from cai.constitution import ComparisonShot, Constitution, FewShot, Principle, Probe, load_constitution

EVIL = "<script>alert(1)</script>{{ 7*7 }}"


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
