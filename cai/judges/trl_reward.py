"""Scores as a reward function of TRL's GRPO and RLOO trainers.

GRPOTrainer(model, reward_funcs=TRLReward(PreferenceModel.load("runs/reward/model")), ...)
"""

from collections.abc import Sequence
from typing import Any, Protocol

from cai.records.loaders import dialogue_of
from cai.types import Dialogue


class Scores(Protocol):
    """A preference model, an ensemble of them, or what else scores answers."""

    def score(self, answers: Sequence[tuple[Dialogue, str]]) -> Sequence[float | None]:
        """Return a score per (dialogue, answer), in their order; None for an answer that is to be left out."""
        ...


class TRLReward:
    """Scores what a TRL trainer has sampled: the raw score of the answer, at its end of turn."""

    def __init__(self, model: Scores, *, name: str = "preference_model") -> None:
        """Score with a model; `name` is what TRL's metrics call it.

        Raises InputError for a preference model that judges by a principle and was loaded without one.
        """
        self._model, self.__name__ = model, name
        model.score([])  # what is missing is said here, and not in the first step

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **_: Any) -> list[float | None]:
        """Return one reward per completion; what else the trainer gives is not looked at.

        Prompts are lists of messages, or texts, which are read as one turn of a person (or as an hh-rlhf transcript).
        Completions are lists of messages that end with the assistant, or texts. Raises ValueError for others.
        """
        return [*self._model.score([_row(*each) for each in zip(prompts, completions, strict=True)])]


def _row(prompt: Any, completion: Any) -> tuple[Dialogue, str]:
    if isinstance(completion, str):
        return dialogue_of(prompt), completion
    *before, last = completion
    if last["role"] != "assistant" or not isinstance(last.get("content"), str):
        raise ValueError("a completion does not end with a text of the assistant's; score such rollouts another way")
    return dialogue_of([*prompt, *before]), last["content"]
