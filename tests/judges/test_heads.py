"""Heads: named by the config, cut out of the score layer, and the rest is shared."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from cai.judges.heads import cut_to, heads_of, is_classifier, labels_of

HEADS = ("harmless", "helpful", "honest")
IDS = torch.tensor([[5, 6, 7, 8], [9, 8, 7, 6]])


@pytest.fixture
def model(tiny_model_dir: Path) -> Any:
    torch.manual_seed(0)
    made: Any = AutoModelForSequenceClassification.from_pretrained(tiny_model_dir, pad_token_id=0, **labels_of(HEADS))
    return made.eval()


def test_names_are_kept_and_numbers_are_none(model: Any, tiny_model_dir: Path, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    saved = AutoConfig.from_pretrained(tmp_path)
    assert heads_of(saved) == HEADS
    assert saved.label2id == {"harmless": 0, "helpful": 1, "honest": 2}
    assert is_classifier(saved)
    for outputs in (1, 2, 3):
        assert heads_of(AutoConfig.from_pretrained(tiny_model_dir, num_labels=outputs)) == ()
    assert not is_classifier(AutoConfig.from_pretrained(tiny_model_dir))
    assert AutoConfig.from_pretrained(tiny_model_dir, **labels_of(())).num_labels == 1


@pytest.mark.parametrize("bias", [False, True])
@torch.no_grad()
def test_a_cut_gives_the_column_and_leaves_the_whole_as_it_was(model: Any, bias: bool) -> None:
    if bias:
        model.score = torch.nn.Linear(model.config.hidden_size, 3)
    whole = model(IDS).logits
    for place, head in enumerate(HEADS):
        cut = cut_to(model, head)
        torch.testing.assert_close(cut(IDS).logits, whole[:, [place]])
        assert (heads_of(cut.config), cut.num_labels, cut.score.weight.shape[0]) == ((head,), 1, 1)
    assert torch.equal(model(IDS).logits, whole)
    assert heads_of(model.config) == HEADS


def test_a_cut_shares_the_trunk_and_owns_its_score(model: Any) -> None:
    cut = cut_to(model, "helpful")
    ours, theirs = ({id(weight) for weight in each.parameters()} for each in (cut, model))
    assert theirs - ours == {id(model.score.weight)}
    assert cut.score.weight.untyped_storage().nbytes() == 4 * model.config.hidden_size


def test_a_cut_saves_as_a_model_of_one_head(model: Any, tmp_path: Path) -> None:
    cut_to(model, "honest").save_pretrained(tmp_path)
    again: Any = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert heads_of(again.config) == ("honest",)
    with torch.no_grad():
        torch.testing.assert_close(again(IDS).logits, model(IDS).logits[:, [2]])
