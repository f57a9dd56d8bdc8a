import json
from importlib.resources import files

import pytest

from cai.constitution import load_constitution
from cai.engines.build import EngineConfig, build_engine
from cai.judges.measured import Measured, measured

ROWS = [Measured(**row) for row in json.loads((files("cai.judges") / "measured.json").read_text())]


def test_what_was_measured_is_what_ships() -> None:
    constitutions = {load_constitution(name).digest for name in ("harmless", "helpful-honest-harmless")}
    assert ROWS
    assert {row.constitution for row in ROWS} <= constitutions, (
        "a constitution has changed: run benchmarks/judges.py and write down what it shows"
    )
    for row in ROWS:
        assert row.low < row.agreement < row.high
        assert row.pairs > 100


@pytest.mark.model
def test_the_model_that_was_measured_is_the_embedded_one() -> None:
    assert {row.model for row in ROWS} == {build_engine(EngineConfig(model="embedded")).model}


def test_another_judge_model_or_constitution_is_not_known() -> None:
    row = ROWS[0]
    whole = row.contrasts
    assert row in list(measured(row.judge, row.model, row.constitution, contrasts=whole))
    assert not list(measured("pairwise", row.model, row.constitution, contrasts=whole))
    assert not list(measured(row.judge, "other", row.constitution, contrasts=whole))
    assert not list(measured(row.judge, row.model, "other", contrasts=whole))
    assert not list(measured(row.judge, row.model, row.constitution, contrasts=whole // 2))
