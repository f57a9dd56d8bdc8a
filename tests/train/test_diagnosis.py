"""Each rule with a history that it must tell of and one that it must not."""

import math
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from cai.train.diagnosis import LEAST, RULES, DiagnosisCallback, diagnose

STEPS = 40


def history(**columns: Any) -> list[dict[str, float]]:
    """Steps whose figures go in a line from the first value to the last."""

    def at(ends: Any, number: int) -> float:
        first, last = ends if isinstance(ends, tuple) else (ends, ends)
        return float(first + (last - first) * number / (STEPS - 1))

    return [{"step": n + 1, **{name: at(ends, n) for name, ends in columns.items()}} for n in range(STEPS)]


SOUND = {
    "loss": (0.69, 0.4),
    "margin": (0.0, 1.5),
    "accuracy": (0.5, 0.9),
    "grad_norm": (2.0, 0.5),
    "chosen_drop": (0.0, 2.0),
}
ILL: dict[str, dict[str, Any]] = {
    "no-gradient": {"grad_norm": 0.0},
    "stuck-at-chance": {"loss": 0.694, "margin": 0.001, "accuracy": 0.5},
    "inverted": {"loss": (0.69, 0.75), "margin": (0.0, -0.5), "accuracy": (0.5, 0.1)},
    "chosen-collapse": {"chosen_drop": (0.0, 60.0)},
    "diverging": {"loss": (0.7, 3.0)},
}


def test_a_sound_training_is_left_in_peace() -> None:
    assert diagnose(history(**SOUND)) == []
    assert diagnose([]) == []


@pytest.mark.parametrize("name", ILL)
def test_each_rule_tells_of_its_own_and_no_other_does(name: str) -> None:
    (found,) = diagnose(history(**{**SOUND, **ILL[name]}))
    assert found.id == name
    assert str(found) == f"{found.problem} {found.fix}"
    short = history(**{**SOUND, **ILL[name]})[: LEAST - 1]
    assert diagnose(short) == []


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_not_finite_is_told_at_once_with_its_step(value: float) -> None:
    found = diagnose([{"step": 7, "loss": 0.5, "grad_norm": 1.0}, {"step": 8, "loss": value, "grad_norm": value}])
    assert [each.id for each in found] == ["not-finite"]
    assert found[0].problem == "grad_norm, loss is not finite at step 8."


def test_every_rule_is_tried_here() -> None:
    assert len(RULES) == len(ILL) + 1


def test_chosen_answers_that_were_unlikely_from_the_start_have_not_collapsed() -> None:
    assert diagnose(history(**{**SOUND, "chosen_drop": 30.0})) == []


def state(step: int = 0, **more: Any) -> TrainerState:
    return TrainerState(global_step=step, is_world_process_zero=True, **more)


def test_the_callback_says_it_on_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    logged = [{**step, "epoch": 1.0} for step in history(**{**SOUND, **ILL["diverging"]})]
    DiagnosisCallback().on_train_end(args, state(log_history=[*logged, {"train_runtime": 3.0}]), TrainerControl())
    said = capsys.readouterr().err
    assert said.startswith("diverging: The loss rose from ")
    DiagnosisCallback().on_train_end(args, state(log_history=history(**SOUND)), TrainerControl())
    assert capsys.readouterr().err == ""
