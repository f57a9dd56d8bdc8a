"""A training that stops on a held-out figure: when, with which weights, and after a kill as if there had been none."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import TrainerControl, TrainerState

from cai.config import load_config
from cai.errors import InputError
from cai.train import reward
from cai.train.configs import RewardConfig
from cai.train.early_stop import StopOnHeldOut
from tests.train import rig


def state(step: int) -> TrainerState:
    return TrainerState(global_step=step, is_world_process_zero=True)


def stopped(figures: list[float], **options: Any) -> tuple[int, StopOnHeldOut, torch.nn.Linear]:
    """Run a loop whose weight is the number of its step; return the step that it ended at."""
    model, values = torch.nn.Linear(1, 1, bias=False), iter(figures)
    stop, control = StopOnHeldOut(lambda _: next(values), every=2, **options), TrainerControl()
    args: Any = SimpleNamespace()
    step = 0
    while step < 2 * len(figures) and not control.should_training_stop:
        step += 1
        with torch.no_grad():
            model.weight.fill_(step)
        stop.on_step_end(args, state(step), control, model=model)
    stop.on_train_end(args, state(step), control, model=model)
    return step, stop, model


def test_it_stops_after_its_patience_with_the_best_weights() -> None:
    step, stop, model = stopped([0.5, 0.7, 0.6, 0.7, 0.9], patience=2)
    assert (step, stop.best, model.weight.item()) == (8, (4, 0.7), 4.0)
    assert [at for at, _ in stop.measured] == [2, 4, 6, 8]


def test_it_goes_on_while_the_figure_rises() -> None:
    step, stop, model = stopped([0.5, 0.6, 0.55, 0.7, 0.8], patience=2)
    assert (step, stop.best, model.weight.item()) == (10, (10, 0.8), 10.0)


def test_a_gain_below_the_least_is_none() -> None:
    assert stopped([0.5, 0.505, 0.509, 0.9], patience=2, least=0.05)[0] == 6


def test_no_patience_is_refused() -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        StopOnHeldOut(lambda _: 0.0, patience=0)


def test_it_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    args: Any = SimpleNamespace(output_dir=str(tmp_path))
    model, control = torch.nn.Linear(1, 1, bias=False), TrainerControl()
    first = StopOnHeldOut(lambda _: 0.7, every=1, patience=2)
    with torch.no_grad():
        model.weight.fill_(5.0)
    (tmp_path / "checkpoint-1").mkdir()
    first.on_step_end(args, state(1), control, model=model)
    first.on_save(args, state(1), control)
    again = StopOnHeldOut(lambda _: 0.6, every=1, patience=2, checkpoint=tmp_path / "checkpoint-1")
    assert (again.best, again.is_over) == ((1, 0.7), False)
    for step in (2, 3):
        again.on_step_end(args, state(step), control, model=model.requires_grad_())
    assert control.should_training_stop
    with torch.no_grad():
        model.weight.fill_(9.0)
    again.on_train_end(args, state(3), control, model=model)
    assert model.weight.item() == 5.0
    (tmp_path / "checkpoint-3").mkdir()
    again.on_save(args, state(3), control)
    over = StopOnHeldOut(lambda _: 1.0, every=1, patience=2, checkpoint=tmp_path / "checkpoint-3")
    assert over.is_over
    over.on_step_end(args, state(4), control, model=model)
    assert over.best == (1, 0.7)  # what would come after the end is not looked at


STOP = {"every": 1, "patience": 2}
FIGURES = [0.5, 0.8, 0.6, 0.7, 0.9, 0.9]
"""The best before patience ends is the second."""


def settings(tmp_path: Path, model: Path, **changes: Any) -> Any:
    return rig.settings("reward", tmp_path, model, rows=24, eval_fraction=0.3, epochs=3, **changes)


def scripted(monkeypatch: pytest.MonkeyPatch, seen: list[dict[str, torch.Tensor]] | None = None) -> None:
    """Let measurements give the figures one after another, and keep the weights that each saw."""
    kept = [] if seen is None else seen

    def measured(model: Any, pairs: Any, *, heads: Any = ()) -> dict[str, float]:
        kept.append({name: weight.detach().clone() for name, weight in model.named_parameters()})
        return {"pairs": len(pairs), "accuracy": FIGURES[min(len(kept), 6) - 1], "loss": FIGURES[len(kept) - 1] - 1}

    monkeypatch.setattr(reward, "evaluate", measured)


def test_a_run_stops_and_saves_the_best_weights(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, torch.Tensor]] = []
    scripted(monkeypatch, seen)
    saved, logged = rig.train("reward", settings(tmp_path, tiny_model_dir, stop=STOP))
    assert len(logged) == 4  # of more: two without a new best, and then none
    result = json.loads((tmp_path / "out/result.json").read_text())
    assert result["stop"] == {"best": [2, 0.8], "measured": [[n + 1, value] for n, value in enumerate(FIGURES[:4])]}
    assert rig.largest_difference(saved, {name: seen[1][name] for name in saved}) == 0.0
    assert rig.largest_difference(saved, {name: seen[3][name] for name in saved}) > 0.0


def test_a_loss_is_better_when_it_falls(tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch)
    rig.train("reward", settings(tmp_path, tiny_model_dir, stop={**STOP, "metric": "loss"}))
    stop = json.loads((tmp_path / "out/result.json").read_text())["stop"]
    assert stop["best"] == [1, pytest.approx(0.5)]
    assert len(stop["measured"]) == 3


def test_a_run_that_was_cut_off_stops_as_one_that_was_not(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Cut(Exception):
        pass

    scripted(monkeypatch)
    whole, _ = rig.train("reward", settings(tmp_path / "a", tiny_model_dir, stop=STOP, save_every=1))
    seen: list[dict[str, torch.Tensor]] = []
    scripted(monkeypatch, seen)
    begin = StopOnHeldOut.on_step_end

    def cut(self: StopOnHeldOut, args: Any, state: TrainerState, *rest: Any, **more: Any) -> None:
        if state.global_step == 3:
            raise Cut
        begin(self, args, state, *rest, **more)

    config = settings(tmp_path / "b", tiny_model_dir, stop=STOP, save_every=1)
    with monkeypatch.context() as patched:
        patched.setattr(StopOnHeldOut, "on_step_end", cut)
        with pytest.raises(Cut):
            rig.train("reward", config)
    again, logged = rig.train("reward", config)
    assert [row["step"] for row in logged] == [1, 2, 3, 4]
    assert rig.largest_difference(whole, again) == 0.0
    results = [json.loads((tmp_path / name / "out/result.json").read_text())["stop"] for name in "ab"]
    assert results[0] == results[1]


def test_the_command_line_sets_it() -> None:
    words = ["data=[a.jsonl]", "out=x", "stop.patience=4", "stop.metric=loss"]
    stop = load_config(RewardConfig, None, words).stop
    assert stop is not None
    assert (stop.patience, stop.metric, stop.every) == (4, "loss", 10)
    with pytest.raises(InputError, match="nothing is held out to stop by; give 'eval_fraction' or 'eval_data'"):
        load_config(RewardConfig, None, [*words, "eval_fraction=0"])
    load_config(RewardConfig, None, [*words, "eval_fraction=0", "eval_data=[b.jsonl]"])


def test_an_empty_held_out_set_is_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    config = rig.settings("reward", tmp_path, tiny_model_dir, rows=4, eval_fraction=1e-9, stop=STOP)
    with pytest.raises(InputError, match="no prompt came to be held out"):
        rig.train("reward", config)
