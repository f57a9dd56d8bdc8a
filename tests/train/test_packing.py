"""Packed batches: where positions go on, and which state predicts which token."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from cai.train.packing import Row, pack_ends, pack_tokens

ids = st.lists(st.integers(0, 9), min_size=1, max_size=5)
rows = st.lists(st.tuples(ids, st.lists(ids, min_size=1, max_size=3)), min_size=1, max_size=4)


def test_the_example_of_the_module() -> None:
    batch = pack_tokens([([5, 6, 7], [[8, 9], [4]])])
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3]]
    assert (batch["read"].tolist(), batch["answer_ids"].tolist()) == ([2, 3, 2], [8, 9, 4])
    assert (batch["answers"].tolist(), batch["layout"]) == ([0, 0, 1], ((3, (1, 0)),))


def seen_by(layout: tuple[tuple[int, tuple[int, ...]], ...], place: int) -> list[int]:
    """The places that a place may see: its prompt and its own answer up to itself."""
    start = 0
    for prompt, answers in layout:
        trunk = list(range(start, start + prompt))
        branch = start + prompt
        if start <= place < branch:
            return trunk[: place - start + 1]
        for answer in answers:
            if branch <= place < branch + answer:
                return trunk + list(range(branch, place + 1))
            branch += answer
        start = branch
    raise AssertionError(place)


@given(rows)
def test_every_token_is_predicted_from_all_before_it_and_nothing_else(found: list[Row]) -> None:
    batch = pack_tokens(found)
    inputs, positions = batch["input_ids"][0].tolist(), batch["position_ids"][0].tolist()
    expected = []
    count = 0
    for prompt, answers in found:
        for answer in answers:
            for place, token in enumerate(answer):
                expected.append(([*prompt, *answer[:place]], token, count))
            count += 1
    places = [seen_by(batch["layout"], place) for place in batch["read"].tolist()]
    contexts = [[inputs[place] for place in seen] for seen in places]
    assert list(zip(contexts, batch["answer_ids"].tolist(), batch["answers"].tolist(), strict=True)) == expected
    assert all([positions[place] for place in seen] == list(range(len(seen))) for seen in places)
    assert len(inputs) == sum(len(prompt) + sum(len(answer) - 1 for answer in answers) for prompt, answers in found)


@given(rows)
def test_ends_are_read_at_the_last_token(found: list[Row]) -> None:
    batch = pack_ends(found)
    inputs = batch["input_ids"][0].tolist()
    contexts = [[inputs[place] for place in seen_by(batch["layout"], end)] for end in batch["read"].tolist()]
    assert contexts == [[*prompt, *answer] for prompt, answers in found for answer in answers]
    assert batch["read"].dtype == torch.long
