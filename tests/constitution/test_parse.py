"""Reading constitutions: good files, shipped names, and bad files, each refused at its line within a second."""

import importlib.util
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cai.constitution import load_constitution, parse
from cai.constitution.parse import shipped
from cai.errors import InputError

ROOT = Path(__file__).parents[2]
HARMLESS = ROOT / "constitutions" / "harmless.yaml"
MOST_SECONDS = 1.0

GOOD = """\
# A comment.
name: mine
version: "1.0"
principles:
  - id: calm
    text: Stay calm.
  - id: short
    text: Be brief.
    tags: [tone]
    weight: 2
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(content: str | bytes, name: str = "mine.yaml") -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


# Good files.


def test_a_small_file(write: Callable[..., Path]) -> None:
    constitution = load_constitution(write(GOOD))
    assert [principle.id for principle in constitution.principles] == ["calm", "short"]
    assert constitution["short"].weight == 2.0
    assert constitution["short"].tags == ("tone",)
    assert constitution.digest == load_constitution(str(write(GOOD, "other.YML"))).digest


def test_layout_does_not_change_the_digest(write: Callable[..., Path]) -> None:
    other = """\
{principles: [{text: "Stay calm.", id: 'calm'},
              {weight: 2.0, id: short, tags: ["tone"], text: Be brief.}],   # another comment
 version: '1.0', "name": mine}
"""
    digest = load_constitution(write(GOOD)).digest
    assert load_constitution(write(other, "b.yaml")).digest == digest
    assert load_constitution(write(GOOD.replace("\n", "\r\n"), "c.yaml")).digest == digest
    assert (
        load_constitution(write(GOOD.replace("Stay calm.", ">-\n      Stay\n      calm."), "d.yaml")).digest == digest
    )
    assert load_constitution(write(GOOD.replace("calm.", "calm!"), "e.yaml")).digest != digest


def test_template_syntax_in_principles_arrives_as_text(write: Callable[..., Path]) -> None:
    odd = "{{7*7}} {text} {% x %} <|im_start|> ${a}"
    constitution = load_constitution(write(GOOD.replace("Stay calm.", f"'{odd}'")))
    assert constitution["calm"].text == odd
    assert constitution["calm"].critique.endswith(odd)


def test_a_thousand_principles_load_in_a_second(write: Callable[..., Path]) -> None:
    path = write(GOOD + "".join(f"  - id: p{i}\n    text: Be kind to person number {i}.\n" for i in range(1000)))
    start = time.process_time()
    assert len(load_constitution(path).principles) == 1002
    assert time.process_time() - start < MOST_SECONDS


# Names and paths.


def test_a_bare_name_is_the_shipped_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "harmless").mkdir()
    assert load_constitution("harmless") == load_constitution(HARMLESS)


def test_a_wheel_has_them_inside_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site-packages" / "cai"
    (package / "_constitutions").mkdir(parents=True)
    (package / "_constitutions" / "mine.yaml").write_text(GOOD)
    (package.parent / "constitutions").mkdir()
    (package.parent / "constitutions" / "strange.yaml").write_text(GOOD)
    monkeypatch.setattr(parse, "_PACKAGE", package)
    assert set(shipped()) == {"mine"}
    assert load_constitution("mine").name == "mine"


def test_nothing_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parse, "_PACKAGE", tmp_path / "cai")
    assert shipped() == {}
    with pytest.raises(InputError, match="no shipped constitution of that name"):
        load_constitution("harmless")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("harmles", "no such file, and no shipped constitution of that name; did you mean 'harmless'? (shipped are"),
        ("qqq", "use one of balanced, child-safety, harmless"),
        ("none.yaml", "no such file; check the path"),
        ("none/harmless", "no such file; check the path"),
        ("x" * 300, "too long"),
        ("a\x00b.yaml", "check the path"),
        ("", "a folder"),
        (".", "a folder"),
        ("constitutions", "a folder"),
        ("mine.json", "not a YAML file; name a file that ends in .yaml"),
        ("mine", "not a YAML file"),
    ],
)
def test_what_is_no_constitution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, said: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "constitutions").mkdir()
    for name in ("mine", "mine.json"):
        (tmp_path / name).write_text(GOOD)
    with pytest.raises(InputError) as caught:
        load_constitution(source)
    assert said in str(caught.value)


def test_a_file_that_is_closed_to_us(write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(GOOD)

    def closed(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")  # as root, chmod closes nothing

    monkeypatch.setattr(Path, "open", closed)
    with pytest.raises(InputError, match="can't be read: Permission denied"):
        load_constitution(path)


# The shipped files.

EVERY = sorted(shipped())


def test_harmless_is_shipped() -> None:
    assert "harmless" in EVERY
    assert len(load_constitution("harmless").principles) >= 16


@pytest.mark.parametrize("name", EVERY)
def test_a_shipped_few_shot_shows_a_change(name: str) -> None:
    examples = load_constitution(name).few_shots
    assert examples
    for example in examples:
        assert example.revision != example.response
        assert example.critique not in (example.response, example.revision)
        assert "{" not in "".join(example.model_dump().values())
    assert len({example.prompt for example in examples}) == len(examples)


def test_the_schema_is_current() -> None:
    spec = importlib.util.spec_from_file_location("constitution_schema", ROOT / "scripts" / "constitution_schema.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    text = script.TARGET.read_text(encoding="utf-8")
    assert text == script.schema_text(), "run: python scripts/constitution_schema.py"
    schema = json.loads(text)
    assert schema["required"] == ["name", "version"]
    assert schema["then"]["required"] == ["principles"]
    assert schema["additionalProperties"] is False
    assert schema["$defs"]["Principle"]["required"] == ["id"]
    assert schema["then"]["properties"]["principles"]["items"]["required"] == ["id", "text"]
