from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from accelerate import Accelerator

from cai.train.ppo.config import PPOConfig
from cai.train.ppo.monitor import (
    Clock,
    log_table,
    peak_memory_mb,
    readings,
    repetition,
    sampling_gap,
    score_readings,
    shown_samples,
)
from tests.train.ppo.rig import batch_of, sample

CONFIG = PPOConfig(out=Path("out"), prompts=[Path("p.jsonl")], kl_coefficient=0.5, lam=1.0)


def test_readings_by_hand() -> None:
    samples = [
        sample(0, [5], [1, 2], score=1.0, cut_off=True, sampled_logprobs=(-1.0, -2.0)),
        sample(1, [5], [3], score=3.0, sampled_logprobs=(-1.0,)),
    ]
    logprobs_BT = torch.tensor([[-1.0, -2.0], [-3.0, 0.0]])
    ref_logprobs_BT = torch.tensor([[-2.0, -2.0], [-3.0, 0.0]])
    batch = batch_of(samples, CONFIG, logprobs_BT=logprobs_BT, ref_logprobs_BT=ref_logprobs_BT)
    found = readings(batch, CONFIG, asked=3, kl_coefficient=0.5)
    assert found["score"] == 2.0
    assert found["score_std"] == 1.0
    # The first row pays half a nat; k3 of log r = -1 is e^-1 - 1 + 1.
    assert found["reward"] == pytest.approx((0.5 + 3.0) / 2)
    assert found["kl"] == pytest.approx(0.367879 / 2, abs=1e-5)
    assert found["entropy"] == pytest.approx(2.0)
    assert found["length"] == 1.5
    assert found["cut_off"] == 0.5
    assert found["dropped"] == 1
    assert found["sampling_gap"] == pytest.approx(2 / 3)
    assert found["explained_variance"] == 0.0


def test_values_that_know_the_return_explain_all_of_it() -> None:
    samples = [sample(row, [5], [1, 2], score=float(row)) for row in range(3)]
    values_BT = torch.arange(3.0)[:, None].expand(3, 2)
    batch = batch_of(samples, CONFIG.model_copy(update={"whiten_advantages": False}), values_BT=values_BT)
    assert readings(batch, CONFIG, asked=3, kl_coefficient=0.5)["explained_variance"] == pytest.approx(1.0)


def test_repetition_counts_runs_of_four() -> None:
    assert repetition([1, 2, 3]) == 0.0
    assert repetition([1, 2, 3, 4, 1, 2, 3, 4]) == pytest.approx(1 / 5)


def test_no_gap_where_engine_and_training_agree() -> None:
    batch = batch_of([sample(0, [5], [1, 2], sampled_logprobs=(-1.0, -1.0))], CONFIG)
    assert sampling_gap(batch) == 0.0


def test_the_best_the_worst_and_the_changed_most_are_shown_first() -> None:
    samples = [sample(row, [5], [1, 2], score=score) for row, score in enumerate([0.5, 2.0, -1.0, 0.1])]
    ref_logprobs_BT = torch.full((4, 2), -1.0)
    ref_logprobs_BT[3] = 2.0
    shown = shown_samples(batch_of(samples, CONFIG, ref_logprobs_BT=ref_logprobs_BT), 9)
    assert [(row["shown_as"], row["score"]) for row in shown] == [
        ("best", 2.0), ("worst", -1.0), ("changed most", 0.1), ("", 0.5),
    ]  # fmt: skip
    assert [row["change"] for row in shown] == [0.0, 0.0, -6.0, 0.0]
    assert [row["shown_as"] for row in shown_samples(batch_of(samples[:1], CONFIG), 3)] == ["best"]
    assert len(shown_samples(batch_of(samples, CONFIG), 2)) == 2


def test_rewards_by_name_where_there_are_several() -> None:
    samples = [
        sample(0, [5], [1], score=1.0, parts={"model": 1.0, "read": 4.0}),
        sample(1, [5], [1], score=3.0, parts={"model": 3.0}),
    ]
    assert score_readings(samples) == {"score": 2.0, "reward_model": 2.0, "reward_read": 4.0}
    assert score_readings([sample(0, [5], [1], score=1.0, parts={"model": 1.0})]) == {"score": 1.0}


def test_tables_go_to_the_trackers_that_show_them() -> None:
    class Shows:
        def log_table(self, name: str, **given: Any) -> None:
            self.given = (name, given)

    trackers = [Shows(), object()]
    rows: list[dict[str, str | float]] = [{"answer": "a", "score": 1.0}, {"answer": "b"}]
    log_table(cast(Accelerator, SimpleNamespace(trackers=trackers)), rows, step=3)
    assert cast(Shows, trackers[0]).given == (
        "samples",
        {"columns": ["answer", "score"], "data": [["a", 1.0], ["b", None]], "step": 3},
    )


def test_a_clock_adds_up_phases() -> None:
    clock = Clock()
    for name in ("rollout", "train", "rollout"):
        with clock.phase(name):
            pass
    found = clock.readings(10)
    assert found["seconds"] == pytest.approx(found["seconds_rollout"] + found["seconds_train"])
    assert found["tokens_per_s"] == pytest.approx(10 / found["seconds"])
    assert Clock().readings(0)["tokens_per_s"] == 0.0


def test_memory_is_counted_in_megabytes() -> None:
    assert 50 < peak_memory_mb() < 100_000
