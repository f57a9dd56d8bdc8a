"""Direct preference optimisation with a probability per pair (Rafailov et al. 2023, arXiv 2305.18290).

The reference's log-probabilities come with the rows, kept by content (`cai.train.references`), or from the policy with
its adapter turned off, or from a frozen copy. No reading costs a pass of its own.
Each loss is a function of its own in `cai.losses`; the config chooses one.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from cai.engines.embedded import model_digest, resolve_model
from cai.engines.loading import read_tokenizer
from cai.engines.render import Renderer
from cai.losses.dpo import dpo, implicit_rewards
from cai.losses.hinge import hinge
from cai.losses.ipo import ipo
from cai.losses.orpo import orpo
from cai.losses.robust_dpo import robust_dpo
from cai.losses.simpo import simpo
from cai.train.checks import findings, measure_pairs, rows_of
from cai.train.common import alone, wants_bf16
from cai.train.configs import REFERENCE_FREE, DPOConfig
from cai.train.data import Pair, pairs_of, percentiles, training_order
from cai.train.hf import CountedTrainer, Rows, finish, fit, prepare_process, training_arguments
from cai.train.loading import load_packed, with_adapter
from cai.train.packing import pack_tokens
from cai.train.preflight import refuse_or_tell, tell_estimate
from cai.train.readout import answer_sums, evaluating
from cai.train.references import cache_path, reference_sums, with_references
from cai.train.reward import agreement

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
    "orpo": lambda sums, config: orpo(
        policy_chosen_B=sums["policy_chosen"],
        policy_rejected_B=sums["policy_rejected"],
        **_lengths(sums),
        beta=config.beta,
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
    frozen: Any = None
    """The reference where it is a model of its own."""

    def units(self, batch: Mapping[str, Any]) -> int:
        """Count the pairs."""
        return len(batch["targets"])

    def loss_sum(self, model: Any, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum the pairs' losses."""
        reference_B2 = self._reference(model, batch)
        chosen_B, rejected_B = answer_sums(model, batch).view(-1, 2).unbind(1)
        lengths = torch.bincount(batch["answers"], minlength=2 * len(chosen_B)).view(-1, 2)
        sums = {
            "policy_chosen": chosen_B,
            "policy_rejected": rejected_B,
            "reference_chosen": reference_B2[:, 0],
            "reference_rejected": reference_B2[:, 1],
            "chosen_length": lengths[:, 0],
            "rejected_length": lengths[:, 1],
            "targets": batch["targets"],
        }
        scaled = per_token(sums) if self.settings.per_token else sums
        loss_B = LOSSES[self.settings.loss](scaled, self.settings)
        return loss_B.sum(), readings({name: value.detach() for name, value in sums.items()}, self.settings)

    @torch.no_grad()
    def _reference(self, model: Any, batch: Mapping[str, Any]) -> Tensor:
        """Return the reference's log-probabilities of chosen and rejected answers, [B, 2]."""
        if "reference" in batch:
            kept: Tensor = batch["reference"]
            return kept
        if self.settings.loss in REFERENCE_FREE:
            return torch.zeros(len(batch["targets"]), 2, device=batch["input_ids"].device)
        reference = model if self.frozen is None else self.frozen
        off = self.accelerator.unwrap_model(model).disable_adapter() if self.frozen is None else nullcontext()
        with self.accelerator.autocast(), evaluating(reference), off:
            return answer_sums(reference, batch).view(-1, 2)


def per_token(sums: Sums) -> Sums:
    """Return the sums with every log-probability divided by its answer's length."""
    names = [f"{model}_{side}" for model in ("policy", "reference") for side in ("chosen", "rejected")]
    return {**sums, **{name: sums[name] / sums[f"{name.partition('_')[2]}_length"] for name in names}}


def readings(sums: Sums, config: DPOConfig) -> dict[str, Tensor]:
    """Return what to report of a batch, summed over its pairs.

    `kl` is log reference - log policy, averaged over a pair's answers: an unbiased estimate, in nats per answer, of
    KL(reference || policy) where the reference wrote the answers, and so may be negative. `chosen_drop` is that
    of the chosen answer alone: DPO can widen the margin while both answers grow less likely (Pal et al.
    2024, arXiv 2402.13228). Rewards are per token where the loss has them so. SimPO and ORPO have no reference, and
    neither of the two.
    """
    if config.loss in REFERENCE_FREE:
        sums = {**sums, **{f"reference_{side}": torch.zeros_like(sums["targets"]) for side in ("chosen", "rejected")}}
    scaled = per_token(sums) if config.per_token or config.loss in REFERENCE_FREE else sums
    won, lost = (
        implicit_rewards(scaled[f"policy_{side}"], scaled[f"reference_{side}"], beta=config.beta)
        for side in ("chosen", "rejected")
    )
    against = {}
    if config.loss not in REFERENCE_FREE:
        drop_chosen, drop_rejected = (
            sums[f"reference_{side}"] - sums[f"policy_{side}"] for side in ("chosen", "rejected")
        )
        against = {"kl": (drop_chosen + drop_rejected).sum() / 2, "chosen_drop": drop_chosen.sum()}
    return {
        "accuracy": agreement(won - lost, sums["targets"]).sum(),
        "margin": (won - lost).sum(),
        "reward_chosen": won.sum(),
        "reward_rejected": lost.sum(),
        **against,
    }


@alone
def run_dpo(config: DPOConfig) -> None:
    """Train `config.model` on `config.data` and write the output folder of `cai.train.common`.

    Does nothing when the folder is finished already. Raises InputError for bad rows before the model is loaded,
    StorageError when another run has the folder, TrainingError when a loss is not finite.
    """
    prepare_process(config.seed)
    path = resolve_model(config.model)
    tokenizer: Any = read_tokenizer(config.model)
    renderer = Renderer(tokenizer)
    items, dropped = measure_pairs(rows_of(config.data), renderer)
    pairs, dropped = pairs_of(items, config.data, dropped, max_length=config.max_length)
    refuse_or_tell(findings(items, config.max_length, template=tokenizer.chat_template is not None))
    lengths = [len(pair) for pair in pairs]
    order = training_order(lengths, epochs=config.epochs, batch_size=config.batch_size, seed=config.seed)
    args = training_arguments(config, len(order))
    tell_estimate(config, path, [pair.row for pair in pairs], order, args)
    model = load_packed(AutoModelForCausalLM, path, config, args.device)
    known, frozen = _references(config, model, path, pairs)
    trainer = DPOTrainer(
        model=with_adapter(model, config, task="CAUSAL_LM"),
        args=args,
        train_dataset=Rows(pairs, order),
        data_collator=lambda rows: collate(rows, known),
    )
    trainer.settings, trainer.frozen = config, frozen
    result = fit(trainer, config, label="dpo")
    about = {"rows": len(pairs), "dropped": dict(dropped), "lengths": percentiles(lengths)}
    finish(trainer, tokenizer, config, {**result, **about})


def _references(
    config: DPOConfig, start: Any, path: str, pairs: Sequence[Pair]
) -> tuple[dict[str, tuple[float, float]] | None, Any]:
    """Return the reference's sums by content, or the reference itself; neither where the loss or the adapter has it."""
    if config.loss in REFERENCE_FREE or config.reference_mode == "adapter":
        return None, None
    path = resolve_model(config.reference) if config.reference else path

    def load() -> Any:
        return load_packed(AutoModelForCausalLM, path, config, start.device)

    if config.reference_mode == "copy":
        return None, load().requires_grad_(False)
    # In the policy's own precision: the two then agree before the first step, up to the rounding of other batches.
    bf16 = wants_bf16(config.precision)
    kept = cache_path(f"{model_digest(path)} {config.quantization}", bf16=bf16)
    return reference_sums(load if config.reference else lambda: start, pairs, kept, bf16=bf16), None


def collate(rows: Sequence[Pair], known: Mapping[str, tuple[float, float]] | None) -> dict[str, Any]:
    """Return a packed batch that predicts both answers of each pair, with targets and what the reference says of it."""
    batch = {
        **pack_tokens([pair.row for pair in rows]),
        "targets": torch.tensor([pair.target for pair in rows]),
        "names": [pair.chosen.name for pair in rows],
    }
    return batch if known is None else with_references(batch, rows, known)
