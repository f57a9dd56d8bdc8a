"""The preference model: a score per answer, trained so that score differences are the labels' log-odds.

Bradley-Terry with a probability per pair (Bai et al. 2022, section 4.1: soft labels are much better than hard ones). Of
several heads, a pair teaches its own; all count alike, so a head with twice the pairs has twice the weight.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from cai.engines.embedded import resolve_model
from cai.engines.loading import read_tokenizer
from cai.engines.render import Renderer
from cai.errors import InputError, Problem
from cai.judges.conditioned import remember, wording_of
from cai.judges.heads import is_classifier, labels_of
from cai.losses.noise import forward_corrected
from cai.losses.preference import bradley_terry, soft_cross_entropy
from cai.train.calibration import brier, calibration_error
from cai.train.checks import findings, measure_pairs, rows_of
from cai.train.common import alone
from cai.train.configs import RewardConfig
from cai.train.data import Pair, load_pairs, pairs_of, percentiles, training_order
from cai.train.early_stop import StopOnHeldOut
from cai.train.heads import check_start, count_heads, head_of
from cai.train.hf import CountedTrainer, Rows, finish, fit, newest_checkpoint, prepare_process, training_arguments
from cai.train.loading import load_packed, with_adapter
from cai.train.packing import pack_ends
from cai.train.preflight import refuse_or_tell, tell_estimate
from cai.train.principles import check_told, principle_of, principle_texts
from cai.train.readout import answer_scores, evaluating, placed


class PreferenceModelTrainer(CountedTrainer):
    """Learns scores from pairs."""

    centering = 0.0
    label_noise = 0.0
    heads: tuple[str, ...] = ()

    def units(self, batch: Mapping[str, Any]) -> int:
        """Count the pairs."""
        return len(batch["targets"])

    def loss_sum(self, model: Any, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum the soft cross-entropies of the pairs."""
        chosen_B, rejected_B = pair_scores(model, batch)
        loss_B = bradley_terry(chosen_B, rejected_B, target_B=batch["targets"], centering=self.centering)
        if self.label_noise:
            loss_B = forward_corrected(chosen_B - rejected_B, flip_rate=self.label_noise, target_B=batch["targets"])
            loss_B = loss_B + self.centering * (chosen_B + rejected_B).square()
        margin_B = (chosen_B - rejected_B).detach()
        right_B = agreement(margin_B, batch["targets"])
        sums = {"accuracy": right_B.sum(), "margin": margin_B.sum()}
        for number, name in enumerate(self.heads):
            own_B = batch["heads"] == number
            sums |= {f"accuracy_{name}": (right_B & own_B).sum(), f"pairs_{name}": own_B.sum()}
        return loss_B.sum(), sums

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Divide each head's accuracy by its own pairs; a head without a pair since the last log has none."""
        if "loss" in logs and self._sums and self.heads:
            counted = [self._sums.pop(f"{what}_{name}") for what in ("accuracy", "pairs") for name in self.heads]
            sums_2K = self.accelerator.reduce(torch.tensor(counted, device=self.args.device), reduction="sum")
            for name, right, count in zip(self.heads, *sums_2K.view(2, -1).tolist(), strict=True):
                logs = {**logs, f"accuracy_{name}": right / count} if count else logs
        super().log(logs, start_time)


@alone
def run_reward(config: RewardConfig) -> None:
    """Train a preference model on `config.data` and write the output folder of `cai.train.common`.

    Does nothing when the folder is finished already. Raises InputError for bad rows before the model is loaded,
    StorageError when another run has the folder, TrainingError when a loss is not finite.
    """
    prepare_process(config.seed)
    path = resolve_model(config.model)
    tokenizer: Any = read_tokenizer(config.model)
    renderer = Renderer(tokenizer)
    check_start(config.model, path, config.heads)
    principle = reads_principles(config, tokenizer)
    head = (lambda place, row: head_of(place, row, config.heads)) if config.heads else None
    items, dropped = measure_pairs(rows_of(config.data), renderer, principle, head)
    if principle:
        check_told(items)
    pairs, dropped = pairs_of(items, config.data, dropped, max_length=config.max_length)

    def load(paths: Sequence[Path]) -> list[Pair]:
        return load_pairs(paths, renderer, max_length=config.max_length, principle=principle, head=head)[0]

    train, held_out, dropped = load_split(config, pairs, dropped, load)
    taught = count_heads(train, config.heads)
    if config.stop is not None and not held_out:
        fix = "raise eval_fraction, or give eval_data"
        raise InputError(Problem("stop", 0, 0, "no prompt came to be held out, so there is nothing to stop by", fix))
    # Prompts that are held out, too, are no finding: they have just been dropped.
    refuse_or_tell(findings(items, config.max_length, template=tokenizer.chat_template is not None))
    lengths = [len(pair) for pair in train]
    order = training_order(lengths, epochs=config.epochs, batch_size=config.batch_size, seed=config.seed)
    args = training_arguments(config, len(order))
    tell_estimate(config, path, [pair.row for pair in train], order, args)
    model = load_with_head(path, config, pad_apart(renderer), args.device)
    trainer = PreferenceModelTrainer(
        model=with_adapter(model, config, task="SEQ_CLS", keep=["score"]),
        args=args,
        train_dataset=Rows(train, order),
        data_collator=collate,
    )
    trainer.centering, trainer.label_noise, trainer.heads = config.centering, config.label_noise, tuple(config.heads)
    stop = stop_on(config, trainer, held_out)
    result = fit(trainer, config, label="preference model")
    about = {"rows": len(train), "dropped": dict(dropped), "lengths": percentiles(lengths)}
    about |= {"rows_by_head": taught} if taught else {}
    held = evaluate(trainer.accelerator.unwrap_model(trainer.model), held_out, heads=tuple(config.heads))
    stopped = {"stop": {"best": stop.best, "measured": stop.measured}} if stop else {}
    finish(trainer, tokenizer, config, {**result, **about, "held_out": held, **stopped})


def stop_on(config: RewardConfig, trainer: CountedTrainer, held_out: Sequence[Pair]) -> StopOnHeldOut | None:
    """Let a trainer end by its config's `stop`, if it has one; a loss is compared by its negative."""
    settings = config.stop
    if settings is None:
        return None

    def measure(model: Any) -> float:
        found: float = evaluate(trainer.accelerator.unwrap_model(model), held_out)[settings.metric]
        return found if settings.metric == "accuracy" else -found

    stop = StopOnHeldOut(
        measure,
        every=settings.every,
        patience=settings.patience,
        least=settings.least,
        checkpoint=newest_checkpoint(config.out / "checkpoints"),
    )
    trainer.add_callback(stop)
    return stop


def reads_principles(config: RewardConfig, tokenizer: Any) -> Callable[[dict[str, Any]], str] | None:
    """Return what gives a row's principle, and mark the tokenizer; None for a model that is not to read any.

    Raises InputError for a constitution that can't be read, and when training starts from a model that reads principles
    and this one is not to.
    """
    if not config.principle_conditioned:
        if wording_of(tokenizer):
            fix = "set principle_conditioned: true, or start from another model"
            raise InputError(Problem("model", 0, 0, f"{config.model} reads a principle before each dialogue", fix))
        return None
    texts = principle_texts(config.constitution)
    remember(tokenizer)
    return lambda row: principle_of(row, texts)


def load_split(
    config: RewardConfig,
    pairs: Sequence[Pair],
    dropped: Counter[str],
    load: Callable[[Sequence[Path]], list[Pair]],
) -> tuple[list[Pair], list[Pair], Counter[str]]:
    """Return pairs to train on, pairs held out, and the drops by reason; no prompt is on both sides.

    Raises InputError for bad rows to hold out, or when every prompt to train on is held out.
    """
    if not config.eval_data:
        return *split_by_prompt(pairs, share=config.eval_fraction), dropped
    held_out = load(config.eval_data)
    held = {pair.key for pair in held_out}
    train = [pair for pair in pairs if pair.key not in held]
    if not train:
        raise InputError(Problem("eval_data", 0, 0, "it has every prompt of 'data'", "hold out other prompts"))
    if len(train) < len(pairs):
        dropped["the prompt is held out"] += len(pairs) - len(train)
    return train, held_out, dropped


def pad_apart(renderer: Renderer) -> int:
    """Return a padding id that no row ends with, and let the tokenizer have it, too, where its own is an end of turn.

    Transformers reads a score at the last token that is not padding: with one id for both, a token too early. Where
    the tokenizer has no other control token (GPT-2) that stays so; scores read here go by the mask.
    """
    tokenizer = renderer.tokenizer
    if renderer.pad_id in renderer.end_ids:
        spare = tokenizer.convert_ids_to_tokens(sorted(renderer.control_ids - renderer.end_ids))
        if spare:
            tokenizer.pad_token = min(spare, key=lambda token: "pad" not in token)
            return int(tokenizer.pad_token_id)
    return renderer.pad_id


def load_with_head(path: str, config: RewardConfig, pad_id: int, device: torch.device) -> Any:
    """Return the model with the config's heads as its scores, which depend on the seed alone.

    Their weights come from a generator of their own: what else was drawn before does not matter.
    """
    labels = labels_of(tuple(config.heads))
    model = load_packed(AutoModelForSequenceClassification, path, config, device, **labels)
    head = model.score.weight
    if not is_classifier(model.config):
        generator = torch.Generator().manual_seed(config.seed)
        scale = 1.0 / (head.shape[1] + 1) ** 0.5
        with torch.no_grad():
            head.copy_(torch.randn(head.shape, generator=generator) * scale)
    model.config.pad_token_id = pad_id
    return model


def collate(rows: Sequence[Pair]) -> dict[str, Any]:
    """Return a packed batch that is read at both ends of each pair; the pairs' targets, float32, heads and names."""
    return {
        **pack_ends([pair.row for pair in rows]),
        "targets": torch.tensor([pair.target for pair in rows]),
        "heads": torch.tensor([pair.head for pair in rows]),
        "names": [pair.chosen.name for pair in rows],
    }


def pair_scores(model: Any, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Return the scores of chosen and of rejected answers of `collate`'s batch, [B] each, by the heads of the pairs."""
    heads_B = batch["heads"]
    scores_B2K = answer_scores(model, batch).view(len(heads_B), 2, -1)
    chosen_B, rejected_B = scores_B2K.gather(2, heads_B.view(-1, 1, 1).expand(-1, 2, 1))[..., 0].unbind(1)
    return chosen_B, rejected_B


def agreement(margin_B: Tensor, target_B: Tensor) -> Tensor:
    """Return whether each margin between chosen and rejected has the sign that the target asks for; 0 has none."""
    return torch.where(target_B >= 0.5, margin_B > 0, margin_B < 0)


def split_by_prompt(pairs: Sequence[Pair], *, share: float) -> tuple[list[Pair], list[Pair]]:
    """Return pairs to train on and pairs held out; all pairs of one prompt are on one side, whatever the order."""

    def held_out(pair: Pair) -> bool:
        value = hashlib.sha256(pair.key.encode()).digest()
        return int.from_bytes(value[:6], "big") < share * 2**48

    train = [pair for pair in pairs if not held_out(pair)]
    return (train, [pair for pair in pairs if held_out(pair)]) if train else (list(pairs), [])


@torch.no_grad()
def evaluate(model: Any, pairs: Sequence[Pair], *, size: int = 8, heads: Sequence[str] = ()) -> dict[str, Any]:
    """Return the `figures` of a model with packed attention on pairs.

    Under `sources` they are those of each kind of row (else file), under `confidence` of each band of labels by how
    sure these are, ``0.9`` for 0.9 to 1, and under `heads` of each head.
    """
    ranked = sorted(pairs, key=len)
    margins = []
    for start in range(0, len(ranked), size):
        batch = placed(collate(ranked[start : start + size]), model.device)
        with evaluating(model):
            chosen_B, rejected_B = pair_scores(model, batch)
        margins.append((chosen_B - rejected_B).cpu())
    margin_N = torch.cat(margins) if margins else torch.empty(0)
    target_N, head_N = (torch.tensor([getattr(pair, name) for pair in ranked]) for name in ("target", "head"))
    found: dict[str, Any] = figures(margin_N, target_N)
    source_N, band_N = [pair.source for pair in ranked], confidence_band(target_N).tolist()
    parts = {
        "sources": {name: [each == name for each in source_N] for name in sorted(set(source_N))},
        "confidence": {f"{band / 10}": [each == band for each in band_N] for band in sorted(set(band_N))},
        "heads": {name: (head_N == number).tolist() for number, name in enumerate(heads)},
    }
    for what, members in parts.items():
        of_each = {name: torch.tensor(own, dtype=torch.bool) for name, own in members.items()}
        if of_each:
            found[what] = {name: figures(margin_N[own_N], target_N[own_N]) for name, own_N in of_each.items()}
    return found


def confidence_band(target_N: Tensor) -> Tensor:
    """Return the tenth, 5 to 9, in which the likelier side's probability lies; 1 is in the last."""
    sure_N = torch.maximum(target_N, 1 - target_N).double()
    return (sure_N * 10 + 1e-6).long().clamp(5, 9)  # 0.6 in float32 is a little above or below


def figures(margin_B: Tensor, target_B: Tensor) -> dict[str, float]:
    """Return how well margins agree with targets: `pairs`, `accuracy`, `loss`, and `brier` and `ece` (calibration)."""
    if not len(margin_B):
        return {"pairs": 0}
    return {
        "pairs": len(margin_B),
        "accuracy": float(agreement(margin_B, target_B).double().mean()),
        "loss": float(soft_cross_entropy(margin_B, target_B).double().mean()),
        "brier": brier(margin_B, target_B),
        "ece": calibration_error(margin_B, target_B),
    }
