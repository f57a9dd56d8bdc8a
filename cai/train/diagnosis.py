"""What goes wrong in training, read off its metrics and said in plain sentences.

A rule is a function of the logged steps (rows of metrics.jsonl) that returns a `Diagnosis` or None. Rules need at least
`LEAST` steps, and compare the last quarter of them with the first.
"""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

LEAST = 20
"""Steps below which nothing but a value that is not finite is told."""

COLLAPSE = 10.0
"""Nats per chosen answer that a policy may lose against its reference."""

Step = Mapping[str, float]


@dataclass(frozen=True)
class Diagnosis:
    """What is wrong, and what to try."""

    id: str
    problem: str
    fix: str

    def __str__(self) -> str:
        """Return both as sentences."""
        return f"{self.problem} {self.fix}"


def diagnose(history: Sequence[Step]) -> list[Diagnosis]:
    """Return what is wrong with a training by its logged steps, in the order of `RULES`; nothing for a sound one."""
    return [found for rule in RULES if (found := rule(history)) is not None]


def not_finite(history: Sequence[Step]) -> Diagnosis | None:
    """A loss, a gradient or another figure is NaN or infinite."""
    for number, step in enumerate(history, start=1):
        names = sorted(name for name, value in step.items() if not math.isfinite(value))
        if names:
            place = int(step.get("step", number))
            return Diagnosis(
                "not-finite",
                f"{', '.join(names)} is not finite at step {place}.",
                "Lower the learning rate or train in fp32; the trainer's message names the rows of that step.",
            )
    return None


def no_gradient(history: Sequence[Step]) -> Diagnosis | None:
    """Nothing is trained: the gradient is 0 at every step."""
    norms = [step["grad_norm"] for step in history if "grad_norm" in step]
    if len(norms) < LEAST or any(norms):
        return None
    return Diagnosis(
        "no-gradient",
        "The gradient is 0 at every step: no weight is trained.",
        "See whether weights are frozen, an adapter's target_modules match no layer, or all labels are one half.",
    )


def stuck_at_chance(history: Sequence[Step]) -> Diagnosis | None:
    """A loss over pairs stays at ln 2 with a margin of 0: both answers look alike to the model."""
    loss, margin = _last(history, "loss"), _last(history, "margin")
    if loss is None or margin is None or abs(loss - math.log(2)) > 0.01 or abs(margin) > 0.02:
        return None
    return Diagnosis(
        "stuck-at-chance",
        f"The loss ends at {loss:.3f}, a coin's (ln 2 = 0.693), with a margin of {margin:.3f}: nothing is learned.",
        "Raise the learning rate; look with `cai data inspect` at labels near one half and pairs labelled both ways.",
    )


def inverted(history: Sequence[Step]) -> Diagnosis | None:
    """The model ends by preferring what the labels reject."""
    accuracy, margin = _last(history, "accuracy"), _last(history, "margin")
    if accuracy is None or margin is None or accuracy >= 0.4:
        return None
    return Diagnosis(
        "inverted",
        f"The model ends by agreeing with {100 * accuracy:.0f} % of the labels, fewer than a coin.",
        "The labels contradict each other, or the learning rate is too high: lower it, and inspect the data.",
    )


def chosen_collapse(history: Sequence[Step]) -> Diagnosis | None:
    """The margin grows while chosen answers grow unlikely (Pal et al. 2024, arXiv 2402.13228)."""
    first, last, margin = _first(history, "chosen_drop"), _last(history, "chosen_drop"), _last(history, "margin")
    if first is None or last is None or margin is None or last < COLLAPSE or last < first + COLLAPSE / 2 or margin < 0:
        return None
    return Diagnosis(
        "chosen-collapse",
        f"Chosen answers have become less likely than under the reference by {last:.1f} nats each, while the margin "
        f"is {margin:.2f}: probability goes to answers that nobody saw.",
        "Lower the learning rate, raise beta, train fewer epochs, or take a loss with a likelihood term (ORPO).",
    )


def diverging(history: Sequence[Step]) -> Diagnosis | None:
    """The loss ends well above where it began."""
    first, last = _first(history, "loss"), _last(history, "loss")
    if first is None or last is None or last <= 1.2 * first + 0.05:
        return None
    return Diagnosis(
        "diverging",
        f"The loss rose from {first:.3f} to {last:.3f}.",
        "Lower the learning rate or make the warm-up longer.",
    )


RULES: tuple[Callable[[Sequence[Step]], Diagnosis | None], ...] = (
    not_finite,
    no_gradient,
    stuck_at_chance,
    inverted,
    chosen_collapse,
    diverging,
)


def _values(history: Sequence[Step], name: str) -> list[float]:
    return [step[name] for step in history if name in step and math.isfinite(step[name])]


def _first(history: Sequence[Step], name: str) -> float | None:
    values = _values(history, name)
    part = values[: len(values) // 4]
    return sum(part) / len(part) if len(values) >= LEAST else None


def _last(history: Sequence[Step], name: str) -> float | None:
    values = _values(history, name)
    part = values[-(len(values) // 4) :] if len(values) >= LEAST else []
    return sum(part) / len(part) if part else None


class DiagnosisCallback(TrainerCallback):
    """Says on stderr, at the end of a training, what went wrong in it."""

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Print the sentences, in the main process."""
        if state.is_world_process_zero:
            logged = [
                {name: float(value) for name, value in row.items() if isinstance(value, int | float)}
                for row in state.log_history
                if "loss" in row
            ]
            for found in diagnose(logged):
                print(f"{found.id}: {found}", file=sys.stderr)
