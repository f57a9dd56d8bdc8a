"""Principles in rows, and a preference model that learns to judge by them."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from cai.config import load_config
from cai.constitution import load_constitution
from cai.engines.render import Renderer
from cai.errors import InputError
from cai.judges.conditioned import remember
from cai.judges.preference_model import PreferenceModel
from cai.train.checks import measure_pairs
from cai.train.configs import RewardConfig
from cai.train.data import load_pairs, pairs_of
from cai.train.principles import principle_of, principle_texts
from cai.types import Message
from tests.train import rig

TEXTS = {"kind": "Be kind to all.", "short": "Be brief."}
GOOD, LAZY = "A good thing is good to do.", "A lazy dog."


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({}, ""),
        ({"principle": "kind"}, "Be kind to all."),
        ({"principle": "Stay calm, please. "}, "Stay calm, please."),
        ({"principles": ["short", "Stay calm."]}, "Be brief.\nStay calm."),
        ({"principles": []}, ""),
    ],
)
def test_a_row_names_its_principle_by_text_or_id(row: dict[str, Any], text: str) -> None:
    assert principle_of(row, TEXTS) == text


@pytest.mark.parametrize("row", [{"principle": "calm"}, {"principles": ["kind", "calm"]}])
def test_an_unknown_id_is_refused(row: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="'calm' is the id of no principle that is known; name the one"):
        principle_of(row, TEXTS)


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(ValueError, match="'principle' is 3; make it a text"):
        principle_of({"principle": 3}, TEXTS)


def test_a_constitution_gives_the_texts() -> None:
    first = load_constitution("harmless").principles[0]
    assert principle_texts("harmless")[first.id] == first.text
    assert principle_texts(None) == {}


def rows(count: int) -> list[dict[str, Any]]:
    """Return pairs that are labelled one way by one principle and the other way by another."""
    made = []
    for number in range(count):
        prompt = rig.pair(number)["prompt"]
        made += [
            {"prompt": prompt, "chosen": GOOD, "rejected": LAZY, "principle": "kind"},
            {"prompt": prompt, "chosen": LAZY, "rejected": GOOD, "principle": TEXTS["short"]},
        ]
    return made


def settings(tmp_path: Path, model: Path, made: list[dict[str, Any]], **changes: Any) -> Any:
    (tmp_path / "rules.yaml").write_text(
        'name: rules\nversion: "1"\nprinciples:\n  - id: kind\n    text: Be kind to all.\n', encoding="utf-8"
    )
    data = [rig.write(tmp_path / "told.jsonl", made)]
    told = {"principle_conditioned": True, "constitution": str(tmp_path / "rules.yaml")}
    return rig.settings("reward", tmp_path, model, data=data, **{**told, **changes})


@pytest.mark.parametrize("lora", [None, {"r": 8, "alpha": 32}], ids=["full", "lora"])
def test_it_learns_to_judge_by_the_principle(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], lora: Any
) -> None:
    config = settings(
        tmp_path, tiny_model_dir, rows(4), epochs=12, batch_size=8, micro_batch=8, learning_rate=1e-2, lora=lora
    )
    rig.train("reward", config)
    assert "contradiction" not in capsys.readouterr().err  # the same pair both ways, but by two principles
    model = PreferenceModel.load(str(config.out / "model"))
    for number in range(4):
        prompt = (Message("user", rig.pair(number)["prompt"][0]["content"]),)
        kind, short = (
            model.score([(prompt, GOOD), (prompt, LAZY)], principles=[text] * 2)
            for text in (TEXTS["kind"], TEXTS["short"])
        )
        assert kind[0] > kind[1]
        assert short[0] < short[1]
    rig.loaded_whole(AutoModelForSequenceClassification, config.out / "model")


def test_training_reads_what_the_judge_reads_and_cuts_no_principle(tiny_model_dir: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    remember(tokenizer)
    renderer = Renderer(tokenizer)
    long = {**rows(1)[0], "prompt": [{"role": "user", "content": "quick brown fox " * 60}]}
    items, dropped = measure_pairs([("f:1", long)], renderer, lambda row: principle_of(row, TEXTS))
    assert items[0].kept > 0
    ((pair,), _) = pairs_of(items, [], dropped, max_length=120)
    assert max(len(pair.chosen), len(pair.rejected)) == 120
    assert TEXTS["kind"] in renderer.decode(pair.chosen.prompt)
    model = PreferenceModel(AutoModelForSequenceClassification.from_pretrained(tiny_model_dir, num_labels=1), renderer,
                            revision="x", max_length=120)  # fmt: skip
    longest = max((pair.chosen, pair.rejected), key=len)
    answer = GOOD if longest is pair.chosen else LAZY
    ids = model._ids(items[0].prompt[1:], answer, TEXTS["kind"])
    assert ids == [*longest.prompt, *longest.answer]
    _, dropped = pairs_of(items, [], dropped, max_length=items[0].least + 1)
    assert not dropped
    with pytest.raises(InputError, match=r"no rows to train on \(1 answer longer than max_length\)"):
        pairs_of(items, [], dropped, max_length=items[0].least)


def test_rows_without_principles_are_read_without(tiny_model_dir: Path, tmp_path: Path) -> None:
    renderer = Renderer(AutoTokenizer.from_pretrained(tiny_model_dir))
    path = rig.write(tmp_path / "mixed.jsonl", [rig.pair(0)])
    (plain,), _ = load_pairs([path], renderer, max_length=99)
    (mixed,), _ = load_pairs([path], renderer, max_length=99, principle=lambda row: principle_of(row, TEXTS))
    assert plain == mixed


def test_what_makes_no_sense_is_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    none = settings(tmp_path, tiny_model_dir, [rig.pair(0), rig.pair(1)])
    with pytest.raises(InputError, match=r"told.jsonl:1:1: neither this row nor any other names a principle"):
        rig.train("reward", none)
    unknown = settings(tmp_path, tiny_model_dir, [*rows(1), {**rig.pair(0), "principle": "calm"}])
    with pytest.raises(InputError, match=r"told.jsonl:3:1: 'calm' is the id of no principle that is known"):
        rig.train("reward", unknown)
    with pytest.raises(InputError, match="set principle_conditioned too"):
        load_config(RewardConfig, None, ["data=[a.jsonl]", "out=x", "constitution=harmless"])


def test_a_model_that_reads_principles_is_not_trained_on_without(tiny_model_dir: Path, tmp_path: Path) -> None:
    first = settings(tmp_path, tiny_model_dir, rows(2))
    rig.train("reward", first)
    again = rig.settings("reward", tmp_path / "b", first.out / "model")
    with pytest.raises(InputError, match="reads a principle before each dialogue; set principle_conditioned: true"):
        rig.train("reward", again)
