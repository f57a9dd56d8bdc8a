"""Fifty steps of each trainer are those that were pinned, and in bfloat16 they learn as much."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.train import rig
from tests.train.curves import FILE, LOOSE, TIGHT, WATCHED, Curves, apart, curves_of, same_minor, versions


@pytest.fixture(scope="module")
def curves(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Curves]:
    """Return what gives a trainer's curves in a precision, trained once."""
    found: dict[tuple[str, str], Curves] = {}

    def of(kind: str, precision: str) -> Curves:
        if (kind, precision) not in found:
            folder = tmp_path_factory.mktemp(f"{kind}-{precision}")
            found[kind, precision] = curves_of(kind, folder, tiny_model_dir, precision=precision)
        return found[kind, precision]

    return of


@pytest.mark.parametrize("kind", WATCHED)
def test_fifty_steps_are_those_that_were_pinned(kind: str, curves: Callable[[str, str], Curves]) -> None:
    pinned = json.loads(FILE.read_text())
    same = same_minor(pinned["versions"])
    for name, values in curves(kind, "fp32").items():
        step, drift = apart(values, pinned["curves"][kind][name])
        about = f"{kind} {name}: {step:.1e} at a step, {drift:.1e} in the mean"
        about += f"; pinned with {pinned['versions']}, here {versions()}"
        assert step <= (TIGHT if same else LOOSE), about
        assert drift <= (TIGHT / 10 if same else LOOSE), about


@pytest.mark.parametrize("kind", rig.KINDS)  # of PPO, bfloat16 draws other answers
def test_bfloat16_learns_as_much(kind: str, curves: Callable[[str, str], Curves]) -> None:
    step, drift = apart(curves(kind, "bf16")["loss"], curves(kind, "fp32")["loss"])
    assert 0 < step < 0.1
    assert drift <= 1e-2


def test_a_rate_that_is_one_per_mille_off_shows(tiny_model_dir: Path, tmp_path: Path) -> None:
    pinned = json.loads(FILE.read_text())["curves"]["sft"]["loss"]
    found = curves_of("sft", tmp_path, tiny_model_dir, learning_rate=3.003e-4)["loss"]
    assert apart(found, pinned)[0] > TIGHT
