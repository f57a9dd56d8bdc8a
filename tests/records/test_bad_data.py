"""Bad data sets: each is refused at its line, quickly and in little memory, before an engine is there to be asked.

With ``--keep-going`` the rows that are no prompts are set aside, and what is taken and what is not is what was read.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.records import bad_data
from tests.records.bad_data import CASES

ROOT = Path(__file__).parents[2]
MOST_SECONDS = 8.0
"""Of CPU, for 70,001 rows; most take a twentieth of one."""
MOST_BYTES = 100_000_000
"""More than the command takes for a good file."""


@pytest.fixture(scope="module")
def attempts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Every case, without and with ``--keep-going``."""
    command = [sys.executable, bad_data.__file__, str(tmp_path_factory.mktemp("bad"))]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_there_are_forty_kinds() -> None:
    assert sum(bool(case.said) for case in CASES.values()) >= 40


@pytest.mark.parametrize("name", CASES)
def test_a_bad_file_is_refused_at_its_line(name: str, attempts: dict[str, Any]) -> None:
    case, found = CASES[name], attempts[name][0]
    assert found["unchanged"]
    if not case.said:
        assert found["code"] == 0
        return
    assert found["code"] == 2
    assert not found["asked"], "before any engine is there"
    lines = found["told"].splitlines()
    assert lines[0].startswith(f"PATH:{case.line}:" if case.line else "PATH: "), lines[0]
    assert case.said in lines[0]
    assert all("; " in line or line.startswith("and ") for line in lines), "a fix each, and no traceback"


@pytest.mark.parametrize("name", CASES)
def test_rows_are_set_aside_and_counted(name: str, attempts: dict[str, Any]) -> None:
    case, found = CASES[name], attempts[name][1]
    assert found["unchanged"]
    if case.said and not case.rejected:
        assert found["code"] == 2
        assert found["told"].startswith("PATH"), found["told"]
        return
    rows = found["rows"]
    assert found["code"] == 0
    assert rows["rejected"] == (case.rejected if case.said else 0)
    assert found["prompts"] + rows["rejected"] + rows["repeated"] == rows["read"]
    assert found["rejected"] == rows["rejected"] + rows["repeated"]


@pytest.mark.parametrize("name", CASES)
def test_it_takes_little_time_and_memory(name: str, attempts: dict[str, Any]) -> None:
    good = attempts["byte order mark"][0]["peak"]
    for found in attempts[name]:
        assert found["seconds"] < MOST_SECONDS
        assert found["peak"] < good + MOST_BYTES
        assert found["peak"] > 10_000_000 or not sys.platform.startswith("linux"), "it was measured"
