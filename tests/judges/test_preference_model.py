"""The preference model in use: what it refuses to load, and scores that depend on the answer alone."""

import random
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from cai.constitution import load_constitution
from cai.engines.render import Renderer
from cai.errors import EngineError, InputError
from cai.judges.base import Comparison
from cai.judges.conditioned import remember
from cai.judges.heads import labels_of
from cai.judges.preference_model import Mark, PreferenceModel, PreferenceModelJudge, check_asked
from cai.types import Dialogue, Message

PRINCIPLE = load_constitution("harmless").principles[0]
WORDS = re.findall(r"\w+", "the quick brown fox jumps over a lazy dog and thinks that it is good")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def classifier(source: Path, folder: Path, outputs: int = 1, *, heads: Sequence[str] = (), told: bool = False) -> Path:
    """Save the tiny model with random scores, by number or by name; `told`: as one that reads a principle."""
    torch.manual_seed(0)
    labels = labels_of(heads) if heads else {"num_labels": outputs}
    AutoModelForSequenceClassification.from_pretrained(source, **labels).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(source)
    if told:
        remember(tokenizer)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return classifier(tiny_model_dir, tmp_path_factory.mktemp("preference-model") / "model")


@pytest.fixture(scope="module")
def judge(folder: Path) -> PreferenceModel:
    return PreferenceModel.load(str(folder))


def answers(count: int) -> list[tuple[Dialogue, str]]:
    draw = random.Random(0)
    return [
        ((Message("user", " ".join(draw.choices(WORDS, k=1 + n % 5))),), " ".join(draw.choices(WORDS, k=1 + n % 13)))
        for n in range(count)
    ]


def test_a_causal_model_is_refused(tiny_model_dir: Path) -> None:
    with pytest.raises(InputError, match="not a preference model; name the model folder of a reward stage"):
        PreferenceModel.load(str(tiny_model_dir))


def test_so_is_a_classifier_of_several_classes(tiny_model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a preference model"):
        PreferenceModel.load(str(classifier(tiny_model_dir, tmp_path / "classes", outputs=3)))


def test_a_score_head_that_is_missing_is_refused_not_drawn(folder: Path, tmp_path: Path) -> None:
    headless = tmp_path / "headless"
    shutil.copytree(folder, headless)
    weights = load_file(headless / "model.safetensors")
    del weights["score.weight"]
    save_file(weights, headless / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EngineError, match=r"the files have no weights for score\.weight"):
        PreferenceModel.load(str(headless))


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        PreferenceModel.load(str(tmp_path / "none"))


def test_a_score_depends_on_its_answer_alone(judge: PreferenceModel) -> None:
    asked = answers(17)
    scores = judge.score(asked)
    assert max(scores) - min(scores) > 0.01
    alone = [judge.score([one])[0] for one in asked]
    assert scores == pytest.approx(alone, abs=1e-5)
    assert judge.score(asked[::-1]) == pytest.approx(scores[::-1], abs=1e-5)
    for batch_tokens in (1, 100, 10_000):
        other = PreferenceModel(judge.model, judge.renderer, revision="x", batch_tokens=batch_tokens)
        assert other.score(asked) == pytest.approx(scores, abs=1e-5)
    assert judge.score([]) == []


def test_the_score_is_that_of_plain_transformers(judge: PreferenceModel, folder: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    renderer = Renderer(AutoTokenizer.from_pretrained(folder))
    for dialogue, answer in answers(4):
        ids, _ = renderer.example((*dialogue, Message("assistant", answer)))
        with torch.no_grad():
            assert judge.score([(dialogue, answer)])[0] == pytest.approx(
                float(model(torch.tensor([ids])).logits[0, 0]), abs=1e-5
            )


def test_a_long_dialogue_loses_its_beginning(judge: PreferenceModel) -> None:
    short = PreferenceModel(judge.model, judge.renderer, revision="x", max_length=24)
    long = (Message("user", "quick brown fox " * 20),)
    other = (Message("user", "a lazy dog " + "quick brown fox " * 20),)
    assert short.score([(long, "Yes.")]) == short.score([(other, "Yes.")])
    assert short.score([(long, "Yes.")]) != short.score([(long, "No.")])
    assert judge.score([(long, "Yes.")]) != judge.score([(other, "Yes.")])


def comparison(number: int, a: str, b: str) -> Comparison:
    prompt = (Message("user", "Well?"),)
    return Comparison(id=str(number), prompt=prompt, response_a=a, response_b=b, principle=PRINCIPLE)


def test_the_judge_gives_the_odds_of_the_scores_difference(judge: PreferenceModel) -> None:
    items = [comparison(n, answer, "A lazy dog.") for n, (_, answer) in enumerate(answers(40))]
    items.append(comparison(40, "Same.", "Same."))
    verdicts = list(PreferenceModelJudge(judge).compare(items))
    assert [verdict.id for verdict in verdicts] == [str(n) for n in range(41)]
    for item, verdict in zip(items[:40], verdicts, strict=False):
        a, b = judge.score([(item.prompt, item.response_a), (item.prompt, item.response_b)])
        assert verdict.prob_a == pytest.approx(float(torch.tensor(a - b).sigmoid()), abs=1e-5)
    assert (verdicts[40].prob_a, verdicts[40].reason) == (None, "tie")
    blank = list(PreferenceModelJudge(judge).compare([comparison(0, "", "No."), comparison(1, "Yes.", ":")]))
    assert [verdict.reason for verdict in blank] == ["answer A has no words", "answer B has no words"]
    assert [verdict.prob_a for verdict in blank] == [None, None]
    (there,) = PreferenceModelJudge(judge).compare([comparison(0, "Yes.", "No.")])
    (back,) = PreferenceModelJudge(judge).compare([comparison(0, "No.", "Yes.")])
    assert there.prob_a is not None
    assert back.prob_a == pytest.approx(1 - there.prob_a, abs=1e-5)


def test_rows_of_ids_are_scored_at_their_end(judge: PreferenceModel) -> None:
    rows = [[5, 6, 7], [9], [8, 9, 10, 11, 12]]
    found = judge.score_ids(rows)
    assert found == pytest.approx([judge.score_ids([row])[0] for row in rows], abs=1e-5)
    with pytest.raises(ValueError, match="a row of no ids has no score"):
        judge.score_ids([[5], []])


HEADS = ("harmless", "helpful")


@pytest.fixture(scope="module")
def two(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(classifier(tiny_model_dir, tmp_path_factory.mktemp("two") / "model", heads=HEADS))


def test_a_head_is_its_column_of_what_plain_transformers_gives(two: str) -> None:
    whole = AutoModelForSequenceClassification.from_pretrained(two).eval()
    rows = [[5, 6, 7, 8], [9, 10], [8, 9, 10, 11, 12]]
    with torch.no_grad():
        wanted = torch.cat([whole(torch.tensor([row])).logits for row in rows])
    assert float((wanted[:, 0] - wanted[:, 1]).abs().min()) > 1e-3
    for place, head in enumerate(HEADS):
        model = PreferenceModel.load(two, head=head)
        assert model.heads == HEADS
        assert model.score_ids(rows) == pytest.approx(wanted[:, place].tolist(), abs=1e-5)


def test_heads_share_the_trunk_and_are_told_apart(two: str) -> None:
    harmless = PreferenceModel.load(two, head="harmless")
    helpful = harmless.at("helpful")
    assert helpful.score_ids([[5, 6]]) == PreferenceModel.load(two, head="helpful").score_ids([[5, 6]])
    assert harmless.score_ids([[5, 6]]) != helpful.score_ids([[5, 6]])
    trunks = [{id(weight) for weight in each.model.base_model.parameters()} for each in (harmless, helpful)]
    assert trunks[0] == trunks[1]
    assert len({harmless.revision, helpful.revision, PreferenceModel.load(two, head="helpful").revision}) == 2
    assert helpful.at(principle=None).score_ids([[5, 6]]) == helpful.score_ids([[5, 6]])
    with pytest.raises(ValueError, match="no head 'helpfull'; did you mean 'helpful'"):
        harmless.at("helpfull")


@pytest.mark.parametrize(
    ("heads", "asked", "why"),
    [
        (HEADS, {}, r"has the heads harmless, helpful; say which with 'head', as in head='harmless'"),
        (HEADS, {"head": "harmles"}, "no head 'harmles'; did you mean 'harmless'?"),
        ((), {"head": "harmless"}, "no head 'harmless': its one score has no name; leave out 'head'"),
        ((), {"principle": "Be kind."}, "reads no principle; leave out 'principle'"),
    ],
)
def test_what_it_cannot_be_asked_is_refused_before_its_weights_are_read(
    tiny_model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    heads: tuple[str, ...],
    asked: dict[str, str],
    why: str,
) -> None:
    folder = classifier(tiny_model_dir, tmp_path / "model", heads=heads)
    monkeypatch.setattr(AutoModelForSequenceClassification, "from_pretrained", None)
    with pytest.raises(InputError, match=why):
        PreferenceModel.load(str(folder), head=asked.get("head"), principle=asked.get("principle"))


def test_a_mark_is_read_off_the_folder(two: str, folder: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    assert check_asked(two, head="helpful") == Mark(HEADS, None)
    assert check_asked(str(folder)) == Mark((), None)
    one = classifier(tiny_model_dir, tmp_path / "one", heads=("harmless",), told=True)
    mark = check_asked(str(one), principle="Be kind.")
    assert mark.heads == ("harmless",)
    assert mark.wording is not None
    assert PreferenceModel.load(str(one), principle="Be kind.").score(answers(1))


def test_single_answers_are_scored_by_their_principle_where_the_model_reads_one(
    tiny_model_dir: Path, judge: PreferenceModel, tmp_path: Path
) -> None:
    asked = [(dialogue, answer, PRINCIPLE) for dialogue, answer in answers(3)]
    assert PreferenceModelJudge(judge).scores(asked) == judge.score(answers(3))
    told = PreferenceModel.load(str(classifier(tiny_model_dir, tmp_path / "told", told=True)))
    found = PreferenceModelJudge(told).scores(asked)
    assert found == told.score(answers(3), principles=[PRINCIPLE.text] * 3)
    assert found != told.score(answers(3), principles=["Be kind."] * 3)
