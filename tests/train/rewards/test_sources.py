from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter

from cai.errors import InputError
from cai.judges.preference_model import PreferenceModel
from cai.train.ppo.trainer import run_ppo
from cai.train.rewards.config import Asked, CheckerReward, EnsembleReward, FunctionReward, ModelReward, RewardEntry
from cai.train.rewards.sources import (
    Ensemble,
    Models,
    build_rewards,
    check_sources,
    checker_reward,
    find_function,
)
from cai.types import Message
from tests.judges.test_preference_model import classifier
from tests.train.ppo.rig import settings

ADAPTER: TypeAdapter[Any] = TypeAdapter(RewardEntry)
CPU = torch.device("cpu")
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
    padded = PreferenceModel.load(str(folder))
    prompts = [(Message("user", text),) for text in ("Say something.", "Say it again, please.")]
    answers = ["Yes.", "No, I would rather not say that again."]
    expected = padded.score(list(zip(prompts, answers, strict=True)))
    reward = Models(CPU).reward(Asked(folder), "float32")
    read: list[int] = []
    run = torch.nn.Embedding.forward

    def watched(table: torch.nn.Embedding, ids: torch.Tensor) -> torch.Tensor:
        read.append(ids.numel())
        return run(table, ids)

    monkeypatch.setattr(torch.nn.Embedding, "forward", watched)
    assert reward(prompts, answers) == pytest.approx(expected, abs=1e-5)
    assert read == [sum(len(padded._ids(*pair)) for pair in zip(prompts, answers, strict=True))]


def test_heads_and_principles_are_rewards_of_their_own_over_one_trunk(
    tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = classifier(tiny_model_dir, tmp_path / "two", heads=("harmless", "helpful"), told=True)
    loads: list[str] = []
    load = PreferenceModel.load

    def counted(path: str, **how: Any) -> PreferenceModel:
        loads.append(path)
        return load(path, **how)

    given: list[dict[str, Any]] = [
        {"kind": "model", "head": "harmless", "principle": "Be kind."},
        {"kind": "model", "head": "helpful", "principle": "Be kind.", "weight": 0.5},
        {"kind": "model", "head": "helpful", "principle": "Be cold.", "weight": 0, "name": "cold"},
        {"kind": "ensemble", "paths": [folder], "heads": ["harmless", "helpful"], "principle": "Be kind.", "weight": 0},
    ]
    entries = [ADAPTER.validate_python(each if "paths" in each else {**each, "path": folder}) for each in given]
    check_sources(entries)
    monkeypatch.setattr(PreferenceModel, "load", counted)
    answers = ["Why?", "So it is."]
    scores = build_rewards(entries, CPU).score(PROMPTS, answers)
    assert loads == [str(folder)]
    asked = list(zip(PROMPTS, answers, strict=True))
    harmless, helpful, cold = (
        load(str(folder), head=head, principle=text).score(asked)
        for head, text in (("harmless", "Be kind."), ("helpful", "Be kind."), ("helpful", "Be cold."))
    )
    for row, score in enumerate(scores):
        assert score.total == pytest.approx(harmless[row] + 0.5 * helpful[row], abs=1e-5)
        wanted = {"harmless": harmless, "helpful": helpful, "cold": cold}
        found = {name: score.parts[name] for name in wanted}
        assert found == pytest.approx({name: column[row] for name, column in wanted.items()}, abs=1e-5)
        assert score.parts["ensemble"] == pytest.approx((harmless[row] + helpful[row]) / 2, abs=1e-5)
    assert helpful != pytest.approx(cold, abs=1e-4)


def test_what_a_saved_model_cannot_be_asked_is_told_before_any_training(
    tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = classifier(tiny_model_dir, tmp_path / "two", heads=("harmless", "helpful"))
    told = classifier(tiny_model_dir, tmp_path / "told", told=True)
    entries = [
        ModelReward(kind="model", path=two),
        ModelReward(kind="model", path=told),
        ModelReward(kind="model", path=two, head="harmless", principle="Be kind."),
        EnsembleReward(kind="ensemble", paths=[two], heads=["harmless", "kind"]),
    ]
    with pytest.raises(InputError) as refused:
        check_sources(entries)
    said = [str(each).partition(": ")[2] for each in refused.value.problems]
    assert sorted(said) == [
        "no head 'kind'; use one of harmless, helpful",
        "this preference model has the heads harmless, helpful; say which with 'head', as in head='harmless'",
        "this preference model judges by a principle; give its entry of 'rewards' a 'principle', the text that all "
        "answers are judged by",
        "this preference model reads no principle; leave out 'principle'",
    ]
    monkeypatch.setattr("cai.train.ppo.trainer.load_policy", None)
    with pytest.raises(InputError, match="give its entry of 'rewards' a 'principle'"):
        run_ppo(settings(tmp_path, tiny_model_dir, reward_model=told))
