"""A limit that is never crossed: claims before calls, costs after them."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.budget import Budget, BudgetError
from cai.errors import EngineError
from cai.types import Usage

counts = st.integers(0, 50)


def test_without_limits_everything_fits_and_is_counted() -> None:
    budget = Budget(prompt_price=1.0, completion_price=2.0)
    assert budget.claim(Usage(10**9, 10**9))
    budget.settle(Usage(10**9, 10**9), Usage(2_000_000, 500_000))
    assert budget.used == Usage(2_000_000, 500_000)
    assert budget.cost == pytest.approx(3.0)
    assert budget.remaining_tokens is None
    assert budget.remaining_money is None


def test_a_call_waits_for_others_and_is_refused_after_them() -> None:
    budget = Budget(tokens=100)
    assert budget.claim(Usage(30, 30))
    assert not budget.claim(Usage(30, 30))
    assert budget.claim(Usage(20, 20))
    budget.settle(Usage(30, 30), Usage(30, 10))
    budget.settle(Usage(20, 20), Usage(20, 0))
    assert budget.remaining_tokens == 40
    assert budget.claim(Usage(20, 20))
    budget.settle(Usage(20, 20), Usage(20, 20))
    with pytest.raises(BudgetError, match=r"100 of 100 tokens used.*cost 1 tokens.*raise the budget"):
        budget.claim(Usage(0, 1))


def test_money_is_a_limit_of_its_own() -> None:
    budget = Budget(tokens=10_000_000, money=1.0, prompt_price=0.0, completion_price=2.0)
    assert budget.claim(Usage(5_000_000, 0))
    budget.settle(Usage(5_000_000, 0), Usage(5_000_000, 0))
    assert budget.remaining_money == 1.0
    assert budget.claim(Usage(0, 500_000))
    budget.settle(Usage(0, 500_000), Usage(0, 500_000))
    assert budget.remaining_money == 0.0
    with pytest.raises(BudgetError, match="1 of 1 in money"):
        budget.claim(Usage(0, 1))


def test_a_spent_budget_ends_a_command_as_an_engine_does() -> None:
    assert issubclass(BudgetError, EngineError)
    assert BudgetError("x").exit_code == 4


@given(
    limit=st.integers(1, 200), calls=st.lists(st.tuples(counts, counts, st.floats(0, 1), st.booleans()), max_size=40)
)
def test_no_order_of_calls_crosses_the_limit(limit: int, calls: list[tuple[int, int, float, bool]]) -> None:
    budget = Budget(tokens=limit)
    under_way: list[tuple[Usage, Usage]] = []
    for prompt, completion, share, settles in calls:
        most = Usage(prompt, completion)
        try:
            if budget.claim(most):
                under_way.append((most, Usage(prompt, int(completion * share))))
        except BudgetError:
            assert not under_way
        if settles and under_way:
            budget.settle(*under_way.pop(0))
        assert sum(budget.used) + sum(sum(most) for most, _ in under_way) <= limit


def test_threads_share_it() -> None:
    budget = Budget(tokens=3000)

    def spend() -> None:
        for _ in range(500):
            if budget.claim(Usage(1, 0)):
                budget.settle(Usage(1, 0), Usage(1, 0))

    threads = [threading.Thread(target=spend) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert budget.used.prompt == 2000
