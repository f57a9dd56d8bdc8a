"""What a step's rollouts say: readings for metrics.jsonl, and answers to look at for samples.jsonl.

Nothing here changes the training. All readings are over the whole step, of all processes together.
"""

import resource
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter

import torch
from accelerate import Accelerator

from cai.losses.logprobs import masked_mean, masked_moments, masked_sum
from cai.train.ppo.batch import Batch, Sample
from cai.train.ppo.config import PPOConfig

NGRAM = 4
"""Tokens in a row that count as a repetition."""


class Clock:
    """Seconds by phase."""

    def __init__(self) -> None:
        """Start with no phase."""
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the block's time as a phase's."""
        start = perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + perf_counter() - start

    def readings(self, tokens: int) -> dict[str, float]:
        """Return seconds by phase and in all, and how many tokens of answers that makes per second."""
        total = sum(self.seconds.values())
        by_phase = {f"seconds_{name}": seconds for name, seconds in self.seconds.items()}
        return {**by_phase, "seconds": total, "tokens_per_s": tokens / total if total else 0.0}


def readings(batch: Batch, config: PPOConfig, *, asked: int, kl_coefficient: float) -> dict[str, float]:
    """Return the metrics of a batch; `asked` is how many answers the step should have had."""
    lengths = batch.mask_BT.sum(1)
    errors = masked_moments(batch.returns_BT - batch.values_BT, batch.mask_BT).variance
    spread = masked_moments(batch.returns_BT, batch.mask_BT).variance
    found = {
        **score_readings(batch.samples),
        "score_std": float(batch.scores_B.std(unbiased=False)),
        "reward": float(batch.rewards_BT.sum(1).mean()),
        "kl": batch.kl_per_answer,
        "kl_coefficient": kl_coefficient,
        # The mean surprise at its own draws estimates a policy's entropy without bias, and costs nothing.
        "entropy": -float(masked_mean(batch.logprobs_BT, batch.mask_BT)),
        "explained_variance": float(1 - errors / spread) if float(spread) > 0 else 0.0,
        "value_mean": float(masked_mean(batch.values_BT, batch.mask_BT)),
        "length": float(lengths.float().mean()),
        "cut_off": sum(sample.cut_off for sample in batch.samples) / len(batch.samples),
        "repetition": sum(repetition(sample.answer_ids) for sample in batch.samples) / len(batch.samples),
        "dropped": asked - len(batch.samples),
    }
    if config.temperature == 1:
        found["sampling_gap"] = sampling_gap(batch)
    return found


def score_readings(samples: Sequence[Sample]) -> dict[str, float]:
    """Return the mean score, and the mean of each reward by its name where there is more than one."""
    scores = [sample.score for sample in samples if sample.score is not None]
    found = {"score": sum(scores) / len(scores)}
    names = dict.fromkeys(name for sample in samples for name in sample.parts)
    for name in names if len(names) > 1 else ():
        given = [sample.parts[name] for sample in samples if name in sample.parts]
        found[f"reward_{name}"] = sum(given) / len(given)
    return found


def repetition(ids: Sequence[int]) -> float:
    """Return the share of runs of four tokens that came before in the same answer.

    >>> repetition([1, 2, 3, 4, 5]), repetition([1, 1, 1, 1, 1, 1])
    (0.0, 0.6666666666666667)
    """
    runs = [tuple(ids[at : at + NGRAM]) for at in range(len(ids) - NGRAM + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def sampling_gap(batch: Batch) -> float:
    """Return how far the engine's log-probabilities are from the training's, in nats per token, mean size."""
    gaps = [
        (torch.tensor(sample.sampled_logprobs) - row_T[: len(sample.sampled_logprobs)]).abs().sum()
        for sample, row_T in zip(batch.samples, batch.logprobs_BT, strict=True)
    ]
    return float(torch.stack(gaps).sum() / batch.mask_BT.sum())


def shown_samples(batch: Batch, count: int) -> list[dict[str, str | float]]:
    """Return answers to look at: best, worst, the one whose likelihood changed most, and the first of the rest.

    `change` is log policy - log reference of the whole answer, in nats.
    """
    change_B = masked_sum(batch.logprobs_BT - batch.ref_logprobs_BT, batch.mask_BT, dim=1)
    rows = range(len(batch.samples))
    by_score = sorted(rows, key=lambda row: (-(batch.samples[row].score or 0.0), row))
    order = {by_score[0]: "best"}
    order.setdefault(by_score[-1], "worst")
    left = [row for row in rows if row not in order]
    if left:
        order[max(left, key=lambda row: (abs(float(change_B[row])), -row))] = "changed most"
    for row in rows:
        order.setdefault(row, "")
    return [
        {
            "shown_as": why,
            "prompt": batch.samples[row].prompt[-1].content,
            "answer": batch.samples[row].answer,
            "score": batch.samples[row].score or 0.0,
            "change": round(float(change_B[row]), 4),
            **{f"reward_{name}": value for name, value in batch.samples[row].parts.items()},
        }
        for row, why in list(order.items())[:count]
    ]


def log_table(accelerator: Accelerator, rows: Sequence[dict[str, str | float]], *, step: int) -> None:
    """Give the answers to trackers that show tables; others have samples.jsonl."""
    columns = list(rows[0]) if rows else []
    for tracker in accelerator.trackers:
        if hasattr(tracker, "log_table"):
            data = [[row.get(name) for name in columns] for row in rows]
            tracker.log_table("samples", columns=columns, data=data, step=step)


def peak_memory_mb() -> int:
    """Return the most memory that this process has held, in MB (on a GPU: of the GPU's)."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() >> 20
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used >> (20 if sys.platform == "darwin" else 10)
