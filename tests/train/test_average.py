"""The mean of models: its weights, what it refuses by name, and that it is a model like any other."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from cai.errors import InputError
from cai.judges.preference_model import PreferenceModel
from cai.train.average import average_models
from cai.train.made_under import constitutions_of, mark
from tests.engines import tiny
from tests.judges.test_preference_model import classifier
from tests.train import rig


@pytest.fixture(scope="module")
def three(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three preference models, trained from one start on different rows."""
    folder = tmp_path_factory.mktemp("three")
    made = []
    for number in range(3):
        rows = rig.write(folder / f"{number}.jsonl", [rig.pair(10 * number + n) for n in range(4)])
        config = rig.settings("reward", folder / str(number), tiny_model_dir, data=[rows])
        rig.train("reward", config)
        made.append(config.out / "model")
    return made


@pytest.mark.parametrize("shares", [(), (0.5, 0.25, 0.25)])
def test_the_weights_are_the_mean(three: list[Path], tmp_path: Path, shares: tuple[float, ...]) -> None:
    average_models(three, tmp_path / "mean", shares=shares)
    found = load_file(tmp_path / "mean" / "model.safetensors")
    parts = [load_file(folder / "model.safetensors") for folder in three]
    assert found.keys() == parts[0].keys()
    for name, value in found.items():
        each = [share * part[name].double() for share, part in zip(shares or [1 / 3] * 3, parts, strict=True)]
        torch.testing.assert_close(value, torch.stack(each).sum(0).float(), atol=1e-7, rtol=1e-6)
    assert not torch.equal(found["score.weight"], parts[0]["score.weight"])
    rig.loaded_whole(AutoModelForSequenceClassification, tmp_path / "mean")


def test_it_scores_like_an_ensemble_of_models_that_lie_near(three: list[Path], tmp_path: Path) -> None:
    average_models(three, tmp_path / "mean")
    rows = [[5, 6, 7, 8, 9], [20, 21, 22], [30, 31, 32, 33]]
    scores = torch.tensor([PreferenceModel.load(str(folder)).score_ids(rows) for folder in three])
    mean = torch.tensor(PreferenceModel.load(str(tmp_path / "mean")).score_ids(rows))
    nearest = float((mean - scores.mean(0)).abs().max())
    assert nearest < 0.5 * float(scores.std(0).max())


def test_the_mean_of_a_model_with_itself_is_that_model(three: list[Path], tmp_path: Path) -> None:
    average_models([three[0], three[0]], tmp_path / "same")
    both = [load_file(folder / "model.safetensors") for folder in (three[0], tmp_path / "same")]
    assert rig.largest_difference(*both) == 0


def test_another_shape_is_refused_by_the_weights_name(three: list[Path], tmp_path: Path) -> None:
    wide = tmp_path / "wide"
    tiny.llama(intermediate_size=128).save_pretrained(wide)
    tiny.tokenizer().save_pretrained(wide)
    other = classifier(wide, tmp_path / "other")
    with pytest.raises(InputError) as refused:
        average_models([three[0], other], tmp_path / "out")
    wanted = r"model.layers.0.mlp.down_proj.weight is [48, 128], but [48, 96] in"
    assert any(wanted in each.problem for each in refused.value.problems)
    assert not (tmp_path / "out").exists()


def test_a_policy_and_a_preference_model_have_no_mean_but_policies_do(
    three: list[Path], tiny_model_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"score.weight is missing|lm_head.weight"):
        average_models([three[0], tiny_model_dir], tmp_path / "out")
    average_models([tiny_model_dir, tiny_model_dir], tmp_path / "policy")
    rig.loaded_whole(AutoModelForCausalLM, tmp_path / "policy")
    with pytest.raises(InputError, match="name at least two models"):
        average_models([three[0]], tmp_path / "out")
    for shares in ([0.5, 0.6], [1.0], [1.5, -0.5]):
        with pytest.raises(ValueError, match="add up to 1"):
            average_models(three[:2], tmp_path / "out", shares=shares)


def test_the_means_heads_are_those_of_its_parts(tiny_model_dir: Path, tmp_path: Path) -> None:
    there, back, one = (
        classifier(tiny_model_dir, tmp_path / name, heads=heads)
        for name, heads in (("there", ["a", "b"]), ("back", ["b", "a"]), ("one", []))
    )
    average_models([there, there], tmp_path / "mean")
    mean = rig.loaded_whole(AutoModelForSequenceClassification, tmp_path / "mean")
    assert mean.config.id2label == {0: "a", 1: "b"}
    with pytest.raises(InputError) as refused:
        average_models([there, back, one], tmp_path / "out")
    said = [each.problem for each in refused.value.problems]
    assert said[0].startswith("its heads are b, a, but a, b in")
    assert said[1].startswith("its heads are without names, but a, b in")


def test_it_was_made_under_what_its_parts_were(three: list[Path], tmp_path: Path) -> None:
    parts = []
    for number, folder in enumerate(three[:2]):
        parts.append(tmp_path / str(number))
        shutil.copytree(folder, parts[-1])
        mark(parts[-1], [f"digest-{number}"])
    average_models(parts, tmp_path / "mean")
    assert constitutions_of(models=[tmp_path / "mean"]) == ["digest-0", "digest-1"]
