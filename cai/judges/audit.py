"""How far a judge can be trusted: its verdicts on pairs of which people said which answer is better.

Every pair is shown with the better answer first or second by a fair coin of its id, so a judge that likes a place gains
nothing. Abstentions are counted, and are neither right nor wrong.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.stats import spearmanr

from cai.constitution import Constitution, Principle, draw_distinct
from cai.judges.base import Comparison, Judge, Verdict
from cai.judges.pairwise import sigmoid
from cai.records.pairs import LabelledPair
from cai.stats import wilson
from cai.storage import seed_from

BINS = 10
"""Equal parts of [0, 1] that a reliability diagram has."""

FOLDS = 5
"""Parts of the data for which a temperature is fitted on the others."""

Array = NDArray[np.float64]

_EDGE = 1e-6


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """One pair, judged: `prob` is the probability given to the answer that people prefer, None for an abstention."""

    id: str
    source: str
    prob: float | None
    flipped: bool | None
    """Whether the two orders disagree; None where the judge asks in one only."""
    longer_won: bool | None
    """Whether the vote went to the longer answer; None for an abstention or equal lengths."""
    longer_better: bool | None
    """Whether people prefer the longer answer."""
    principles: tuple[tuple[str, float | None], ...]
    """The same probability by principle; nothing for a judge that looks at the constitution as a whole."""
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Bin:
    """One part of the reliability diagram: how sure the judge was, and how often it was right."""

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class Audit:
    """A judge on a set of pairs; shares are of votes unless they say otherwise.

    `brier` and `ece` are of the probability given to the winner of each vote's own side (0.5 to 1 for a certain vote),
    and `*_scaled` are the same after dividing logits by a temperature fitted on the other folds.
    """

    judge: str
    model: str
    constitution: str
    pairs: int
    abstained: int
    accuracy: float
    interval: tuple[float, float]
    brier: float
    ece: float
    nll: float
    temperature: float
    brier_scaled: float
    ece_scaled: float
    nll_scaled: float
    flip_rate: float | None
    longer_share: float | None
    """How often the longer answer won; compare with `longer_better`."""
    longer_better: float | None
    length_correlation: float | None
    """Spearman's correlation of the logit with the difference in length."""
    by_principle: dict[str, tuple[int, float]]
    """Votes, and the share that agrees with people."""
    by_source: dict[str, tuple[int, float]]
    bins: tuple[Bin, ...]
    reasons: dict[str, int]
    """Abstentions by reason."""


def judge_pairs(
    judge: Judge,
    constitution: Constitution,
    pairs: Sequence[LabelledPair],
    *,
    principles_per_pair: int = 1,
    tags: tuple[str, ...] = (),
    seed: int = 0,
) -> Iterator[Judgement]:
    """Yield a judgement per pair, in their order, by principles with one of the tags (none: any).

    A judge that looks at the whole constitution is asked once.
    """
    count = principles_per_pair if judge.by_principle else 1
    drawn = {
        pair.id: draw_distinct(constitution, seed_from(seed, "audit", pair.id), count, tags=tags) for pair in pairs
    }

    def comparisons() -> Iterator[Comparison]:
        for pair in pairs:
            first, second = (pair.chosen, pair.rejected) if better_first(pair) else (pair.rejected, pair.chosen)
            for principle in drawn[pair.id]:
                yield Comparison(
                    id=f"{pair.id}/{principle.id}",
                    prompt=pair.prompt,
                    response_a=first,
                    response_b=second,
                    principle=principle,
                )

    waiting: dict[str, dict[str, Verdict]] = {pair.id: {} for pair in pairs}
    by_id = {pair.id: pair for pair in pairs}
    for verdict in judge.compare(comparisons()):
        key, _, principle = verdict.id.partition("/")
        waiting[key][principle] = verdict
        if len(waiting[key]) == len(drawn[key]):
            yield _judgement(by_id[key], drawn[key], waiting.pop(key), by_principle=judge.by_principle)


def better_first(pair: LabelledPair) -> bool:
    """Tell whether a pair's better answer is shown first: a fair coin that the pair itself decides."""
    return seed_from(pair.id, "side") % 2 == 0


def _judgement(
    pair: LabelledPair, principles: Sequence[Principle], verdicts: dict[str, Verdict], *, by_principle: bool
) -> Judgement:
    first = better_first(pair)
    probs = [(principle.id, _for_better(verdicts[principle.id].prob_a, better_first=first)) for principle in principles]
    votes = [prob for _, prob in probs if prob is not None]
    prob = sigmoid(sum(map(logit, votes)) / len(votes)) if votes else None
    prob = None if prob == 0.5 else prob
    orders = [verdict.prob_a_by_order for verdict in verdicts.values() if len(verdict.prob_a_by_order) == 2]
    longer = len(pair.chosen) - len(pair.rejected)
    return Judgement(
        id=pair.id,
        source=pair.source,
        prob=prob,
        flipped=any((one - 0.5) * (other - 0.5) < 0 for one, other in orders) if orders else None,
        longer_won=None if prob is None or not longer else (prob > 0.5) == (longer > 0),
        longer_better=longer > 0 if longer else None,
        principles=tuple(probs) if by_principle else (),
        reason="" if prob is not None else next((v.reason for v in verdicts.values() if v.reason), "tie"),
    )


def _for_better(prob_a: float | None, *, better_first: bool) -> float | None:
    return prob_a if prob_a is None or better_first else 1 - prob_a


def logit(prob: float) -> float:
    """Return the log-odds of a probability, kept finite."""
    kept = min(max(prob, _EDGE), 1 - _EDGE)
    return math.log(kept / (1 - kept))


def audit(
    judgements: Iterable[Judgement], pairs: Sequence[LabelledPair], *, judge: str, model: str, constitution: str
) -> Audit:
    """Return the figures of a judge's judgements on pairs."""
    found = list(judgements)
    votes = [item for item in found if item.prob is not None]
    probs = np.asarray([item.prob for item in votes], dtype=float)
    right = probs > 0.5
    temperature = fit_temperature(probs)
    scaled = cross_scaled(probs)
    gaps = {pair.id: len(pair.chosen) - len(pair.rejected) for pair in pairs}
    uneven = [item for item in votes if item.longer_won is not None]
    flips = [item.flipped for item in found if item.flipped is not None]
    signs = np.asarray([1 if gaps[item.id] > 0 else -1 for item in uneven], dtype=float)
    # Seen from the longer answer: its logit against by how much it is longer.
    towards = [sign * logit(item.prob or 0.5) for sign, item in zip(signs, uneven, strict=True)]
    lengths = [abs(gaps[item.id]) for item in uneven]
    return Audit(
        judge=judge,
        model=model,
        constitution=constitution,
        pairs=len(found),
        abstained=len(found) - len(votes),
        accuracy=float(right.mean()) if len(votes) else 0.5,
        interval=wilson(float(right.sum()), len(votes)),
        brier=brier(probs),
        ece=ece(probs),
        nll=nll(probs),
        temperature=temperature,
        brier_scaled=brier(scaled),
        ece_scaled=ece(scaled),
        nll_scaled=nll(scaled),
        flip_rate=sum(flips) / len(flips) if flips else None,
        longer_share=_mean([bool(item.longer_won) for item in uneven]),
        longer_better=_mean([bool(item.longer_better) for item in uneven]),
        length_correlation=_correlation(lengths, towards),
        by_principle=_by_principle(found),
        by_source=_shares((item.source, item.prob) for item in votes),
        bins=tuple(reliability(probs)),
        reasons=_counts(item.reason for item in found if item.prob is None),
    )


def brier(probs: Array) -> float:
    """Return the mean squared distance of the better answer's probability from 1; 0.25 is a coin's."""
    return float(((1 - probs) ** 2).mean()) if len(probs) else 0.25


def nll(probs: Array) -> float:
    """Return the mean negative log-likelihood in nats; ln 2 is a coin's."""
    return float(-np.log(np.clip(probs, _EDGE, 1)).mean()) if len(probs) else math.log(2)


def reliability(probs: Array) -> Iterator[Bin]:
    """Yield the bins of the reliability diagram, of the side that each vote went to; empty ones are left out."""
    confidence, right = np.maximum(probs, 1 - probs), probs > 0.5
    for number in range(BINS // 2, BINS):
        low, high = number / BINS, (number + 1) / BINS
        inside = (confidence >= low) & ((confidence < high) | ((number == BINS - 1) & (confidence <= 1)))
        if inside.any():
            yield Bin(
                low=low,
                high=high,
                n=int(inside.sum()),
                confidence=float(confidence[inside].mean()),
                accuracy=float(right[inside].mean()),
            )


def ece(probs: Array) -> float:
    """Return the expected calibration error: the mean distance of confidence from accuracy, weighted by bin size."""
    return sum(part.n / len(probs) * abs(part.confidence - part.accuracy) for part in reliability(probs))


def fit_temperature(probs: Array) -> float:
    """Return what logits are best divided by (least negative log-likelihood; Guo et al. 2017), from 0.05 to 20.

    A judge that is no better than chance gets the largest: its labels should be near one half.
    """
    if not len(probs):
        return 1.0
    logits = np.asarray([logit(prob) for prob in probs])
    fitted = minimize_scalar(
        lambda log_t: float(np.logaddexp(0, -logits / math.exp(log_t)).mean()),
        bounds=(math.log(0.05), math.log(20)),
        method="bounded",
    )
    return math.exp(float(fitted.x))


def cross_scaled(
    probs: Array,
) -> Array:
    """Return probabilities scaled by a temperature that was fitted without them, fold by fold."""
    if len(probs) < 2 * FOLDS:
        return probs
    scaled = np.empty_like(probs)
    fold = np.arange(len(probs)) % FOLDS
    for number in range(FOLDS):
        temperature = fit_temperature(probs[fold != number])
        scaled[fold == number] = [sigmoid(logit(prob) / temperature) for prob in probs[fold == number]]
    return scaled


def krippendorff_alpha(votes: Sequence[Sequence[bool | None]]) -> float | None:
    """Return Krippendorff's alpha (nominal) of judges by pairs; None is no vote, and None comes back for no pairs.

    `votes[judge][pair]`; 1 is full agreement, 0 what chance gives. (Krippendorff 2011, Computing alpha-reliability.)
    """
    coincidence = np.zeros((2, 2))
    for column in zip(*votes, strict=True):
        given = [int(vote) for vote in column if vote is not None]
        if len(given) < 2:
            continue
        counts = np.bincount(given, minlength=2).astype(float)
        coincidence += (np.outer(counts, counts) - np.diag(counts)) / (len(given) - 1)
    total = coincidence.sum()
    if total == 0:
        return None
    sides = coincidence.sum(axis=1)
    expected = 2 * sides[0] * sides[1] / (total - 1)
    return 1.0 if expected == 0 else float(1 - 2 * coincidence[0, 1] / expected)


def _mean(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None


def _correlation(one: Sequence[float], other: Sequence[float]) -> float | None:
    if len(one) < 3 or len(set(one)) < 2 or len(set(other)) < 2:
        return None
    return float(spearmanr(one, other).statistic)


def _by_principle(found: Sequence[Judgement]) -> dict[str, tuple[int, float]]:
    return _shares((key, prob) for item in found for key, prob in item.principles if prob is not None)


def _shares(probs: Iterable[tuple[str, float | None]]) -> dict[str, tuple[int, float]]:
    grouped: dict[str, list[bool]] = {}
    for key, prob in probs:
        if prob is not None:
            grouped.setdefault(key, []).append(prob > 0.5)
    return {key: (len(own), sum(own) / len(own)) for key, own in sorted(grouped.items())}


def _counts(reasons: Iterable[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for reason in reasons:
        found[reason] = found.get(reason, 0) + 1
    return dict(sorted(found.items()))
