"""On hard labels the losses and their gradients are those of TRL's trainers, run for real on a tiny random Llama."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.reward_config import RewardConfig
from trl.trainer.reward_trainer import RewardTrainer

from cai.losses.dpo import dpo
from cai.losses.hinge import hinge
from cai.losses.ipo import ipo
from cai.losses.logprobs import masked_sum, projected_logprobs, selected_logprobs
from cai.losses.preference import bradley_terry
from cai.losses.robust_dpo import robust_dpo
from cai.losses.simpo import simpo

WORDS = list("abcdefghijklmnop")
ROWS = [
    {"prompt": "a b", "chosen": " c d e", "rejected": " f"},
    {"prompt": "g", "chosen": " h i", "rejected": " j k l m n"},
    {"prompt": "o p a c", "chosen": " e", "rejected": " b d"},
]
BETA = 0.3


def tiny_config() -> LlamaConfig:
    """Two layers of width 16, with weights large enough that a random model is far from uniform."""
    config = LlamaConfig(
        vocab_size=len(WORDS) + 3,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=32,
        initializer_range=0.5,
        pad_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=False,
    )
    config.num_labels = 1
    return config


def word_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word, and three special ones."""
    vocabulary = {word: i for i, word in enumerate(["<unk>", "<pad>", "<eos>", *WORDS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", eos_token="<eos>")


def settings(folder: Path) -> dict[str, Any]:
    """What both trainers need to run on a CPU and write nothing."""
    return {"output_dir": str(folder), "use_cpu": True, "bf16": False, "report_to": "none", "disable_tqdm": True}


def loss_of(trainer: DPOTrainer | RewardTrainer, batch: dict[str, Tensor]) -> Tensor:
    """TRL's own loss of a batch."""
    loss: Tensor = trainer.compute_loss(trainer.model, dict(batch))  # type: ignore[no-untyped-call]
    return loss


def gradients(model: torch.nn.Module, loss: Tensor) -> dict[str, Tensor]:
    """The gradient of every parameter that the loss reaches."""
    model.zero_grad()
    torch.autograd.backward(loss)
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(model: torch.nn.Module, ours: Tensor, theirs: Tensor) -> None:
    """Compare two losses of one model, and then every gradient, to 1e-5."""
    assert float(theirs.detach()) != 0
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    our_gradients, their_gradients = gradients(model, ours), gradients(model, theirs)
    assert our_gradients.keys() == their_gradients.keys()
    assert any(gradient.abs().max() > 1e-3 for gradient in their_gradients.values())
    for name, gradient in their_gradients.items():
        torch.testing.assert_close(our_gradients[name], gradient, atol=1e-5, rtol=1e-4, msg=name)


@pytest.fixture(scope="module")
def dpo_trainer(tmp_path_factory: pytest.TempPathFactory) -> DPOTrainer:
    """TRL's trainer with two different models as policy and reference."""
    torch.manual_seed(0)
    policy, reference = LlamaForCausalLM(tiny_config()), LlamaForCausalLM(tiny_config())
    return DPOTrainer(
        model=policy,
        ref_model=reference,
        args=DPOConfig(beta=BETA, **settings(tmp_path_factory.mktemp("dpo"))),
        train_dataset=Dataset.from_list(ROWS),
        processing_class=word_tokenizer(),
    )


def response_sums(model: LlamaForCausalLM, batch: dict[str, Tensor], projected: bool) -> tuple[Tensor, Tensor]:
    """Sums over the response's tokens, `(2B,)`, and their count: with the head on those alone, or on all."""
    ids, mask = batch["input_ids"], batch["completion_mask"].bool()
    labels, valid = ids[:, 1:], mask[:, 1:]
    if projected:
        hidden = model.model(input_ids=ids, attention_mask=batch["attention_mask"]).last_hidden_state[:, :-1]
        logprobs = torch.zeros(labels.shape)
        head = model.lm_head.weight
        logprobs = logprobs.masked_scatter(valid, projected_logprobs(hidden[valid], head, labels[valid], tile=3))
    else:
        logits = model(input_ids=ids, attention_mask=batch["attention_mask"]).logits
        logprobs = selected_logprobs(logits[:, :-1], labels.masked_fill(~valid, -100))
    return masked_sum(logprobs, valid, dim=1), valid.sum(1)


def preference_columns(trainer: DPOTrainer, batch: dict[str, Tensor], projected: bool) -> dict[str, Tensor]:
    """The sums that the losses take, and the lengths."""
    policy_sums, lengths = response_sums(cast(LlamaForCausalLM, trainer.model), batch, projected)
    with torch.no_grad():
        reference_sums, _ = response_sums(cast(LlamaForCausalLM, trainer.ref_model), batch, projected)
    columns = {"policy": policy_sums.chunk(2), "reference": reference_sums.chunk(2), "length": lengths.chunk(2)}
    return {
        **{f"{who}_{side}_B": columns[who][i] for who in ("policy", "reference") for i, side in enumerate(SIDES)},
        **{f"{side}_length_B": columns["length"][i] for i, side in enumerate(SIDES)},
    }


SIDES = ("chosen", "rejected")


def without_lengths(columns: dict[str, Tensor]) -> dict[str, Tensor]:
    """The four sums."""
    return {name: column for name, column in columns.items() if "length" not in name}


LOSSES: dict[str, Callable[[dict[str, Tensor]], Tensor]] = {
    "sigmoid": lambda columns: dpo(**without_lengths(columns), beta=BETA),
    "hinge": lambda columns: hinge(**without_lengths(columns), beta=BETA),
    "ipo": lambda columns: ipo(**columns, beta=BETA),
    "robust": lambda columns: robust_dpo(**without_lengths(columns), beta=BETA, flip_rate=0.2),
}


@pytest.mark.parametrize("projected", [True, False], ids=["projected", "all-logits"])
@pytest.mark.parametrize("name", LOSSES)
def test_dpo_and_its_variants(dpo_trainer: DPOTrainer, name: str, projected: bool) -> None:
    model = cast(LlamaForCausalLM, dpo_trainer.model).train()
    dpo_trainer.loss_types, dpo_trainer.label_smoothing = [name], 0.2
    batch: dict[str, Tensor] = dpo_trainer.data_collator(list(cast(Dataset, dpo_trainer.train_dataset)))
    assert batch["completion_mask"].sum(1).tolist() == [4, 3, 2, 2, 6, 3]  # words of the response, and <eos>
    theirs = loss_of(dpo_trainer, batch)
    ours = LOSSES[name](preference_columns(dpo_trainer, batch, projected)).mean()
    assert_same(model, ours, theirs)


@pytest.mark.parametrize("centering", [None, 0.05])
@pytest.mark.parametrize("with_margin", [False, True])
def test_the_preference_model(tmp_path: Path, centering: float | None, with_margin: bool) -> None:
    rows = [{**row, "margin": 0.5 * i} for i, row in enumerate(ROWS)] if with_margin else ROWS
    trainer = RewardTrainer(
        model=LlamaForSequenceClassification(tiny_config()),
        args=RewardConfig(center_rewards_coefficient=centering, **settings(tmp_path)),
        train_dataset=Dataset.from_list(rows),
        processing_class=word_tokenizer(),
    )
    model = cast(LlamaForSequenceClassification, trainer.model).train()
    batch: dict[str, Tensor] = trainer.data_collator(list(cast(Dataset, trainer.train_dataset)))
    assert ("margin" in batch) == with_margin
    margin = batch.get("margin")
    rewards = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.squeeze(-1)
    chosen, rejected = rewards.chunk(2)
    ours = bradley_terry(chosen, rejected, margin_B=margin, centering=centering or 0.0).mean()
    # TRL takes every key of its batch as an argument of the model, and Llama ignores the margin.
    theirs = loss_of(trainer, batch)
    assert_same(model, ours, theirs)


@pytest.mark.filterwarnings("ignore:You are importing from 'trl.experimental'")
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_simpo(smoothing: float) -> None:
    from trl.experimental.cpo import CPOTrainer

    sums, lengths = -20 * torch.rand(2, 6), torch.randint(1, 9, (2, 6))
    trainer = SimpleNamespace(
        loss_type="simpo",
        beta=2.5,
        simpo_gamma=1.4,
        label_smoothing=smoothing,
        alpha=0.0,
        accelerator=SimpleNamespace(device=torch.device("cpu")),
    )
    theirs, _, _ = CPOTrainer.cpo_loss(cast(CPOTrainer, trainer), *(sums / lengths))
    ours = simpo(
        policy_chosen_B=sums[0],
        policy_rejected_B=sums[1],
        chosen_length_B=lengths[0],
        rejected_length_B=lengths[1],
        beta=2.5,
        gamma=1.4,
        target_B=torch.full((6,), 1 - smoothing),
    )
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
