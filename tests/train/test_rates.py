"""Rates are what was done by the time that it took, in the model's shapes."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cai.train import rates

CPU = torch.device("cpu")


def config(width: int) -> Any:
    text = SimpleNamespace(hidden_size=width, intermediate_size=3 * width, num_attention_heads=4)
    return SimpleNamespace(get_text_config=lambda: text)


def test_the_first_time_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr(rates, "time", SimpleNamespace(perf_counter=lambda: next(clock) * 0.04))
    done: list[int] = []
    assert rates._per_second(lambda: done.append(1), CPU) == pytest.approx(3 / 0.12)
    assert len(done) == 4


def test_rates_count_operations_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    rates._rates.cache_clear()

    def twice(run: Any, device: torch.device) -> float:
        run()
        return 2.0

    monkeypatch.setattr(rates, "_per_second", twice)
    monkeypatch.setattr(rates, "STREAMED", (100, 100))
    found = rates.measured_rates(config(32), 10, 5, bf16=False, device=CPU)
    rates._rates.cache_clear()
    assert found.products == 2 * 3 * 2 * 10 * 32 * 96
    assert found.attention == 2 * 7 * 2 * (4 * 5 * 5 * 8)
    assert found.others == 2 * 5 * 4 * 100
