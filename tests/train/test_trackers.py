"""Metrics go to wandb (offline), trackio and tensorboard, into the stage's own folder, without a network."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytest.importorskip("wandb", reason="the trackers are an extra: pip install 'cai[tracking]'")


@pytest.mark.slow
def test_every_tracker_gets_the_metrics(tiny_model_dir: Path, tmp_path: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": f"Question {n}?"}, {"role": "assistant", "content": "An answer."}]}
        for n in range(8)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    free = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB", "TRACKIO", "TENSOR"))}
    words = [f"model={tiny_model_dir}", f"data=[{tmp_path / 'rows.jsonl'}]", f"out={tmp_path / 'out'}", "batch_size=4"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "recipes/sft.py"), *words, "report_to=[wandb, trackio, tensorboard]"],
        env={**free, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    trackers = tmp_path / "out" / "trackers"
    assert list(trackers.glob("wandb/offline-run-*/*.wandb"))
    assert list(trackers.glob("*.db"))
    assert list(trackers.rglob("events.out.tfevents.*"))
