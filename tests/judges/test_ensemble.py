"""Several preference models as one: mean, disagreement, and that constant offsets of members are no disagreement."""

import statistics
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from cai.judges.ensemble import PreferenceEnsemble, Spread, spread_of
from cai.judges.preference_model import PreferenceModel, PreferenceModelJudge
from cai.types import Dialogue, Message
from tests.judges.test_preference_model import classifier, comparison

PROMPT: Dialogue = (Message("user", "A fox?"),)
TEXTS = ["It is good.", "A lazy dog thinks.", "No.", "The quick brown fox jumps over it."]


@pytest.fixture(scope="module")
def folders(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    made = []
    for seed in range(3):
        folder = tmp_path_factory.mktemp("members") / str(seed)
        torch.manual_seed(seed)
        AutoModelForSequenceClassification.from_pretrained(tiny_model_dir, num_labels=1).save_pretrained(folder)
        AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(folder)
        made.append(str(folder))
    return made


def test_mean_and_deviation_are_those_of_the_members(folders: list[str]) -> None:
    ensemble = PreferenceEnsemble([PreferenceModel.load(folder) for folder in folders])
    asked = [(PROMPT, text) for text in TEXTS]
    columns = [PreferenceModel.load(folder).score(asked) for folder in folders]
    found = ensemble.spread(asked)
    for row, spread in zip(zip(*columns, strict=True), found, strict=True):
        assert spread.mean == pytest.approx(statistics.fmean(row), abs=1e-6)
        assert spread.std == pytest.approx(statistics.pstdev(row), abs=1e-6)
        assert spread.std > 1e-4
    assert ensemble.score(asked) == [spread.mean for spread in found]
    (margin,) = ensemble.margins([(PROMPT, TEXTS[0], TEXTS[1])])
    gaps = [column[0] - column[1] for column in columns]
    assert margin == pytest.approx((statistics.fmean(gaps), statistics.pstdev(gaps)), abs=1e-6)
    assert ensemble.spread([]) == ensemble.margins([]) == []


def test_where_members_zeros_lie_is_no_disagreement_on_a_pair(
    folders: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = PreferenceModel.load(folders[0]), PreferenceModel.load(folders[0])
    score_ids = other.score_ids
    monkeypatch.setattr(other, "score_ids", lambda rows: [value + 7 for value in score_ids(rows)])
    ensemble = PreferenceEnsemble([one, other])
    assert ensemble.spread([(PROMPT, TEXTS[0])])[0].std == pytest.approx(3.5)
    assert ensemble.margins([(PROMPT, TEXTS[0], TEXTS[1])])[0].std == pytest.approx(0, abs=1e-6)


def test_it_judges_as_one_model_does(folders: list[str]) -> None:
    members = [PreferenceModel.load(folder) for folder in folders]
    ensemble = PreferenceEnsemble(members)
    (verdict,) = PreferenceModelJudge(ensemble).compare([comparison(0, TEXTS[0], TEXTS[1])])
    (margin,) = ensemble.margins([((Message("user", "Well?"),), TEXTS[0], TEXTS[1])])
    assert verdict.prob_a == pytest.approx(float(torch.tensor(margin.mean).sigmoid()), abs=1e-5)
    assert ensemble.revision != PreferenceEnsemble(members[:2]).revision


def test_heads_of_one_model_are_members(tiny_model_dir: Path, tmp_path: Path) -> None:
    heads = ("harmless", "helpful", "honest")
    folder = str(classifier(tiny_model_dir, tmp_path / "model", heads=heads))
    first = PreferenceModel.load(folder, head="harmless")
    ensemble = PreferenceEnsemble([first.at(head) for head in first.heads])
    asked = [(PROMPT, text) for text in TEXTS]
    columns = [PreferenceModel.load(folder, head=head).score(asked) for head in heads]
    for row, spread in zip(zip(*columns, strict=True), ensemble.spread(asked), strict=True):
        assert spread == pytest.approx((statistics.fmean(row), statistics.pstdev(row)), abs=1e-6)
        assert spread.std > 1e-4


def test_members_are_told_principles_or_none_is(folders: list[str], tiny_model_dir: Path, tmp_path: Path) -> None:
    told = PreferenceModel.load(str(classifier(tiny_model_dir, tmp_path / "told", told=True)))
    with pytest.raises(ValueError, match="some members judge by a principle and some read none"):
        PreferenceEnsemble([told, PreferenceModel.load(folders[0])])
    both = PreferenceEnsemble([told, told])
    pairs = [(PROMPT, TEXTS[0], TEXTS[1]), (PROMPT, TEXTS[2], TEXTS[3])]
    kind, cold = (told.score([(PROMPT, text) for text in (a, b)], principles=[by] * 2)
                  for (_, a, b), by in zip(pairs, ("Be kind.", "Be cold."), strict=True))  # fmt: skip
    found = both.margins(pairs, principles=["Be kind.", "Be cold."])
    assert [each.mean for each in found] == pytest.approx([kind[0] - kind[1], cold[0] - cold[1]], abs=1e-5)


def test_one_member_has_no_spread(folders: list[str]) -> None:
    with pytest.raises(ValueError, match="an ensemble of 1; give at least two"):
        PreferenceEnsemble([PreferenceModel.load(folders[0])])
    assert spread_of([2.0, 2.0, 2.0]) == Spread(2.0, 0.0)
