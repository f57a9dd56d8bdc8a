import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cai.errors import InputError
from cai.records.loaders import load_prompts
from cai.records.schema import Prompt
from cai.records.splits import is_held_out
from cai.successor.prepare import PromptsConfig, run_prepare

SETS = ("supervised", "label", "rl", "held_out")


def prepared(out: Path, **settings: Any) -> dict[str, list[Prompt]]:
    run_prepare(PromptsConfig(out=out, **settings))
    return {name: load_prompts([out / f"{name}.jsonl"]) for name in (*SETS, "prompts")}


def keys(prompts: list[Prompt]) -> set[str]:
    return {prompt.key for prompt in prompts}


def file(path: Path, *texts: str) -> Path:
    path.write_text("".join(json.dumps({"prompt": text, "category": "c"}) + "\n" for text in texts))
    return path


def test_no_prompt_is_both_trained_on_and_held_out(tmp_path: Path) -> None:
    sets = prepared(tmp_path)
    trained = keys(sets["supervised"]) | keys(sets["label"]) | keys(sets["rl"])
    assert not trained & keys(sets["held_out"])
    assert all(is_held_out(prompt) for prompt in sets["held_out"])
    assert not any(is_held_out(prompt) for name in ("supervised", "label", "rl") for prompt in sets[name])


def test_each_set_has_the_kinds_that_its_stage_needs(tmp_path: Path) -> None:
    counts = {"red_team": 20, "helpful": 10, "label": 30, "held_out": {"red_team": 9, "benign": 8, "helpful": 7}}
    sets = prepared(tmp_path, **counts)
    assert {name: dict(Counter(prompt.kind for prompt in prompts)) for name, prompts in sets.items()} == {
        "supervised": {"red_team": 20, "helpful": 10},
        "label": {"red_team": 30},
        "rl": {"red_team": 30, "helpful": 10},
        "held_out": {"red_team": 9, "benign": 8, "helpful": 7},
        "prompts": {"red_team": 39, "helpful": 17, "benign": 8},
    }
    said = json.loads((tmp_path / "result.json").read_text())["counts"]
    assert said == {name: len(sets[name]) for name in SETS}


def test_counts_are_at_most_what_there_is(tmp_path: Path) -> None:
    sets = prepared(tmp_path, red_team=10_000, label=10_000)
    assert keys(sets["label"]) == {prompt.key for prompt in sets["supervised"] if prompt.kind == "red_team"}


def test_every_category_is_both_trained_on_and_held_out(tmp_path: Path) -> None:
    sets = prepared(tmp_path)
    for kind in ("red_team", "helpful"):
        trained = {prompt.category for prompt in sets["rl"] if prompt.kind == kind}
        assert trained == {prompt.category for prompt in sets["held_out"] if prompt.kind == kind}


def test_all_prompts_are_listed_once(tmp_path: Path) -> None:
    sets = prepared(tmp_path)
    assert keys(sets["prompts"]) == set().union(*(keys(sets[name]) for name in SETS))
    assert len(sets["prompts"]) == len((tmp_path / "prompts.jsonl").read_text().splitlines())


def test_it_can_be_done_again_with_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b", "a"):
        prepared(tmp_path / name, red_team=20)
    made = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert made == sorted([*[f"{name}.jsonl" for name in (*SETS, "prompts")], "result.json"])
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in made)


def test_a_larger_size_keeps_the_prompts_of_a_smaller_one(tmp_path: Path) -> None:
    small, large = prepared(tmp_path / "s", red_team=20, label=10), prepared(tmp_path / "l", red_team=60, label=40)
    assert keys(small["label"]) < keys(large["label"])
    assert keys(small["supervised"]) < keys(large["supervised"])


def test_ones_own_prompts_take_the_place_of_the_packaged_ones(tmp_path: Path) -> None:
    own = file(tmp_path / "mine.jsonl", *[f"question {number}" for number in range(40)])
    sets = prepared(tmp_path / "out", red_team_files=[own])
    red_team = [prompt for prompt in sets["prompts"] if prompt.kind == "red_team"]
    assert {prompt.source for prompt in red_team} == {"mine.jsonl"}
    assert len(red_team) == 40


def test_a_prompt_in_files_of_two_kinds_is_of_the_first_and_counts_once(tmp_path: Path) -> None:
    texts = [f"question {number}" for number in range(40)]
    red, helpful = file(tmp_path / "red.jsonl", *texts), file(tmp_path / "helpful.jsonl", *texts, "and one more")
    sets = prepared(tmp_path / "out", red_team_files=[red], helpful_files=[helpful], benign_files=[helpful])
    assert Counter(prompt.kind for prompt in sets["prompts"])["red_team"] == 40
    said = json.loads((tmp_path / "out" / "result.json").read_text())["counts"]
    assert said == {name: len(sets[name]) for name in SETS}


def held_out_and_not(count: int) -> tuple[list[str], list[str]]:
    from tests.records.samples import asked

    texts = [f"question {number}" for number in range(count)]
    held = [text for text in texts if is_held_out(Prompt.of(asked(text), kind="red_team"))]
    return held, [text for text in texts if text not in held]


def test_too_few_prompts_to_train_on_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    held, _ = held_out_and_not(40)
    own = file(tmp_path / "mine.jsonl", *held[:3])
    with pytest.raises(InputError, match=r"mine\.jsonl: no prompts left to train on; give more"):
        run_prepare(PromptsConfig(out=tmp_path / "out", red_team_files=[own]))
    assert not (tmp_path / "out").exists()


def test_nothing_to_compare_models_on_is_refused_before_hours_of_training(tmp_path: Path) -> None:
    nothing = {"red_team": 0, "benign": 0, "helpful": 0}
    with pytest.raises(InputError, match="no prompts left to compare the models on"):
        run_prepare(PromptsConfig.model_validate({"out": tmp_path / "out", "held_out": nothing}))
    assert not (tmp_path / "out").exists()


def test_counts_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    for settings in ({"red_team": 0}, {"helpful": -1}, {"label": 0}, {"held_out": {"benign": -1}}):
        with pytest.raises(ValidationError):
            PromptsConfig.model_validate({"out": tmp_path, **settings})
