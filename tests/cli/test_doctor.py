import io
import json
from dataclasses import asdict

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from cai.cli import doctor as module
from cai.cli.command import ends_well
from cai.cli.doctor import PACKAGES, doctor, show, survey, throughput
from cai.engines.build import ENGINES, Known, why_not

app = typer.Typer()
app.command()(ends_well(doctor))


def test_it_knows_the_packages_and_the_engines() -> None:
    found = survey()
    assert set(found.packages) == set(PACKAGES)
    assert found.packages["torch"]
    assert {engine.kind for engine in found.engines} == set(ENGINES)
    assert next(engine for engine in found.engines if engine.kind == "transformers").works
    assert found.cores >= 1
    assert found.memory_gb > 1


def test_an_engine_that_lacks_a_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENGINES, "far", Known("cai.far", "far away", ("no_such_package",), "far"))
    assert why_not("far") == "no_such_package not installed: pip install 'cai[far]'"
    state = next(engine for engine in survey().engines if engine.kind == "far")
    assert not state.works
    shown = io.StringIO()
    show(survey(), Console(file=shown, width=80))
    assert "pip install 'cai[far]'" in shown.getvalue()
    assert max(map(len, shown.getvalue().splitlines())) <= 80


def test_a_package_that_is_not_there_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PACKAGES", {"no-such-package": "far"})
    assert survey().packages == {"no-such-package": None}


def test_json_is_one_document() -> None:
    result = CliRunner().invoke(app, ["--no-probe", "--json"])
    assert result.exit_code == 0
    assert json.loads(result.stdout)["packages"]["torch"]
    assert set(json.loads(result.stdout)) == set(asdict(survey()))


@pytest.mark.model
def test_the_probe_measures_both_ways() -> None:
    found = throughput("embedded", seconds=1.0)
    assert set(found) == {"reading", "writing"}
    assert min(found.values()) > 1
