import math
import random
from pathlib import Path

import pytest

from cai.errors import InputError
from cai.judges.pairwise import sigmoid
from cai.label.learned import LEAST, MOST, learn_weights, load_weights


def people(count: int, strengths: dict[str, float], *, seed: int = 0) -> list[dict[str, float | None]]:
    """Votes on pairs: each name's logit is drawn, and people prefer by the sum of the strengths times the logits."""
    draw = random.Random(seed)
    pairs: list[dict[str, float | None]] = []
    for _ in range(count):
        logits = {name: draw.gauss(0, 1.5) for name in strengths}
        better = draw.random() < sigmoid(sum(strengths[name] * value for name, value in logits.items()))
        pairs.append({name: sigmoid(value if better else -value) for name, value in logits.items()})
    return pairs


def test_the_weights_that_people_use_are_found() -> None:
    learned = learn_weights(people(6000, {"kind": 1.2, "brief": 0.4, "noise": 0.0}))
    assert learned.weights == pytest.approx({"kind": 1.2, "brief": 0.4, "noise": 0.0}, abs=0.12)
    assert learned.nll < learned.nll_common - 0.02
    assert learned.accuracy > learned.accuracy_common
    assert not learned.folded


def test_a_vote_that_is_always_wrong_gets_no_weight_and_never_a_negative_one() -> None:
    learned = learn_weights(people(2000, {"kind": 1.5, "upside_down": -1.0}))
    assert learned.weights["upside_down"] == 0.0
    assert learned.weights["kind"] > 0.8


def test_judges_that_are_alike_are_counted_alike() -> None:
    learned = learn_weights(people(300, dict.fromkeys("abcde", 0.5)))
    assert max(learned.weights.values()) - min(learned.weights.values()) < 0.15
    assert learned.common == pytest.approx(0.5, abs=0.12)
    assert learned.nll <= learned.nll_common


def test_votes_worse_than_a_coin_count_nothing() -> None:
    pairs: list[dict[str, float | None]] = [{"kind": 0.3 if number % 3 else 0.6} for number in range(60)]
    learned = learn_weights(pairs)
    assert (learned.weights, learned.common) == ({"kind": 0.0}, 0.0)
    assert learned.nll == pytest.approx(math.log(2))
    assert learned.accuracy == 0.5


def test_the_best_weight_of_one_vote_by_hand() -> None:
    # Odds of 9 to 1, and right in 3 of 4: the weight w makes them 3 to 1 odds, so 9 ** w = 3.
    pairs: list[dict[str, float | None]] = [{"kind": 0.1 if number % 4 == 0 else 0.9} for number in range(4000)]
    learned = learn_weights(pairs)
    assert learned.weights["kind"] == pytest.approx(0.5, abs=0.01)
    assert learned.accuracy == pytest.approx(0.75)


def test_votes_that_tell_all_apart_have_a_limit() -> None:
    learned = learn_weights([{"kind": 0.9, "brief": None if number % 2 else 0.7} for number in range(40)])
    assert all(0 < weight <= MOST for weight in learned.weights.values())
    assert learned.accuracy == 1.0


def test_few_pairs_with_a_vote_teach_nothing() -> None:
    enough: list[dict[str, float | None]] = [{"kind": 0.8}] * LEAST
    silent: list[dict[str, float | None]] = [{"kind": None}, {"kind": 0.5}, {}]
    assert learn_weights([*enough, *silent]).pairs == LEAST + 3
    with pytest.raises(InputError, match=f"{LEAST - 1} pairs are too few"):
        learn_weights([*enough[1:], *silent])
    with pytest.raises(InputError, match="0 pairs"):
        learn_weights([])


def test_what_was_saved_is_read_and_a_bad_file_is_told(tmp_path: Path) -> None:
    learned = learn_weights(people(100, {"kind": 1.0, "brief": 0.2}))
    path = tmp_path / "weights.json"
    learned.save(path)
    assert load_weights(path) == learned
    assert learned.of("kind") == learned.weights["kind"]
    assert learned.of("not learned from") == learned.common
    path.write_text(path.read_text().replace('"kind": ', '"kind": -'))
    with pytest.raises(InputError, match=r"weights\.json:\d+:\d+: .*kind"):
        load_weights(path)


def test_the_weights_are_what_a_general_optimiser_finds() -> None:
    from scipy.optimize import minimize

    pairs = people(200, {"kind": 1.0, "brief": 0.3}, seed=3)
    learned = learn_weights(pairs)
    if learned.folded:
        pytest.fail("chosen so that the weights differ")

    def loss(weights: list[float], penalty: float) -> float:
        total = 0.0
        for pair in pairs:
            value = sum(weight * math.log(p / (1 - p)) for weight, p in zip(weights, _probs(pair), strict=True))
            total += math.log1p(math.exp(-value))
        away = sum((weight - learned.common) ** 2 for weight in weights)
        return total / len(pairs) + penalty / 2 * away

    found = [
        minimize(loss, [0.5, 0.5], args=(penalty,), method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-10}).x
        for penalty in (10.0, 1.0, 0.1, 0.01, 0.001)
    ]
    mine = [learned.weights["brief"], learned.weights["kind"]]
    assert any(list(weights) == pytest.approx(mine, abs=1e-3) for weights in found)


def _probs(pair: dict[str, float | None]) -> list[float]:
    return [prob for _, prob in sorted(pair.items()) if prob is not None]
