"""Direct preference optimisation with a probability per pair (Rafailov et al. 2023, arXiv 2305.18290).

The reference's log-probabilities are computed once, before the first step, and kept: training then runs one model.
Each loss is a function of its own in `cai.losses`; the config chooses one.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from cai.engines.embedded import resolve_model
from cai.engines.render import Renderer
from cai.losses.dpo import dpo, implicit_rewards
from cai.losses.hinge import hinge
from cai.losses.ipo import ipo
from cai.losses.robust_dpo import robust_dpo
from cai.losses.simpo import simpo
from cai.processes import rank, world
from cai.train.common import wants_bf16
from cai.train.configs import DPOConfig
from cai.train.data import Pair, load_pairs, percentiles, training_order
from cai.train.hf import (
    CountedTrainer,
    Rows,
    answer_logprobs,
    finish,
    fit,
    prepare_process,
    training_arguments,
    with_adapter,
)
from cai.train.reward import agreement, collate

Sums = dict[str, Tensor]
"""Per pair: `policy_chosen`, `policy_rejected`, `reference_chosen`, `reference_rejected`, lengths and targets, [B]."""

LOSSES: dict[str, Callable[[Sums, DPOConfig], Tensor]] = {
    "sigmoid": lambda sums, config: dpo(**_four(sums), beta=config.beta, target_B=sums["targets"]),
    "hinge": lambda sums, config: hinge(**_four(sums), beta=config.beta, target_B=sums["targets"]),
    "robust": lambda sums, config: robust_dpo(**_likelier(sums), beta=config.beta, flip_rate=config.label_noise),
    "ipo": lambda sums, config: ipo(**_four(sums), **_lengths(sums), beta=config.beta, target_B=sums["targets"]),
    "simpo": lambda sums, config: simpo(
        policy_chosen_B=sums["policy_chosen"],
        policy_rejected_B=sums["policy_rejected"],
        **_lengths(sums),
        beta=config.beta,
        gamma=config.simpo_margin,
        target_B=sums["targets"],
    ),
}


def _four(sums: Sums) -> Sums:
    names = ("policy_chosen", "policy_rejected", "reference_chosen", "reference_rejected")
    return {f"{name}_B": sums[name] for name in names}


def _likelier(sums: Sums) -> Sums:
    """Return the four sums with the likelier winner as chosen: this loss takes labels as hard, and some as wrong."""
    swapped = sums["targets"] < 0.5
    four: Sums = {}
    for model in ("policy", "reference"):
        chosen, rejected = sums[f"{model}_chosen"], sums[f"{model}_rejected"]
        four[f"{model}_chosen_B"] = torch.where(swapped, rejected, chosen)
        four[f"{model}_rejected_B"] = torch.where(swapped, chosen, rejected)
    return four


def _lengths(sums: Sums) -> Sums:
    return {f"{side}_length_B": sums[f"{side}_length"] for side in ("chosen", "rejected")}


class DPOTrainer(CountedTrainer):
    """Learns from pairs against a reference whose log-probabilities come with the rows."""

    settings: DPOConfig

    def units(self, batch: Mapping[str, Any]) -> int:
        """Count the pairs."""
        return len(batch["targets"])

    def loss_sum(self, model: Any, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum the pairs' losses."""
        with self.accelerator.autocast():  # for the projection; the model has it by itself
            chosen_B, rejected_B = answer_sums(model, batch).chunk(2)
        lengths = (batch["labels"][:, 1:] != -100).sum(1)
        chosen_length, rejected_length = lengths.chunk(2)
        sums = {
            "policy_chosen": chosen_B,
            "policy_rejected": rejected_B,
            "reference_chosen": batch["reference_chosen"],
            "reference_rejected": batch["reference_rejected"],
            "chosen_length": chosen_length,
            "rejected_length": rejected_length,
            "targets": batch["targets"],
        }
        loss_B = LOSSES[self.settings.loss](sums, self.settings)
        return loss_B.sum(), readings({name: value.detach() for name, value in sums.items()}, self.settings)


def readings(sums: Sums, config: DPOConfig) -> dict[str, Tensor]:
    """Return what to report of a batch, summed over its pairs.

    `kl` is log reference - log policy, averaged over a pair's answers: an unbiased estimate, in nats per answer, of
    KL(reference || policy) where the reference wrote the answers, and so may be negative. SimPO has no reference: its
    rewards are per token, as its loss has them, and it has no `kl`.
    """
    if config.loss == "simpo":
        won, lost = (config.beta * sums[f"policy_{side}"] / sums[f"{side}_length"] for side in ("chosen", "rejected"))
        kl = {}
    else:
        won, lost = (
            implicit_rewards(sums[f"policy_{side}"], sums[f"reference_{side}"], beta=config.beta)
            for side in ("chosen", "rejected")
        )
        kl = {"kl": -(won + lost).sum() / (2 * config.beta)}
    return {
        "accuracy": agreement(won - lost, sums["targets"]).sum(),
        "margin": (won - lost).sum(),
        "reward_chosen": won.sum(),
        "reward_rejected": lost.sum(),
        **kl,
    }


def answer_sums(model: Any, batch: Mapping[str, Tensor]) -> Tensor:
    """Return the log-probability of each row's answer, [rows]."""
    logprobs_N, rows_N = answer_logprobs(model, batch)
    zeros = torch.zeros(len(batch["input_ids"]), dtype=logprobs_N.dtype, device=logprobs_N.device)
    return zeros.index_add(0, rows_N, logprobs_N)


def run_dpo(config: DPOConfig) -> None:
    """Train `config.model` on `config.data` and write the output folder of `cai.train.common`.

    Does nothing when the folder is finished already. Raises InputError for bad rows before the model is loaded,
    TrainingError when a loss is not finite.
    """
    if (config.out / "result.json").exists():
        return
    prepare_process(config.seed)
    path = resolve_model(config.model)
    tokenizer = AutoTokenizer.from_pretrained(path)
    renderer = Renderer(tokenizer)
    pairs, dropped = load_pairs(config.data, renderer, max_length=config.max_length)
    lengths = [len(pair) for pair in pairs]
    order = training_order(lengths, epochs=config.epochs, batch_size=config.batch_size, seed=config.seed)
    args = training_arguments(config, len(order))
    model: Any = AutoModelForCausalLM.from_pretrained(path, dtype="float32")
    known = _reference(config, model.to(args.device), pairs, renderer.pad_id)
    trainer = DPOTrainer(
        model=with_adapter(model, config, task="CAUSAL_LM"),
        args=args,
        train_dataset=Rows(pairs, order),
        data_collator=lambda rows: collate_with(rows, renderer.pad_id, known),
    )
    trainer.settings = config
    result = fit(trainer, config, label="dpo")
    about = {"rows": len(pairs), "dropped": dict(dropped), "lengths": percentiles(lengths)}
    finish(trainer, tokenizer, config, {**result, **about})


def _reference(config: DPOConfig, start: Any, pairs: Sequence[Pair], pad_id: int) -> dict[str, tuple[float, float]]:
    """Return the reference's log-probabilities of chosen and rejected answer, by the pair's name."""
    if config.loss == "simpo":
        return {pair.chosen.name: (0.0, 0.0) for pair in pairs}
    path = config.reference and resolve_model(config.reference)
    model: Any = AutoModelForCausalLM.from_pretrained(path, dtype="float32").to(start.device) if path else start
    model.eval()
    # In the policy's own precision: the two then agree before the first step, up to the rounding of other batches.
    with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=wants_bf16(config.precision)):
        return reference_sums(model, pairs, pad_id)


@torch.no_grad()
def reference_sums(model: Any, pairs: Sequence[Pair], pad_id: int, *, size: int = 8) -> dict[str, tuple[float, float]]:
    """Return, by name, the log-probabilities of each pair's answers; the processes share batches of like length."""
    found: list[tuple[str, tuple[float, float]]] = []
    device = next(model.parameters()).device
    ranked = sorted(pairs, key=len)
    for start in range(rank() * size, len(ranked), world() * size):
        batch = ranked[start : start + size]
        tensors = {
            name: value.to(device) for name, value in collate(batch, pad_id).items() if isinstance(value, Tensor)
        }
        chosen, rejected = answer_sums(model, tensors).chunk(2)
        for pair, c, r in zip(batch, chosen.tolist(), rejected.tolist(), strict=True):
            found.append((pair.chosen.name, (c, r)))
    return dict(gather_object(found) if world() > 1 else found)


def collate_with(rows: Sequence[Pair], pad_id: int, known: Mapping[str, tuple[float, float]]) -> dict[str, Any]:
    """Return a batch of pairs with the reference's log-probabilities beside them."""
    reference = torch.tensor([known[pair.chosen.name] for pair in rows])
    return {**collate(rows, pad_id), "reference_chosen": reference[:, 0], "reference_rejected": reference[:, 1]}
