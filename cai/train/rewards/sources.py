"""Where rewards come from: preference models, ensembles of them, programs' rules, Python functions, servers."""

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch

from cai.constitution.checkers import find_checker
from cai.errors import InputError, Problem
from cai.train.rewards.config import (
    CheckerReward,
    EnsembleReward,
    Entry,
    FunctionReward,
    HttpReward,
    ModelReward,
    folders_of,
    names_of,
)
from cai.train.rewards.http import Asker
from cai.train.rewards.sum import Part, RewardFunction, Rewards
from cai.types import Dialogue


def check_sources(entries: Sequence[Entry]) -> None:
    """Raise InputError, before any model is loaded, for a folder or a function that isn't there."""
    from cai.engines.embedded import resolve_model

    for folder in folders_of(entries):
        resolve_model(str(folder))
    for entry in entries:
        if isinstance(entry, FunctionReward):
            find_function(entry.function)


def build_rewards(entries: Sequence[Entry], device: torch.device) -> Rewards:
    """Return the sum of the entries, its models on a device."""
    return Rewards(
        [
            Part(name, entry.weight, _build(entry, device))
            for name, entry in zip(names_of(entries), entries, strict=True)
        ]
    )


def _build(entry: Entry, device: torch.device) -> RewardFunction:
    match entry:
        case ModelReward():
            return preference_reward(entry.path, device, dtype=entry.dtype)
        case EnsembleReward():
            return Ensemble(entry, [preference_reward(path, device, dtype=entry.dtype) for path in entry.paths])
        case CheckerReward():
            return checker_reward(entry.rule)
        case FunctionReward():
            return find_function(entry.function)
        case HttpReward():
            return Asker(entry)
    raise TypeError(f"no reward is made of {type(entry).__name__}")


def preference_reward(folder: Path, device: torch.device, *, dtype: str = "float32") -> RewardFunction:
    """Return the reward of a preference model in a folder."""
    from cai.judges.preference_model import PreferenceModel
    from cai.train.readout import packs, row_scores

    model = PreferenceModel.load(str(folder), dtype="bfloat16" if dtype == "bfloat16" else "float32")
    if packs(model.model.to(device)):
        model.read = row_scores

    def reward(prompts: Sequence[Dialogue], answers: Sequence[str]) -> Sequence[float | None]:
        return model.score(list(zip(prompts, answers, strict=True)))

    return reward


class Ensemble:
    """Several rewards as one, by their mean, their minimum, or their mean less some standard deviations."""

    def __init__(self, entry: EnsembleReward, members: Sequence[RewardFunction]) -> None:
        """Combine the members as the entry says."""
        self._entry, self._members = entry, members

    def __call__(self, prompts: Sequence[Dialogue], answers: Sequence[str]) -> Sequence[float | None]:
        """Return a score for each answer; None where a member has none."""
        rows = zip(*(member(prompts, answers) for member in self._members), strict=True)
        return [self._combine([value for value in row if value is not None]) for row in rows]

    def _combine(self, scores: Sequence[float]) -> float | None:
        if len(scores) < len(self._members):
            return None
        if self._entry.combine == "min":
            return min(scores)
        mean = sum(scores) / len(scores)
        if self._entry.combine == "mean":
            return mean
        variance = sum((score - mean) ** 2 for score in scores) / len(scores)
        return mean - self._entry.k * float(variance**0.5)


def checker_reward(rule: str) -> RewardFunction:
    """Return 1 for answers that keep a rule and 0 for others; None where the rule can't tell."""
    check = find_checker(rule)

    def reward(prompts: Sequence[Dialogue], answers: Sequence[str]) -> Sequence[float | None]:
        return [None if (kept := check(answer)) is None else float(kept) for answer in answers]

    return reward


def find_function(name: str) -> RewardFunction:
    """Return the function of ``module:function``; raises InputError where there is none."""
    module, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path:  # a recipe's first place is its own folder
        sys.path.append(os.getcwd())
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, SyntaxError) as error:
        problem = f"no function {name!r}: {error}"
        raise InputError(Problem("rewards", 0, 0, problem, "name it as module:function")) from error
    if not callable(found):
        raise InputError(Problem("rewards", 0, 0, f"{name!r} is no function", "name one of (prompts, answers)"))
    return cast(RewardFunction, found)
