from cai.train.checks import Item
from cai.train.inspection import describe, histogram, ranks
from cai.types import Message


def item(number: int, prompt: int, *answers: int, target: float = 1.0) -> Item:
    texts = tuple(f"{number} {side}" for side in range(len(answers)))
    return Item(f"f:{number}", (Message("user", f"{number}?"),), texts, prompt, answers, target)


def test_percentiles_are_nearest_ranks() -> None:
    assert ranks(range(1, 101)) == {"p5": 5, "p25": 25, "p50": 50, "p75": 75, "p95": 95, "p99": 99, "p100": 100}
    assert ranks([7]) == dict.fromkeys(("p5", "p25", "p50", "p75", "p95", "p99", "p100"), 7)
    assert ranks([3, 1, 2])["p50"] == 2
    assert ranks([]) == {}


def test_a_label_of_one_is_in_the_last_tenth() -> None:
    assert histogram([0, 0.05, 0.5, 0.99, 1.0]) == [2, 0, 0, 0, 0, 1, 0, 0, 0, 2]


def test_pairs_by_hand() -> None:
    told = describe([item(1, 10, 5, 3, target=0.7), item(2, 4, 2, 9), item(3, 1, 20, 1)], 14)
    assert (told["kind"], told["rows"], told["prompts"]) == ("pairs", 3, 3)
    assert told["tokens"]["prompt"]["p50"] == 4
    assert told["tokens"]["together"]["p100"] == 21
    assert told["cut"] == {"max_length": 14, "rows_dropped": 1, "prompts_cut": 1, "tokens_lost": 1}
    assert [each["id"] for each in told["findings"]] == ["no-room-for-answer", "prompt-cut"]


def test_chats_have_no_labels() -> None:
    told = describe([item(1, 10, 5)], 14, template=False)
    assert (told["kind"], told["labels"], set(told["tokens"])) == ("chats", None, {"prompt", "answer", "together"})
    assert [each["id"] for each in told["findings"]] == ["no-template", "prompt-cut"]
