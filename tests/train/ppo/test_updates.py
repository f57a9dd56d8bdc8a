"""A gradient is added, clipped, applied or dropped; under DeepSpeed a run ends where one process does."""

import json
import math
import sys
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from cai.errors import InputError
from cai.train.checkpoints import newest_checkpoint
from cai.train.ppo.trainer import run_ppo
from cai.train.ppo.updates import FOLDER, updates_of
from tests.train.ppo.rig import alone_and_cut, assert_ended_alike, metrics, settings, vowels
from tests.train.ppo.test_trainer import RIG
from tests.train.zero import launched, needs_deepspeed

WHOLE: dict[str, Any] = {"keep": "best", "eval_every": 3, "reference_ema": 0.9}
ADAPTER: dict[str, Any] = {
    "lora": {"r": 2}, "value_adapter": True, "value_clip": None, "target_kl": 2e-5, "learning_rate": 1e-3,
}  # fmt: skip


def test_a_gradient_is_added_and_clipped_and_applied_or_dropped() -> None:
    accelerator, network = Accelerator(cpu=True), nn.Linear(2, 1, bias=False)
    nn.init.zeros_(network.weight)
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    updates, weight = updates_of(accelerator, network, optimizer), cast(nn.Parameter, network.weight)
    for last in (False, True):
        updates.backward(network(torch.tensor([3.0, 4.0])).sum(), last=last)
    assert updates.clip([weight], 5.0) == pytest.approx(10.0)
    updates.apply()
    assert torch.allclose(weight, torch.tensor([[-3.0, -4.0]]), atol=1e-4)
    updates.backward(network(torch.ones(2)).sum(), last=True)
    updates.drop()
    assert updates.clip([weight], 5.0) == 0.0


def test_what_deepspeed_wrote_is_refused_by_name_without_it(tmp_path: Path) -> None:
    network = nn.Linear(2, 1)
    (tmp_path / FOLDER).mkdir()
    updates = updates_of(Accelerator(cpu=True), network, torch.optim.AdamW(network.parameters()))
    with pytest.raises(InputError, match="it was written under DeepSpeed; start it so again"):
        updates.load(tmp_path)


@needs_deepspeed
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("stage", "options"), [(3, WHOLE), (2, ADAPTER), (3, ADAPTER)], ids=["whole-3", "adapter-2", "adapter-3"]
)
def test_under_deepspeed_two_processes_end_where_one_does(
    tmp_path: Path, tiny_model_dir: Path, stage: int, options: dict[str, Any]
) -> None:
    """Of the whole model's, one process is killed in step 4, and both go on; the adapter's updates are dropped, too."""
    alone, cut = alone_and_cut(tmp_path, tiny_model_dir, options)
    path = tmp_path / "config.json"
    for words in ([],) if "lora" in options else (["4", "1"], []):
        done = launched(stage, [RIG, str(path), *words])
        assert (done.returncode == 0) == (not words), done.stderr[-3000:]
        if words:
            saved = newest_checkpoint(cut.out / "checkpoints")
            assert saved is not None
            assert len(list((saved / FOLDER).glob("*_optim_states.pt"))) == 2
            with pytest.raises(InputError, match="it was written under DeepSpeed; start it so again"):
                run_ppo(cut, vowels)
    assert_ended_alike(alone, cut)
    if "target_kl" in options:
        assert {row["updates"] for row in metrics(cut.out)} == {1}


def main(path: str) -> None:
    """Train under DeepSpeed with a gradient that is not finite, and say what is raised and whether weights moved."""
    from cai.processes import leave, rank
    from cai.train.ppo import trainer, updates
    from cai.train.ppo.config import PPOConfig
    from tests.train.zero import without_gpu

    without_gpu()
    clip = updates._Zero.clip
    seen: list[Any] = []

    def poisoned(self: Any, weights: Any, max_norm: float) -> float:
        read, write = self._access()
        if len(seen) == 2:  # the second update's trunk
            write(weights[0], torch.full_like(read(weights[0]), math.nan))
        seen.append(self._engine)
        return clip(self, weights, max_norm)

    updates._Zero.clip = poisoned  # type: ignore[method-assign]
    config = PPOConfig.model_validate_json(Path(path).read_text())
    ready = trainer.Trainer(config, trainer.accelerator_of(config), vowels)
    counted = []
    step = updates._Zero.apply

    def watched(self: Any) -> None:
        step(self)
        counted.append({name: updates.whole(one).clone() for name, one in self._engine.module.named_parameters()})

    updates._Zero.apply = watched  # type: ignore[method-assign]
    error = ""
    try:
        ready.train()
    except Exception as found:
        error = str(found)
    now = {name: updates.whole(one) for name, one in seen[0].module.named_parameters()}
    same = all(torch.equal(now[name], one) for name, one in counted[-1].items())
    Path(f"{path}.rank{rank()}").write_text(json.dumps({"error": error, "applied": len(counted), "same": same}))
    leave(0)


@needs_deepspeed
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_under_deepspeed_a_gradient_that_is_no_number_moves_nothing(tmp_path: Path, tiny_model_dir: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(settings(tmp_path, tiny_model_dir).model_dump_json())
    done = launched(3, ["-m", "tests.train.ppo.test_updates", str(path)])
    assert done.returncode == 0, done.stderr[-3000:]
    for rank in (0, 1):
        found = json.loads(Path(f"{path}.rank{rank}").read_text())
        assert "the gradient is not a finite number (row " in found["error"]
        assert (found["applied"], found["same"]) == (1, True)


if __name__ == "__main__":
    main(sys.argv[1])
