"""How much each vote should count, learned from pairs of which people said which answer is better.

A logistic regression without intercept on the votes' logits: turning a pair over turns its label over. No weight is
negative, so no principle can come to count against itself. Weights are drawn towards what one common weight would be,
the more the fewer pairs there are; how strongly is chosen by cross-validation, and the strongest choice is the plain
sum with a temperature.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.optimize import minimize, minimize_scalar

from cai.config import Config, load_config
from cai.errors import InputError, Problem
from cai.label.aggregate import logit
from cai.storage import atomic_write_json

FOLDS = 5
"""Parts of the pairs; each is told by weights that were fitted on the others."""

LEAST = 4 * FOLDS
"""Fewer pairs teach nothing."""

MOST = 10.0
"""No weight is larger: votes that tell all pairs apart would else get infinite ones."""

PENALTIES = (math.inf, 10.0, 1.0, 0.1, 0.01, 0.001)
"""On half the squared distance from the common weight, against the mean loss of a pair."""

Array = NDArray[np.float64]


class LearnedWeights(Config):
    """What votes count by their names; a label's logit is the weighted sum of its votes' logits.

    The figures are of pairs that the weights were not fitted on. They chose the penalty too, so they flatter a little.
    """

    weights: dict[str, Annotated[float, Field(ge=0, le=MOST)]]
    common: float = Field(ge=0, le=MOST)
    """What a vote counts that was not among those learned from, and what all would count alike."""
    pairs: int
    folded: bool
    """Whether the common weight alone was best, so that nothing was learned but a temperature."""
    accuracy: float
    """Share of pairs told right; one without a vote is half right."""
    accuracy_common: float
    nll: float
    """Mean negative log-likelihood in nats; ln 2 is a coin's."""
    nll_common: float

    def of(self, name: str) -> float:
        """Return what a vote counts."""
        return self.weights.get(name, self.common)

    def save(self, path: Path) -> None:
        """Write them to a JSON file."""
        atomic_write_json(path, self.to_plain())


def load_weights(path: Path) -> LearnedWeights:
    """Read weights that were saved; raises InputError."""
    return load_config(LearnedWeights, path)


def learn_weights(votes: Sequence[Mapping[str, float | None]]) -> LearnedWeights:
    """Learn from votes on pairs: by name, the probability that each gave to the better answer; None is no vote.

    `cai.judges.audit.Judgement.principles` has them. Raises InputError for fewer than `LEAST` pairs with a vote.
    """
    names = sorted({name for pair in votes for name in pair})
    table = np.asarray([[_evidence(pair.get(name)) for name in names] for pair in votes], dtype=float)
    table = table.reshape(len(votes), len(names))
    heard = int(np.any(table != 0, axis=1).sum())
    if heard < LEAST:
        fix = f"give at least {LEAST} that people labelled and the judge votes on"
        raise InputError(Problem("pairs", 0, 0, f"{heard} pairs are too few to learn weights from", fix))
    told = {penalty: _told_unseen(table, penalty) for penalty in PENALTIES}
    # The first of equals: the strongest penalty.
    best = min(PENALTIES, key=lambda penalty: _loss(told[penalty]))
    weights = _fit(table, best)
    return LearnedWeights(
        weights=dict(zip(names, map(float, weights), strict=True)),
        common=_common(table),
        pairs=len(votes),
        folded=math.isinf(best),
        accuracy=_accuracy(told[best]),
        accuracy_common=_accuracy(told[math.inf]),
        nll=_loss(told[best]),
        nll_common=_loss(told[math.inf]),
    )


def _evidence(prob: float | None) -> float:
    """Return a vote's logit; an abstention is none either way."""
    return 0.0 if prob is None else logit(prob)


def _told_unseen(table: Array, penalty: float) -> Array:
    """Return the logit of the better answer of each pair by weights fitted on the other folds."""
    fold = np.arange(len(table)) % FOLDS
    told = np.empty(len(table))
    for number in range(FOLDS):
        told[fold == number] = table[fold == number] @ _fit(table[fold != number], penalty)
    return told


def _fit(table: Array, penalty: float) -> Array:
    common = np.full(table.shape[1], _common(table))
    if math.isinf(penalty):
        return common

    def loss(weights: Array) -> tuple[float, Array]:
        logits = table @ weights
        away = weights - common
        slope = -np.exp(-np.logaddexp(0, logits)) @ table / len(table)
        return _loss(logits) + penalty / 2 * float(away @ away), slope + penalty * away

    bounds = [(0.0, MOST)] * table.shape[1]
    found = minimize(loss, common, jac=True, method="L-BFGS-B", bounds=bounds)
    weights: Array = np.clip(found.x, 0.0, MOST)
    return weights


def _common(table: Array) -> float:
    """Return the one weight for all votes that tells the pairs best."""
    sums = table.sum(axis=1)
    if sums.mean() <= 0:
        return 0.0  # no better than chance: the loss only grows with a first bit of weight
    found = minimize_scalar(lambda weight: _loss(weight * sums), bounds=(0.0, MOST), method="bounded")
    return float(found.x)


def _loss(logits: Array) -> float:
    return float(np.logaddexp(0, -logits).mean())


def _accuracy(logits: Array) -> float:
    return float(((logits > 0) + 0.5 * (logits == 0)).mean())
