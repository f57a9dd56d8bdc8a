"""A preference model that is told a principle: what it reads, what it refuses, and what is never cut off."""

from pathlib import Path

import pytest
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from typer.testing import CliRunner

from cai.cli.main import app
from cai.constitution import Principle
from cai.engines.render import Renderer
from cai.errors import InputError
from cai.judges.base import Comparison
from cai.judges.conditioned import WORDING, kept_ids, told, wording_in, wording_of
from cai.judges.ensemble import PreferenceEnsemble
from cai.judges.preference_model import PreferenceModel, PreferenceModelJudge
from cai.types import Message
from tests.engines import tiny
from tests.judges.test_preference_model import classifier

DIALOGUE = (Message("user", "What is a fox?"),)
ASKED = [(DIALOGUE, "It is good."), (DIALOGUE, "A lazy dog.")]


@pytest.fixture(scope="module")
def folder(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return classifier(tiny_model_dir, tmp_path_factory.mktemp("conditioned") / "model", told=True)


@pytest.fixture(scope="module")
def model(folder: Path) -> PreferenceModel:
    return PreferenceModel.load(str(folder))


def test_the_principle_is_the_systems_turn_before_what_it_says() -> None:
    assert told(DIALOGUE, " Be {kind}. ") == (Message("system", WORDING.format(text="Be {kind}.")), *DIALOGUE)
    both = told((Message("system", "You are a fox."), *DIALOGUE), "Be kind.")
    assert both[0].content == WORDING.format(text="Be kind.") + "\n\nYou are a fox."
    assert len(both) == 2
    assert told(DIALOGUE, " ") == DIALOGUE


def test_a_saved_model_remembers_and_loads_with_plain_transformers(folder: Path, model: PreferenceModel) -> None:
    assert model.wording == WORDING
    assert AutoModelForSequenceClassification.from_pretrained(folder).config.num_labels == 1
    assert wording_of(AutoTokenizer.from_pretrained(folder)) == WORDING
    assert wording_of(tiny.tokenizer()) is None
    assert wording_in({"principle_wording": "By this: {text}"}) == "By this: {text}"
    assert wording_in({"principle_wording": "without a place"}) is None


def test_a_score_is_that_of_the_told_dialogue(model: PreferenceModel, tiny_model_dir: Path, tmp_path: Path) -> None:
    plain = PreferenceModel.load(str(classifier(tiny_model_dir, tmp_path / "plain")))  # the same weights
    texts = ["Be kind.", "Be brief and cold."]
    found = model.score(ASKED, principles=texts)
    wanted = plain.score(
        [(told(dialogue, text), answer) for (dialogue, answer), text in zip(ASKED, texts, strict=True)]
    )
    assert found == pytest.approx(wanted, abs=1e-5)
    assert model.score(ASKED, principles=texts[::-1]) != pytest.approx(found, abs=1e-5)
    assert model.score(ASKED, principles=["", ""]) == pytest.approx(plain.score(ASKED), abs=1e-5)


def test_without_a_principle_it_is_refused(
    model: PreferenceModel, folder: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"judges by a principle; give principles=\[...\], a text for each answer"):
        model.score(ASKED)
    with pytest.raises(ValueError, match="1 principles for 2 answers"):
        model.score(ASKED, principles=["Be kind."])
    fixed = PreferenceModel.load(str(folder), principle="Be kind.")
    assert fixed.score(ASKED) == pytest.approx(model.score(ASKED, principles=["Be kind."] * 2), abs=1e-5)
    plain = PreferenceModel.load(str(classifier(tiny_model_dir, tmp_path / "plain")))
    with pytest.raises(InputError, match="reads no principle; leave it out"):
        plain.score(ASKED, principles=["Be kind."] * 2)
    by_two = fixed.at(principle="Be brief and cold.")
    assert by_two.score(ASKED) == pytest.approx(model.score(ASKED, principles=["Be brief and cold."] * 2), abs=1e-5)
    assert fixed.score(ASKED) != pytest.approx(by_two.score(ASKED), abs=1e-5)
    done = CliRunner().invoke(app, ["serve-reward", str(folder), "--port", "0"])
    assert done.exit_code == 2
    assert "judges by a principle, and requests name none" in done.stderr


def test_a_long_dialogue_loses_its_beginning_and_not_the_principle(model: PreferenceModel) -> None:
    short = PreferenceModel(model.model, model.renderer, revision="x", max_length=64)
    long = [((Message("user", f"{word} dog " + "quick brown fox " * 40),), "Yes.") for word in ("lazy", "good")]
    same = short.score(long, principles=["Be kind."] * 2)
    assert same[0] == pytest.approx(same[1], abs=1e-5)
    assert short.score(long, principles=["Be kind.", "Be cold."])[1] != pytest.approx(same[1], abs=1e-4)
    start = told(DIALOGUE, "Be kind.")
    kept = kept_ids(model.renderer, start, "Be kind.")
    ids = model.renderer.prompt_ids(start)
    assert "Be kind." in model.renderer.decode(ids[:kept])
    assert "fox" not in model.renderer.decode(ids[:kept])


def test_the_judge_is_told_the_comparisons_principle(model: PreferenceModel) -> None:
    items = [
        Comparison(
            id=str(n), prompt=DIALOGUE, response_a="Good.", response_b="Bad.", principle=Principle(id="a", text=text)
        )
        for n, text in enumerate(("Be kind.", "Be cold."))
    ]
    judge = PreferenceModelJudge(model)
    assert judge.by_principle
    kind, cold = (verdict.prob_a for verdict in judge.compare(items))
    assert kind != cold
    ensemble = PreferenceModelJudge(PreferenceEnsemble([model, model]))
    assert [verdict.prob_a for verdict in ensemble.compare(items)] == pytest.approx([kind, cold], abs=1e-5)


def test_where_the_template_has_no_system_it_stays_whole() -> None:
    renderer = Renderer(tiny.tokenizer(template=None))
    start = told(DIALOGUE, "Be kind.")
    ids, kept = renderer.prompt_ids(start), kept_ids(renderer, start, "Be kind.")
    assert 0 < kept < len(ids)
    assert "Be kind" in renderer.decode(ids[:kept])
