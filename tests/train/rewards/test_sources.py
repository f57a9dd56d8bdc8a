from pathlib import Path
from typing import Any

import pytest
import torch

from cai.errors import InputError
from cai.judges.preference_model import PreferenceModel
from cai.train.rewards.config import CheckerReward, EnsembleReward, FunctionReward, ModelReward
from cai.train.rewards.sources import (
    Ensemble,
    build_rewards,
    check_sources,
    checker_reward,
    find_function,
    preference_reward,
)
from cai.types import Message
from tests.judges.test_preference_model import classifier

PROMPTS = [(Message("user", "Say something."),)] * 2


@pytest.mark.parametrize(("combine", "expected"), [("mean", 2.0), ("min", 1.0), ("mean_minus_std", 1.5)])
def test_an_ensemble_by_hand(combine: str, expected: float) -> None:
    entry = EnsembleReward.model_validate({"kind": "ensemble", "paths": ["a", "b"], "combine": combine, "k": 0.5})
    ensemble = Ensemble(entry, [lambda prompts, answers: [1.0, 5.0], lambda prompts, answers: [3.0, None]])
    # Scores 1 and 3: mean 2, standard deviation 1.
    assert ensemble(PROMPTS, ["x", "y"]) == [expected, None]


def test_a_checker_gives_1_or_0() -> None:
    assert checker_reward("ends_with:?")(PROMPTS, ["Why?", "Because."]) == [1.0, 0.0]


def test_a_function_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_rewards.py").write_text("def length(prompts, answers):\n    return [len(a) for a in answers]\n")
    monkeypatch.chdir(tmp_path)
    assert list(find_function("my_rewards:length")(PROMPTS, ["a", "bbb"])) == [1, 3]


@pytest.mark.parametrize("name", ["no_such_module:f", "json:no_such_function", "json:__doc__"])
def test_a_function_that_is_not_there_is_named_before_any_model(name: str) -> None:
    with pytest.raises(InputError, match=name.replace(":", ".")):
        check_sources([FunctionReward(kind="function", function=name)])


def test_a_missing_folder_is_named_before_any_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere"):
        check_sources([ModelReward(kind="model", path=tmp_path / "nowhere")])


def test_models_checkers_and_functions_are_added_up(
    tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    for seed in (0, 1):
        torch.manual_seed(seed)
        model = AutoModelForSequenceClassification.from_pretrained(tiny_model_dir, num_labels=1)
        model.save_pretrained(tmp_path / str(seed))
        AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(tmp_path / str(seed))
    folders = [tmp_path / "0", tmp_path / "1"]
    rewards = build_rewards(
        [
            EnsembleReward(kind="ensemble", paths=folders, combine="min"),
            ModelReward(kind="model", path=folders[0], weight=0.0, name="first"),
            ModelReward(kind="model", path=folders[1], weight=0.0),
            CheckerReward(kind="checker", rule="ends_with:?", weight=10.0),
        ],
        torch.device("cpu"),
    )
    for score, passes in zip(rewards.score(PROMPTS, ["Why?", "So."]), (1.0, 0.0), strict=True):
        parts = score.parts
        assert parts["first"] != parts["model"]
        assert parts["ensemble"] == min(parts["first"], parts["model"])
        assert score.total == pytest.approx(parts["ensemble"] + 10 * passes)


def test_a_preference_model_reads_its_rows_packed(
    tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = classifier(tiny_model_dir, tmp_path / "model")
    padded, packed = PreferenceModel.load(str(folder)), PreferenceModel.load(str(folder))
    prompts = [(Message("user", text),) for text in ("Say something.", "Say it again, please.")]
    answers = ["Yes.", "No, I would rather not say that again."]
    expected = padded.score(list(zip(prompts, answers, strict=True)))
    monkeypatch.setattr(PreferenceModel, "load", lambda *_, **__: packed)
    reward = preference_reward(folder, torch.device("cpu"))
    read: list[int] = []
    table: Any = packed.model.get_input_embeddings()
    table.register_forward_hook(lambda _, args, __: read.append(args[0].numel()))
    assert reward(prompts, answers) == pytest.approx(expected, abs=1e-5)
    assert read == [sum(len(packed._ids(*pair)) for pair in zip(prompts, answers, strict=True))]
