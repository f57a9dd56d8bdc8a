"""A training that a past release began goes on here, and its next steps are what they were."""

import json
import shutil
from pathlib import Path

import pytest

from cai.train.checkpoints import newest_checkpoint, set_damaged_aside
from tests.train.curves import LOOSE, TIGHT, WATCHED, apart, same_minor
from tests.train.releases import FOLDER, SAVED, STEPS, config_of, train

RELEASES = sorted(path.name for path in FOLDER.iterdir())


@pytest.mark.parametrize("kind", WATCHED)
@pytest.mark.parametrize("release", RELEASES)
def test_it_goes_on_as_it_would_have(
    release: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("model", kind):
        shutil.copytree(FOLDER / release / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    pinned = json.loads((Path(kind) / "next.json").read_text())
    checkpoints = Path(kind) / "out" / "checkpoints"
    set_damaged_aside(checkpoints)
    assert newest_checkpoint(checkpoints) == checkpoints / f"checkpoint-{SAVED}"
    found = train(kind, config_of(kind))
    assert "damaged" not in capsys.readouterr().err
    most = TIGHT if same_minor(pinned["versions"]) else LOOSE
    for name, values in pinned["metrics"].items():
        assert len(values) == STEPS - SAVED
        assert apart(found[name], values)[0] <= most, name
