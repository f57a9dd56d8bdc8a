"""Several preference models as one: mean, disagreement, and that constant offsets of members are no disagreement."""

import statistics
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from cai.errors import InputError
from cai.judges.ensemble import PreferenceEnsemble, Spread, spread_of
from cai.judges.preference_model import PreferenceModel, PreferenceModelJudge
from cai.types import Dialogue, Message
from tests.judges.test_preference_model import comparison

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
    ensemble = PreferenceEnsemble.load(folders)
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
    monkeypatch.setattr(other, "score_ids", lambda rows, **kw: [value + 7 for value in score_ids(rows, **kw)])
    ensemble = PreferenceEnsemble([one, other])
    assert ensemble.spread([(PROMPT, TEXTS[0])])[0].std == pytest.approx(3.5)
    assert ensemble.margins([(PROMPT, TEXTS[0], TEXTS[1])])[0].std == pytest.approx(0, abs=1e-6)


def test_it_judges_as_one_model_does(folders: list[str]) -> None:
    ensemble = PreferenceEnsemble.load(folders)
    (verdict,) = PreferenceModelJudge(ensemble).compare([comparison(0, TEXTS[0], TEXTS[1])])
    (margin,) = ensemble.margins([((Message("user", "Well?"),), TEXTS[0], TEXTS[1])])
    assert verdict.prob_a == pytest.approx(float(torch.tensor(margin.mean).sigmoid()), abs=1e-5)
    assert ensemble.revision != PreferenceEnsemble.load(folders[:2]).revision


def test_one_member_has_no_spread(folders: list[str], tiny_model_dir: Path) -> None:
    with pytest.raises(ValueError, match="an ensemble of 1; give at least two"):
        PreferenceEnsemble.load(folders[:1])
    with pytest.raises(InputError, match="not a preference model"):
        PreferenceEnsemble.load([folders[0], str(tiny_model_dir)])
    assert spread_of([2.0, 2.0, 2.0]) == Spread(2.0, 0.0)
