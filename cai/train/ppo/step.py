"""One PPO step: several clipped updates of policy and value on one batch of rollouts.

Every update divides by the number of valid tokens in its whole minibatch, which each process knows: accumulation over
passes and the number of processes then change nothing but the rounding. (DDP takes the mean over processes, so the loss
is multiplied by their number first.) Policy and value head are clipped to `max_grad_norm` apart, since an untrained
value head would else hold the policy back.

An update whose loss or gradient is not finite is refused: weights and optimizer stay as they are, the rows are named.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import gather, gather_object
from torch import Tensor

from cai.errors import TrainingError
from cai.losses.kl import kl_tokens
from cai.losses.ppo import policy_loss, value_loss
from cai.train.ppo.batch import Batch, Minibatch, Sample, make_inputs, plan_minibatches
from cai.train.ppo.config import PPOConfig
from cai.train.ppo.pieces import zero_stage
from cai.train.ppo.policy import PolicyWithValue
from cai.train.ppo.rollout import named
from cai.train.ppo.updates import prepared, updates_of


class Sums(NamedTuple):
    """What the passes of an update add up to, over all processes; the last two are maxima."""

    policy_loss: float = 0.0
    value_loss: float = 0.0
    tokens: float = 0.0
    clipped: float = 0.0
    value_clipped: float = 0.0
    kl: float = 0.0
    kl_loss: float = 0.0
    """Of KL from the reference, before its coefficient; 0 where the rewards have it."""
    entropy: float = 0.0
    """In nats; 0 without a coefficient."""
    ratio_max: float = 0.0
    inverse_ratio_max: float = 0.0

    def plus(self, other: "Sums") -> "Sums":
        """Return both together."""
        pairs = list(zip(self, other, strict=True))
        return Sums._make([*(a + b for a, b in pairs[:-MAXIMA]), *(max(pair) for pair in pairs[-MAXIMA:])])


MAXIMA = 2
"""How many of `Sums` are maxima."""


class Update(NamedTuple):
    """What one update did."""

    sums: Sums
    grad_norm: float
    value_grad_norm: float
    applied: bool
    """False where `target_kl` ended the step before it."""


class Learner:
    """Holds the trained network and its optimizer, and takes steps."""

    def __init__(self, accelerator: Accelerator, policy: PolicyWithValue, config: PPOConfig, *, pad_id: int) -> None:
        """Prepare network and optimizer for however many processes there are."""
        self.accelerator, self.policy, self.config, self.pad_id = accelerator, policy, config, pad_id
        groups = [
            {"params": policy.trunk, "lr": config.learning_rate},
            {"params": policy.value_weights, "lr": config.value_learning_rate},
        ]
        fused = accelerator.device.type in ("cpu", "cuda")
        optimizer = torch.optim.AdamW(groups, weight_decay=config.weight_decay, fused=fused)
        self.model: Any
        self.optimizer: Any
        self.model, self.optimizer = prepared(accelerator, policy, optimizer, rows=config.micro_batch)
        self.updates = updates_of(accelerator, self.model, self.optimizer)
        # DeepSpeed's pieces come together where its engine is called; DDP has nothing to do with scoring.
        self.scorer = self.model if zero_stage(accelerator) else policy

    def plan(self, samples: Sequence[Sample], *, step: int, epoch: int) -> list[Minibatch]:
        """Return an epoch's minibatches as this process takes part in them."""
        lengths = [len(sample.prompt_ids) + len(sample.answer_ids) for sample in samples]
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        return plan_minibatches(lengths, self.config, step=step, epoch=epoch, rank=rank, world=world)

    def learn(self, batch: Batch, *, step: int) -> dict[str, float]:
        """Take all updates of a step, and return its metrics."""
        updates: list[Update] = []
        for epoch in range(self.config.epochs):
            for minibatch in self.plan(batch.samples, step=step, epoch=epoch):
                if not int(batch.tokens_B[list(minibatch.rows)].sum()):
                    continue  # all of its answers were cut off and are left out
                updates.append(self.update(batch, minibatch))
                if not updates[-1].applied:
                    return _metrics(updates)
        return _metrics(updates)

    def update(self, batch: Batch, minibatch: Minibatch) -> Update:
        """Compute one minibatch's gradient and apply it.

        Raises TrainingError, on every process alike, when loss or gradient is not finite.
        """
        tokens = int(batch.tokens_B[list(minibatch.rows)].sum())
        share_B = shares(batch.tokens_B, minibatch.rows, by=self.config.normalize_by)
        mine, broken = Sums(), []
        for number, rows in enumerate(minibatch.passes):
            is_last = number == len(minibatch.passes) - 1
            sums = self._pass(batch, rows, share_B, weight=self.accelerator.num_processes / tokens, last=is_last)
            if not _finite(sums):
                broken += list(rows)
            mine = mine.plus(sums)
        sums = self._over_processes(mine)
        if not _finite(sums):
            self._refuse(batch, "loss", gather_object(broken))
        if self.config.target_kl is not None and sums.kl / tokens > self.config.target_kl:
            self.updates.drop()
            return Update(sums, 0.0, 0.0, applied=False)
        groups = (self.policy.trunk, self.policy.value_weights)
        norms = [self.updates.clip(weights, self.config.max_grad_norm) for weights in groups]
        if not _finite(norms):
            self._refuse(batch, "gradient", list(minibatch.rows))
        self.updates.apply()
        return Update(sums, norms[0], norms[1], applied=True)

    def _pass(self, batch: Batch, rows: Sequence[int], share_B: Tensor, *, weight: float, last: bool = True) -> Sums:
        """Add the gradient of some rows. Without rows, one goes through without weight: DDP waits for every process."""
        chosen = list(rows) or [0]
        device = self.accelerator.device
        inputs = make_inputs([batch.samples[row] for row in chosen], self.pad_id).to(device)
        width = inputs.mask_BT.shape[1]

        def of(tensor_BT: Tensor) -> Tensor:
            return tensor_BT[chosen, :width].to(device)

        trained_B = batch.trained_B[chosen].to(device) & bool(rows)
        mask_BT = inputs.mask_BT & trained_B[:, None]
        share_BT = share_B[chosen].to(device)[:, None]
        share_BT = share_BT if batch.weights_BT is None else share_BT * of(batch.weights_BT)
        logprobs_BT, values_BT, *entropy_BT = self.model(inputs)
        # The clipped surrogate is linear in the size of an advantage, so a row is weighed by its advantages.
        policy = policy_loss(
            logprobs_BT=logprobs_BT,
            old_logprobs_BT=of(batch.logprobs_BT),
            advantages_BT=of(batch.advantages_BT) * share_BT,
            mask_BT=mask_BT,
            clip=self.config.clip,
            dual_clip=self.config.dual_clip,
        )
        value = value_loss(
            values_BT=values_BT,
            old_values_BT=of(batch.values_BT),
            returns_BT=of(batch.returns_BT),
            mask_BT=mask_BT,
            clip=self.config.value_clip,
        )
        loss = policy.loss_sum + self.config.value_coefficient * value.loss_sum
        kl_sum = entropy_sum = torch.zeros((), device=device)
        if batch.kl_in_loss:
            kl_BT = kl_tokens(logprobs_BT, of(batch.ref_logprobs_BT), mask_BT, estimator=self.config.kl_estimator)
            kl_sum = (kl_BT * share_BT).sum()
            loss = loss + batch.kl_in_loss * kl_sum
        if entropy_BT:
            entropy_sum = (torch.where(mask_BT, entropy_BT[0], 0.0) * share_BT).sum()
            loss = loss - self.config.entropy_coefficient * entropy_sum
        self.updates.backward(loss * weight, last=last)
        parts = (policy.loss_sum, value.loss_sum, policy.token_count, policy.clipped_count, value.clipped_count)
        more = (policy.kl_sum, kl_sum, entropy_sum, policy.ratio_max, 1 / policy.ratio_min)
        return Sums(*torch.stack([part.detach().double() for part in (*parts, *more)]).tolist())

    def _over_processes(self, mine: Sums) -> Sums:
        if self.accelerator.num_processes == 1:
            return mine
        # float32: not every device has doubles, and these are readings.
        table = gather(torch.tensor([mine], dtype=torch.float32, device=self.accelerator.device))
        return Sums._make([*table[:, :-MAXIMA].sum(0).tolist(), *table[:, -MAXIMA:].amax(0).tolist()])

    def _refuse(self, batch: Batch, what: str, rows: Sequence[int]) -> None:
        self.updates.drop()
        blamed = named([batch.samples[row] for row in sorted(set(rows))])
        raise TrainingError(
            f"the {what} is not a finite number ({blamed}); the update was not applied and the last checkpoint is "
            "whole: lower learning_rate, or train with precision fp32"
        )


def shares(tokens_B: Tensor, rows: Sequence[int], *, by: str) -> Tensor:
    """Return each row's weight per token, float32: 1, or what gives all trained rows of the update the same.

    The weights of all tokens of these rows add up to their number either way. Rows of 3 and 1 tokens, by sequence:
    weights 2/3 and 2.
    """
    if by == "token":
        return torch.ones(len(tokens_B))
    mine_B = tokens_B[list(rows)]
    return mine_B.sum() / ((mine_B > 0).sum() * tokens_B.clamp(min=1))


def _finite(numbers: Sequence[float]) -> bool:
    return bool(torch.tensor(numbers).isfinite().all())


def _metrics(updates: Sequence[Update]) -> dict[str, float]:
    sums = Sums()
    for update in updates:
        sums = sums.plus(update.sums)
    tokens = max(1.0, sums.tokens)
    applied = [update for update in updates if update.applied]
    return {
        "policy_loss": sums.policy_loss / tokens,
        "value_loss": sums.value_loss / tokens,
        "clip_fraction": sums.clipped / tokens,
        "value_clip_fraction": sums.value_clipped / tokens,
        "approx_kl": sums.kl / tokens,
        "ratio_max": sums.ratio_max,
        "ratio_min": 1 / sums.inverse_ratio_max if sums.inverse_ratio_max else 0.0,
        "grad_norm": sum(update.grad_norm for update in applied) / max(1, len(applied)),
        "value_grad_norm": sum(update.value_grad_norm for update in applied) / max(1, len(applied)),
        "updates": len(applied),
        **({"kl_loss": sums.kl_loss / tokens} if sums.kl_loss else {}),
        **({"policy_entropy": sums.entropy / tokens} if sums.entropy else {}),
    }
