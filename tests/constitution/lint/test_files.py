import pytest

from cai.constitution.parse import read_constitution
from cai.strict_yaml import load
from tests.constitution.lint.samples import findings, hits, whole

ONE = "principles: [{id: one, text: Be kind to people.}]"


def test_a_licence_is_named() -> None:
    (found,) = findings("C041", ONE)
    assert (found.severity, found.problem.line) == ("note", 1)
    assert not hits("C041", f"licence: CC0-1.0\n{ONE}")


@pytest.mark.parametrize("version", ["1", "1.0", "1.2.3", "2026.1", "2.0.0-rc.1", "1.0+our"])
def test_versions(version: str) -> None:
    assert not hits("C042", f'version: "{version}"\n{ONE}')


@pytest.mark.parametrize("version", ["v1", "latest", "1.0 draft", "1.2.3.4", "1."])
def test_odd_versions(version: str) -> None:
    assert hits("C042", f'version: "{version}"\n{ONE}') == [f"the version {version!r} has no order"]


def test_titles() -> None:
    part = "principles:\n  - {id: a, title: Tone, text: Be kind.}\n  - {id: b, title: TONE!, text: Be calm.}\n"
    assert hits("C043", part) == ["'b' has the title of 'a'"]
    assert hits("C043", part.replace("TONE!", '"..."')) == ["the title of 'b' has no word in it"]
    assert not hits("C043", part.replace("TONE!", "Calm"))


def test_texts_of_other_files() -> None:
    other = read_constitution(load(whole("{id: kindness, text: be kind to people!}")))
    assert hits("C044", ONE, others=(other,)) == ["'one' is 'kindness' of 'sample', word for word"]
    assert not hits("C044", ONE.replace("id: one", "id: kindness"), others=(other,))
    assert not hits("C044", ONE.replace("people", "animals"), others=(other,))
    assert not hits("C044", ONE)
