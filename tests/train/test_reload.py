"""One preference model in every form it is kept in: as trained, saved, adapter apart or merged, bf16, 8 and 4 bits.

What gets lost elsewhere: a head that the adapter does not save, a padding id that the config lacks, a head that is
quantised with the rest.
"""

import itertools
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from cai.engines.loading import Quantization
from cai.engines.render import Renderer
from cai.errors import InputError
from cai.judges.preference_model import PreferenceModel, head_of, score_batch
from cai.train import reward
from cai.train.common import save_model
from cai.train.data import load_pairs
from tests.engines import tiny
from tests.train import rig

LORA = {"r": 4, "alpha": 8}
WAYS: dict[str, dict[str, Any]] = {"full": {}, "lora": {"lora": LORA}, "qlora": {"lora": LORA, "quantization": "4bit"}}


class Trained:
    """A preference model that was trained in one way, and what it said of its rows when its training ended."""

    def __init__(self, way: str, start: Path, folder: Path, *, heads: Sequence[str] = ()) -> None:
        """Train it; each pair teaches the head whose turn it is."""
        self.start = start
        kinds = heads or [""]
        rows = [rig.pair(number, kind=kinds[number % len(kinds)]) for number in range(12)]
        config = rig.settings(
            "reward", folder, start, data=[rig.write(folder / "rows.jsonl", rows)], learning_rate=1e-2, epochs=3,
            heads={head: [head] for head in heads}, **WAYS[way],
        )  # fmt: skip
        self.model, self.adapter = config.out / "model", config.out / "adapter"
        renderer = Renderer(AutoTokenizer.from_pretrained(start))
        pairs, _ = load_pairs(config.data, renderer, max_length=512)
        self.rows = [[*side.prompt, *side.answer] for pair in pairs for side in (pair.chosen, pair.rejected)]
        self.pad_id, self.scores = renderer.pad_id, torch.empty(0)
        finish = reward.finish

        def watched(trainer: Any, *rest: Any) -> None:
            with torch.no_grad():
                self.scores = score_batch(trainer.model, self.rows, self.pad_id)
            finish(trainer, *rest)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(reward, "finish", watched)
            reward.run_reward(config)

    def scored(self, model: Any) -> Tensor:
        """Return what a model that plain Transformers loaded says of the rows, by the judge's own reading."""
        with torch.no_grad():
            return score_batch(model.eval(), self.rows, self.pad_id)

    def loaded(self, **options: Any) -> Tensor:
        """Return what the saved model says of the rows."""
        return torch.tensor(PreferenceModel.load(str(self.model), **options).score_ids(self.rows))


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with layers as wide as bitsandbytes wants them on a CPU: multiples of 32."""
    folder = tmp_path_factory.mktemp("start")
    tiny.llama(hidden_size=64, intermediate_size=128, num_attention_heads=4).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=list(WAYS))
def trained(request: pytest.FixtureRequest, start: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    if request.param == "qlora":
        pytest.importorskip("bitsandbytes", reason="4-bit weights are an extra: pip install 'cai[quantization]'")
    return Trained(request.param, start, tmp_path_factory.mktemp(request.param))


HEADS = ("harmless", "helpful")


@pytest.fixture(scope="module", params=list(WAYS))
def two(request: pytest.FixtureRequest, start: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    if request.param == "qlora":
        pytest.importorskip("bitsandbytes", reason="4-bit weights are an extra: pip install 'cai[quantization]'")
    return Trained(request.param, start, tmp_path_factory.mktemp(request.param), heads=HEADS)


def agreement(one: Tensor, other: Tensor, *, least: float) -> tuple[float, int]:
    """Return the share of pairs of rows that both rank alike, among those at least this far apart in the first."""
    far = [(i, j) for i, j in itertools.combinations(range(len(one)), 2) if abs(float(one[i] - one[j])) >= least]
    alike = sum(bool(one[i] > one[j]) == bool(other[i] > other[j]) for i, j in far)
    return alike / max(1, len(far)), len(far)


def test_the_saved_model_scores_as_the_trained_one(trained: Trained) -> None:
    found = trained.loaded()
    assert float(trained.scores.std()) > 0.1
    if trained.model.parts[-3].startswith("qlora"):  # trained over weights in 4 bits, merged into the whole ones
        share, count = agreement(found, trained.scores, least=float(found.std()) / 2)
        assert count > 50
        assert share > 0.95
    else:
        torch.testing.assert_close(found, trained.scores, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("trained", ["lora", "qlora"], indirect=True)
def test_an_adapter_apart_scores_as_the_merged_model_whatever_head_the_base_draws(trained: Trained) -> None:
    heads = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        base: Any = AutoModelForSequenceClassification.from_pretrained(trained.start, num_labels=1)
        heads.append(base.score.weight.detach().clone())
        apart: Any = PeftModel.from_pretrained(base, str(trained.adapter))
        merged = trained.loaded()
        torch.testing.assert_close(trained.scored(apart), merged, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(trained.scored(apart.merge_and_unload()), merged, atol=1e-5, rtol=1e-5)
    assert not torch.equal(*heads)


@pytest.mark.parametrize("trained", ["lora"], indirect=True)
def test_an_adapter_where_a_model_is_wanted_is_refused_by_name(trained: Trained) -> None:
    with pytest.raises(InputError, match=f"this is an adapter without its base model; name {trained.model}$"):
        PreferenceModel.load(str(trained.adapter))


def test_only_an_adapter_is_saved_apart(trained: Trained) -> None:
    assert trained.adapter.exists() == ("lora" in trained.model.parts[-3])


def test_plain_transformers_gives_the_score_for_a_padded_batch(trained: Trained) -> None:
    model = rig.loaded_whole(AutoModelForSequenceClassification, trained.model).eval()
    assert (model.config.num_labels, model.config.pad_token_id) == (1, trained.pad_id)
    assert model.score.weight.dtype == torch.float32
    assert model.score.weight.shape[0] == 1
    wanted = trained.loaded()
    batch = {"input_ids": [list(row) for row in trained.rows]}
    for side in ("right", "left"):
        tokenizer: Any = AutoTokenizer.from_pretrained(trained.model, padding_side=side)
        with torch.no_grad():
            found = model(**tokenizer.pad(batch, return_tensors="pt")).logits[:, 0]
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_saved_again_it_is_the_same_to_the_bit(trained: Trained, tmp_path: Path) -> None:
    again = PreferenceModel.load(str(trained.model))
    save_model(again.model, again.renderer.tokenizer, tmp_path / "again", constitutions=[])
    assert PreferenceModel.load(str(tmp_path / "again")).score_ids(trained.rows) == again.score_ids(trained.rows)


def test_in_bfloat16_the_scores_are_near(trained: Trained) -> None:
    wanted, found = trained.loaded(), trained.loaded(dtype="bfloat16")
    assert 0 < float((wanted - found).abs().max()) < 0.1 * float(wanted.std())


@pytest.mark.parametrize(("bits", "least"), [("8bit", 0.25), ("4bit", 0.5)])
def test_quantised_it_ranks_as_before_and_the_head_is_whole(trained: Trained, bits: Quantization, least: float) -> None:
    pytest.importorskip("bitsandbytes", reason="quantised weights are an extra: pip install 'cai[quantization]'")
    model = PreferenceModel.load(str(trained.model), quantization=bits)
    kinds = {type(module).__name__ for module in model.model.modules()}
    assert "Linear4bit" in kinds or "Linear8bitLt" in kinds
    assert type(head_of(model.model)) is torch.nn.Linear
    assert model.revision.endswith(f"+{bits}")
    wanted, found = trained.loaded(), torch.tensor(model.score_ids(trained.rows))
    assert float((wanted - found).abs().max()) > 0
    share, count = agreement(wanted, found, least=least * float(wanted.std()))
    assert count > 50
    assert share > 0.95
    shuffled = found[torch.tensor(random.Random(0).sample(range(len(found)), len(found)))]
    assert agreement(wanted, shuffled, least=0.0)[0] < 0.8  # the measure tells other scores apart


def test_every_head_is_saved_merged_and_loaded_with_its_name(two: Trained, tmp_path: Path) -> None:
    plain = rig.loaded_whole(AutoModelForSequenceClassification, two.model).eval()
    assert plain.config.id2label == dict(enumerate(HEADS))
    found = torch.stack([two.loaded(head=head) for head in HEADS], dim=1)
    torch.testing.assert_close(two.scored(plain), found, atol=1e-5, rtol=1e-5)
    apart = agreement(found[:, 0], found[:, 1], least=0.0)[0]
    assert apart < 0.9  # no head is another's copy
    for ours, trained in zip(found.T, two.scores.T, strict=True):
        if two.model.parts[-3].startswith("qlora"):  # trained over weights in 4 bits, merged into the whole ones
            assert agreement(ours, trained, least=float(ours.std()))[0] > 0.95
        else:
            torch.testing.assert_close(ours, trained, atol=1e-5, rtol=1e-5)
    if two.adapter.exists():
        base: Any = AutoModelForSequenceClassification.from_pretrained(two.start, num_labels=2)
        with_adapter: Any = PeftModel.from_pretrained(base, str(two.adapter))
        torch.testing.assert_close(two.scored(with_adapter), found, atol=1e-5, rtol=1e-5)
    for place, head in enumerate(HEADS):
        cut = PreferenceModel.load(str(two.model), head=head)
        save_model(cut.model, cut.renderer.tokenizer, tmp_path / head, constitutions=[])
        assert PreferenceModel.load(str(tmp_path / head)).score_ids(two.rows) == found[:, place].tolist()


def test_in_4_bits_each_head_is_whole_and_ranks_as_before(two: Trained) -> None:
    pytest.importorskip("bitsandbytes", reason="quantised weights are an extra: pip install 'cai[quantization]'")
    first = PreferenceModel.load(str(two.model), head=HEADS[0], quantization="4bit")
    for model, head in zip((first, first.at(HEADS[1])), HEADS, strict=True):
        assert "Linear4bit" in {type(module).__name__ for module in model.model.modules()}
        assert type(head_of(model.model)) is torch.nn.Linear
        wanted, found = two.loaded(head=head), torch.tensor(model.score_ids(two.rows))
        share, count = agreement(wanted, found, least=0.5 * float(wanted.std()))
        assert count > 50
        assert share > 0.95
        again = PreferenceModel.load(str(two.model), head=head, quantization="4bit")
        torch.testing.assert_close(found, torch.tensor(again.score_ids(two.rows)))
