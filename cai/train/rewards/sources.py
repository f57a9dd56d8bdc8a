"""Where rewards come from: preference models, ensembles of them, programs' rules, Python functions, servers."""

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, cast

import torch

from cai.constitution.checkers import find_checker
from cai.engines.embedded import is_adapter, model_digest, resolve_model
from cai.errors import InputError, Problem
from cai.judges.preference_model import PreferenceModel, check_asked
from cai.train.made_under import base_of
from cai.train.readout import packs, row_scores
from cai.train.rewards.config import (
    Asked,
    CheckerReward,
    EnsembleReward,
    Entry,
    FunctionReward,
    HttpReward,
    ModelReward,
    ScoredEntry,
    names_of,
)
from cai.train.rewards.http import Asker
from cai.train.rewards.sum import Part, RewardFunction, Rewards
from cai.types import Dialogue

Hold = Callable[[Path], PreferenceModel]
"""Gives the preference model of an adapter's folder, over a base that is loaded already."""


def check_sources(entries: Sequence[Entry], *, base: str | None = None) -> None:
    """Raise InputError, before any model is loaded, for what can't be asked.

    That is a folder or a function that isn't there, a preference model whose head or principle is missing, or is none
    of its own, and an adapter over another model than `base`, the frozen one that adapters can be held over, if any.
    """
    problems: list[Problem] = []
    for entry in entries:
        if isinstance(entry, FunctionReward):
            find_function(entry.function)
        for asked in entry.asked if isinstance(entry, ScoredEntry) else ():
            try:
                _check(asked, base)
            except InputError as error:
                problems += error.problems
    if problems:
        raise InputError(dict.fromkeys(problems))


def _check(asked: Asked, base: str | None) -> None:
    folder, adapter = str(asked.path), is_adapter(asked.path)
    merged = f"name the merged model ({asked.path.parent / 'model'})"
    if adapter and base is None:
        problem = "this is an adapter, which only PPO reads, with 'lora' and with weights that are not cut into pieces"
        raise InputError(Problem(folder, 0, 0, problem, merged))
    if adapter and base is not None and base_of(asked.path) != model_digest(resolve_model(base)):
        problem = f"this adapter was trained over another model than the policy's, {base}"
        raise InputError(Problem(folder, 0, 0, problem, merged))
    mark = check_asked(folder, head=asked.head, principle=asked.principle, adapter=adapter)
    if mark.wording and asked.principle is None:
        fix = "give its entry of 'rewards' a 'principle', the text that all answers are judged by"
        raise InputError(Problem(folder, 0, 0, "this preference model judges by a principle", fix))


def build_rewards(entries: Sequence[Entry], device: torch.device, *, hold: Hold | None = None) -> Rewards:
    """Return the sum of the entries, its models on a device; `hold` gives those that are adapters."""
    models = Models(device, hold)
    return Rewards(
        [
            Part(name, entry.weight, _build(entry, models))
            for name, entry in zip(names_of(entries), entries, strict=True)
        ]
    )


def _build(entry: Entry, models: "Models") -> RewardFunction:
    match entry:
        case ModelReward():
            return models.reward(entry.asked[0], entry.dtype)
        case EnsembleReward():
            return Ensemble(entry, [models.reward(asked, entry.dtype) for asked in entry.asked])
        case CheckerReward():
            return checker_reward(entry.rule)
        case FunctionReward():
            return find_function(entry.function)
        case HttpReward():
            return Asker(entry)
    raise TypeError(f"no reward is made of {type(entry).__name__}")


class Models:
    """The preference models of a sum of rewards: a folder is loaded once, however many of its heads are read."""

    def __init__(self, device: torch.device, hold: Hold | None = None) -> None:
        """Load onto a device, or have an adapter held over a model that is there."""
        self._device, self._hold = device, hold
        self._loaded: dict[tuple[Path, str], PreferenceModel] = {}

    def reward(self, asked: Asked, dtype: Literal["float32", "bfloat16"]) -> RewardFunction:
        """Return the reward of a preference model."""
        folder, head, principle = asked
        found = self._loaded.get((folder, dtype))
        if found is None:
            found = self._held(folder) if is_adapter(folder) else self._load(asked, dtype)
            self._loaded[folder, dtype] = found
        model = found.at(head, principle=principle)

        def reward(prompts: Sequence[Dialogue], answers: Sequence[str]) -> Sequence[float | None]:
            return model.score(list(zip(prompts, answers, strict=True)))

        return reward

    def _load(self, asked: Asked, dtype: Literal["float32", "bfloat16"]) -> PreferenceModel:
        folder, head, principle = str(asked.path), asked.head, asked.principle
        found = PreferenceModel.load(folder, head=head, principle=principle, dtype=dtype, device=str(self._device))
        if packs(found.model):
            found.read = row_scores
        return found

    def _held(self, folder: Path) -> PreferenceModel:
        assert self._hold is not None  # `check_sources` has refused it else
        return self._hold(folder)


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
