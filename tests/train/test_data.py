"""Rows into ids: what is learnt, what is cut, what is dropped, what is refused, and the order."""

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from cai.engines.render import Renderer
from cai.errors import InputError
from cai.records.export import preference_rows
from cai.records.schema import Dropped
from cai.train.data import Example, load_chats, load_pairs, percentiles, training_order
from tests.records import samples
from tests.train import rig


@pytest.fixture(scope="module")
def renderer(tiny_model_dir: Path) -> Renderer:
    return Renderer(AutoTokenizer.from_pretrained(tiny_model_dir))


def chats(tmp_path: Path, renderer: Renderer, rows: list[dict[str, Any]], max_length: int = 512) -> list[Example]:
    return load_chats([rig.write(tmp_path / "rows.jsonl", rows)], renderer, max_length=max_length)[0]


LONG = [
    {"role": "user", "content": "First of all: " + "what do you think of that? " * 9},
    {"role": "assistant", "content": "I think it is a good thing."},
    {"role": "user", "content": "The last question?"},
    {"role": "assistant", "content": "The last answer."},
]


def test_what_is_learnt_is_the_last_answer_and_its_end_of_turn(tmp_path: Path, renderer: Renderer) -> None:
    short, long = chats(tmp_path, renderer, [rig.chat(1), {"messages": LONG}])
    decode = renderer.tokenizer.decode
    for example, answer in ((short, rig.chat(1)["messages"][-1]["content"]), (long, "The last answer.")):
        assert decode(example.answer) == answer + "<|im_end|>"
        assert example.row == (example.prompt, (example.answer,))
    text = decode(long.prompt + long.answer)
    dialogue: Any = LONG
    assert text == renderer.tokenizer.apply_chat_template(dialogue, tokenize=False).rstrip("\n")


def test_a_long_prompt_loses_its_beginning_and_not_the_answer(tmp_path: Path, renderer: Renderer) -> None:
    (whole,) = chats(tmp_path, renderer, [{"messages": LONG}])
    (cut,) = chats(tmp_path, renderer, [{"messages": LONG}], max_length=40)
    assert len(whole) > 80
    assert len(cut) == 40
    assert cut.answer == whole.answer
    assert cut.prompt == whole.prompt[-len(cut.prompt) :]


def test_both_prompts_of_a_pair_are_cut_alike(tmp_path: Path, renderer: Renderer) -> None:
    row = {"prompt": LONG[:-1], "chosen": "Yes.", "rejected": "It is a good thing to do, I think."}
    path = rig.write(tmp_path / "rows.jsonl", [row])
    ((pair,), _) = load_pairs([path], renderer, max_length=60)
    assert pair.chosen.prompt == pair.rejected.prompt
    assert pair.row == (pair.chosen.prompt, (pair.chosen.answer, pair.rejected.answer))
    assert len(pair) == len(pair.chosen) + len(pair.rejected) - len(pair.chosen.prompt)
    assert max(len(pair.chosen), len(pair.rejected)) == 60


def test_what_is_dropped_is_counted(tmp_path: Path, renderer: Renderer) -> None:
    empty = {"messages": [*rig.chat(0)["messages"][:1], {"role": "assistant", "content": " "}]}
    wordy = {"messages": [*rig.chat(0)["messages"][:1], {"role": "assistant", "content": "quick brown " * 99}]}
    path = rig.write(tmp_path / "rows.jsonl", [rig.chat(0), empty, wordy])
    kept, dropped = load_chats([path], renderer, max_length=64)
    assert (len(kept), dropped) == (1, {"empty answer": 1, "answer longer than max_length": 1})
    rows = [rig.pair(0), {**rig.pair(1), "chosen": ""}, {**rig.pair(2), "chosen": "Same.", "rejected": "Same."}]
    pairs, dropped = load_pairs([rig.write(tmp_path / "pairs.jsonl", rows)], renderer, max_length=512)
    assert (len(pairs), dropped) == (1, {"empty answer": 1, "chosen equals rejected": 1})
    with pytest.raises(InputError, match=r"no rows to train on \(1 empty answer\)"):
        load_chats([rig.write(tmp_path / "none.jsonl", [empty])], renderer, max_length=512)


USER, ASSISTANT = {"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Yes."}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({}, "no 'messages' \\(fields: none\\); add them"),
        ({"prompt": "x"}, "no 'messages' \\(fields: prompt\\)"),
        ({"messages": []}, "'messages' is empty"),
        ({"messages": [USER]}, "does not end with the assistant"),
        ({"messages": [ASSISTANT]}, "turn 1 is the assistant's"),
        ({"messages": [USER, USER, ASSISTANT]}, "turn 2 is the user's"),
        ({"messages": [USER, {"role": "model", "content": "x"}]}, "message 2 is not a role"),
        ({"messages": [USER, {"role": "assistant", "content": "\ud800"}]}, "half of a surrogate pair"),
    ],
)
def test_bad_chats_are_named_by_line(tmp_path: Path, renderer: Renderer, row: dict[str, Any], said: str) -> None:
    path = rig.write(tmp_path / "bad.jsonl", [rig.chat(0), row])
    with pytest.raises(InputError, match=f"bad.jsonl:2:1: .*{said}"):
        load_chats([path], renderer, max_length=512)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"chosen": None}, "must be a text or a list of one message"),
        ({"chosen": [USER, ASSISTANT]}, "must be a text or a list of one message"),
        ({"chosen": "\ud800"}, "half of a surrogate pair"),
        ({"chosen_prob": 2}, "'chosen_prob' is 2; make it a number from 0 to 1"),
        ({"chosen_prob": True}, "'chosen_prob' is True"),
        ({"chosen_prob": "0.5"}, "'chosen_prob' is '0.5'"),
        ({"prompt": [USER, ASSISTANT]}, "'prompt' does not end with the person's turn"),
        ({"prompt": 3}, "'prompt' is a int"),
    ],
)
def test_bad_pairs_are_named_by_line(tmp_path: Path, renderer: Renderer, change: dict[str, Any], said: str) -> None:
    path = rig.write(tmp_path / "bad.jsonl", [rig.pair(0), {**rig.pair(1), **change}])
    with pytest.raises(InputError, match=f"bad.jsonl:2:1: .*{said}"):
        load_pairs([path], renderer, max_length=512)


def test_all_bad_rows_of_all_files_are_named(tmp_path: Path, renderer: Renderer) -> None:
    first = rig.write(tmp_path / "a.jsonl", [rig.pair(0), {"chosen": "x"}])
    first.write_text(first.read_text() + "{torn\n")
    second = rig.write(tmp_path / "b.jsonl", [{"rejected": "x"}])
    with pytest.raises(InputError) as raised:
        load_pairs([first, second], renderer, max_length=512)
    places = [(Path(problem.path).name, problem.line) for problem in raised.value.problems]
    assert places == [("a.jsonl", 2), ("a.jsonl", 3), ("b.jsonl", 1)]


def test_what_the_template_refuses_is_named_by_line(tmp_path: Path) -> None:
    from tests.engines import tiny

    strict = "{% if messages[0]['role'] == 'system' and messages|length > 3 %}{{ raise_exception('no') }}{% endif %}"
    renderer = Renderer(tiny.tokenizer(strict + tiny.CHATML))
    row = {"messages": [{"role": "system", "content": "Be kind."}, *LONG]}
    path = rig.write(tmp_path / "rows.jsonl", [rig.chat(0), row])
    with pytest.raises(InputError, match=r"rows\.jsonl:2:1: the chat template refuses this dialogue"):
        load_chats([path], renderer, max_length=512)


def test_forms_of_pairs_give_the_same_ids(tmp_path: Path, renderer: Renderer) -> None:
    given = rig.pair(3, chosen_prob=0.7)
    whole: dict[str, Any] = {
        "chosen": [*given["prompt"], {"role": "assistant", "content": given["chosen"]}],
        "rejected": [*given["prompt"], {"role": "assistant", "content": given["rejected"]}],
        "chosen_prob": 0.7,
    }
    lists = {**given, "chosen": whole["chosen"][-1:], "rejected": whole["rejected"][-1:]}
    path = rig.write(tmp_path / "rows.jsonl", [given, whole, lists])
    pairs, _ = load_pairs([path], renderer, max_length=512)
    assert {(pair.chosen.prompt, pair.chosen.answer, pair.rejected.answer) for pair in pairs} == {
        (pairs[0].chosen.prompt, pairs[0].chosen.answer, pairs[0].rejected.answer)
    }
    assert [pair.target for pair in pairs] == [0.7] * 3
    assert len({pair.key for pair in pairs}) == 1


def test_files_of_one_name_are_told_apart(tmp_path: Path, renderer: Renderer) -> None:
    paths = [rig.write(tmp_path / name / "pairs.jsonl", [rig.pair(number)]) for number, name in enumerate("ab")]
    pairs, _ = load_pairs(paths, renderer, max_length=512)
    assert [pair.chosen.name for pair in pairs] == [f"{path}:1" for path in paths]


@pytest.mark.parametrize(("rows", "batch_size"), [(40, 4), (37, 4), (200, 3), (8, 8)])
def test_each_epoch_has_each_row_once(rows: int, batch_size: int) -> None:
    lengths = [random.Random(row).randint(1, 99) for row in range(rows)]
    epochs = 3
    order = training_order(lengths, epochs=epochs, batch_size=batch_size, seed=1)
    assert len(order) == epochs * rows // batch_size * batch_size
    for epoch in range(epochs):
        part = order[epoch * rows : (epoch + 1) * rows]
        assert max(Counter(part).values()) == 1
        assert len(part) == rows or epoch == epochs - 1
    assert order == training_order(lengths, epochs=epochs, batch_size=batch_size, seed=1)
    assert order != training_order(lengths, epochs=epochs, batch_size=batch_size, seed=2)


def test_epochs_are_shuffled_afresh_and_batches_hold_like_lengths() -> None:
    lengths = list(range(64))
    random.Random(0).shuffle(lengths)
    order = training_order(lengths, epochs=2, batch_size=4, seed=0)
    assert order[:64] != order[64:]
    batches = [order[i : i + 4] for i in range(0, 64, 4)]
    assert all(max(lengths[r] for r in batch) - min(lengths[r] for r in batch) == 3 for batch in batches)
    assert [min(lengths[r] for r in batch) for batch in batches] != list(range(0, 64, 4))


def test_a_set_smaller_than_a_batch_is_one_batch() -> None:
    assert sorted(training_order([1, 2, 3], epochs=1, batch_size=8, seed=0)) == [0, 1, 2]
    assert Counter(training_order([1, 2, 3], epochs=2, batch_size=8, seed=0)) == {0: 2, 1: 2, 2: 2}


def test_percentiles() -> None:
    assert percentiles(range(1, 101)) == {"median": 51, "p95": 96, "max": 100}
    assert percentiles([7]) == {"median": 7, "p95": 7, "max": 7}


def journal(path: Path, *rows: dict[str, Any]) -> Path:
    return rig.write(path, list(rows))


def test_a_journal_of_preferences_gives_what_its_export_gives(tmp_path: Path, renderer: Renderer) -> None:
    records = [samples.preference(prob) for prob in (0.75, 0.1, 0.5)]
    unused = Dropped(key="d", stage="label", prompt="p", reason="both abstained")
    path = journal(tmp_path / "preferences.jsonl", *(record.to_json() for record in (*records, unused)))
    pairs, dropped = load_pairs([path], renderer, max_length=512)
    assert dropped == {"a tie": 1, "not labelled: both abstained": 1}
    assert [pair.target for pair in pairs] == [0.75, 0.9]
    exported, _ = load_pairs([rig.write(tmp_path / "pairs.jsonl", preference_rows(records))], renderer, max_length=512)
    for pair, other in zip(pairs, exported, strict=True):
        assert (pair.chosen.prompt, pair.chosen.answer) == (other.chosen.prompt, other.chosen.answer)
        assert (pair.rejected.answer, pair.target) == (other.rejected.answer, other.target)
        assert (pair.key, pair.source) == (other.key, other.source)
    assert renderer.tokenizer.decode(pairs[1].chosen.answer).startswith("I won't say")


def test_other_and_damaged_records_are_named_by_line(tmp_path: Path, renderer: Renderer) -> None:
    good = samples.preference(0.75).to_json()
    draft = samples.draft(0).to_json()
    path = journal(tmp_path / "mixed.jsonl", good, draft, {**good, "prob_a": 0.8}, {**good, "prob_a": 2.0})
    with pytest.raises(InputError) as raised:
        load_pairs([path], renderer, max_length=512)
    assert [(problem.line, problem.problem[:20]) for problem in raised.value.problems] == [
        (2, "a record of the type"),
        (3, "a damaged preference"),
        (4, "a damaged preference"),
    ]


def test_answers_of_the_same_ids_are_equal(tmp_path: Path, renderer: Renderer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renderer, "answer_ids", lambda text, end_of_turn=True: [len(text.strip()), 1])
    path = rig.write(tmp_path / "rows.jsonl", [rig.pair(0), {**rig.pair(1), "chosen": "Yes.", "rejected": "Yes. "}])
    assert load_pairs([path], renderer, max_length=512)[1] == {"chosen equals rejected": 1}
