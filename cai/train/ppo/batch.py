"""One step's answers as tensors, with the masks and the advantages that the losses read, and the order of updates.

Responses are padded on the right and lie in columns of their own: column t is the response's token t, whatever the
length of its prompt. Every process holds the whole batch (some hundred kilobytes), so whitening, metrics and the split
into minibatches need no communication and don't depend on how many processes there are.

Shapes: B rows, T tokens of the longest response, N valid response tokens.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cai.losses.gae import gae
from cai.losses.kl import k3, shaped_rewards
from cai.losses.logprobs import masked_sum, masked_whiten
from cai.storage import seed_from
from cai.train.packing import pack_tokens
from cai.train.ppo.config import PPOConfig
from cai.train.readout import placed
from cai.types import Dialogue


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A prompt, the policy's answer to it, and what the reward says of it."""

    row: int
    """Its place in the step."""
    key: str
    """The prompt's key: what errors name."""
    prompt: Dialogue
    answer: str
    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    """The end-of-turn token included, when the policy drew it."""
    cut_off: bool
    """Whether the limit ended it, and not the policy."""
    sampled_logprobs: tuple[float, ...] = ()
    """What the engine says of its tokens, at temperature 1."""
    score: float | None = None
    """The rewards' word; None is a failed reward, and the sample is dropped."""
    parts: dict[str, float] = field(default_factory=dict)
    """Each reward by its name, before weights, those that are only read too."""
    failure: str = ""
    """Why there is no score."""


class Inputs(NamedTuple):
    """What one forward pass reads: prompts with their answers end to end, without padding.

    Prompts (7, 8) and (9), answers (1, 2, 3) and (4, 5):

        packed   input_ids     [[7, 8, 1, 2, 9, 4]]    an answer's last token is predicted, never read
                 position_ids  [[0, 1, 2, 3, 0, 1]]
                 layout        ((2, (2,)), (1, (1,)))
                 read          [1, 2, 3, 4, 5]         the states that predict ...
                 answer_ids    [1, 2, 3, 4, 5]         ... these tokens
        mask_BT  [[1, 1, 1], [1, 1, 0]]                where those stand in the answers' own columns
    """

    packed: dict[str, Any]
    """As `cai.train.packing.pack_tokens` makes it."""
    mask_BT: Tensor
    """bool: true on the response's tokens."""
    pad_id: int
    """Fills up the rows of a model that can't be packed."""

    def to(self, device: torch.device) -> "Inputs":
        """Return the same on a device."""
        return self._replace(packed=placed(self.packed, device), mask_BT=self.mask_BT.to(device))


def make_inputs(samples: Sequence[Sample], pad_id: int) -> Inputs:
    """Return the samples' prompts and answers as one sequence."""
    return Inputs(
        packed=pack_tokens([(sample.prompt_ids, [sample.answer_ids]) for sample in samples]),
        mask_BT=response_mask([len(sample.answer_ids) for sample in samples]),
        pad_id=pad_id,
    )


def response_mask(lengths: Sequence[int]) -> Tensor:
    """Return `mask_BT`.

    >>> response_mask([3, 1]).int().tolist()
    [[1, 1, 1], [1, 0, 0]]
    """
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A step's rollouts, ready for the losses. All floats are float32, in nats or units of reward.

    One row, four tokens, score 1 and KL coefficient 0.1, gamma 1, lam 0.5, values 0, not whitened:

        logprobs      [-1.0, -1.0, -1.0, -1.0]
        ref_logprobs  [-1.0, -2.0, -1.0, -1.0]
        rewards       [ 0.0, -0.1,  0.0,  1.0]     the score on the last valid token
        advantages    [0.075, 0.15, 0.5,  1.0]     reward + lam * the next one's
    """

    samples: tuple[Sample, ...]
    mask_BT: Tensor
    scores_B: Tensor
    """As the reward function gave them."""
    logprobs_BT: Tensor
    """Of the policy that wrote the answers, by the training's forward pass."""
    ref_logprobs_BT: Tensor
    values_BT: Tensor
    """Before each token."""
    rewards_BT: Tensor
    advantages_BT: Tensor
    returns_BT: Tensor
    trained_B: Tensor
    """bool: false for answers that are left out of the losses."""
    kl_in_loss: float = 0.0
    """Weight of the KL penalty in the policy's loss; 0 where the rewards have it."""
    weights_BT: Tensor | None = None
    """Importance weights of the policy's loss; None are 1."""

    @property
    def tokens_B(self) -> Tensor:
        """Return how many tokens of each row are trained on, int64."""
        return self.mask_BT.sum(1) * self.trained_B

    @property
    def kl_per_answer(self) -> float:
        """KL(policy || reference) in nats, mean over answers, by k3: never negative."""
        kl_BT = k3(self.logprobs_BT, self.ref_logprobs_BT)
        weighed_BT = kl_BT if self.weights_BT is None else kl_BT * self.weights_BT
        return float(masked_sum(weighed_BT, self.mask_BT)) / len(self.samples)


def make_batch(
    samples: Sequence[Sample],
    *,
    logprobs_BT: Tensor,
    ref_logprobs_BT: Tensor,
    values_BT: Tensor,
    config: PPOConfig,
    kl_coefficient: float,
    seen: "Seen | None" = None,
) -> Batch:
    """Place the rewards and estimate the advantages. Every sample has a score.

    `seen` are the moments of all scores so far, these included: for ``normalize_scores="running"``.
    """
    mask_BT = response_mask([len(sample.answer_ids) for sample in samples])
    scores_B = torch.tensor([sample.score for sample in samples], dtype=torch.float32)
    cut_B = torch.tensor([sample.cut_off for sample in samples])
    trained_B = ~cut_B if config.cut_off == "mask" else torch.ones_like(cut_B)
    loss_mask_BT = mask_BT & trained_B[:, None]
    in_reward = config.kl_in == "reward"
    rewards_BT = shaped_rewards(
        scores_B=used_scores(samples, scores_B, config, seen),
        logprobs_BT=logprobs_BT,
        ref_logprobs_BT=ref_logprobs_BT,
        mask_BT=mask_BT,
        coefficient=kl_coefficient if in_reward else 0.0,
        estimator=config.kl_estimator,
    )
    if config.whiten_rewards:
        rewards_BT = masked_whiten(rewards_BT, loss_mask_BT, shift_mean=False)
    advantages_BT, returns_BT = gae(
        rewards_BT=rewards_BT, values_BT=values_BT, mask_BT=mask_BT, gamma=config.gamma, lam=config.lam
    )
    if config.whiten_advantages:
        advantages_BT = masked_whiten(advantages_BT, loss_mask_BT)
    return Batch(
        samples=tuple(samples),
        mask_BT=mask_BT,
        scores_B=scores_B,
        logprobs_BT=logprobs_BT,
        ref_logprobs_BT=ref_logprobs_BT,
        values_BT=values_BT,
        rewards_BT=rewards_BT,
        advantages_BT=advantages_BT,
        returns_BT=returns_BT,
        trained_B=trained_B,
        kl_in_loss=0.0 if in_reward else kl_coefficient,
    )


class Seen(NamedTuple):
    """Moments of the scores of all steps so far; a run that goes on has them from its checkpoint.

    >>> Seen().plus([1.0, 3.0])
    Seen(number=2, mean=2.0, squares=2.0)
    """

    number: int = 0
    mean: float = 0.0
    squares: float = 0.0
    """Squared distances from the mean, summed."""

    def plus(self, scores: Sequence[float]) -> "Seen":
        """Return the moments with more scores (Welford 1962)."""
        number, mean, squares = self
        for score in scores:
            number += 1
            step = score - mean
            mean += step / number
            squares += step * (score - mean)
        return Seen(number, mean, squares)

    @property
    def deviation(self) -> float:
        """The standard deviation."""
        return math.sqrt(self.squares / self.number) if self.number else 0.0


def used_scores(samples: Sequence[Sample], scores_B: Tensor, config: PPOConfig, seen: Seen | None = None) -> Tensor:
    """Return what answers earn: scores normalised, then clipped, then less the penalties for their length."""
    if config.normalize_scores != "none":
        known = Seen().plus(scores_B.tolist()) if seen is None or config.normalize_scores == "batch" else seen
        scores_B = (scores_B - known.mean) / (known.deviation + 1e-8)
    if config.reward_clip is not None:
        scores_B = scores_B.clamp(-config.reward_clip, config.reward_clip)
    cut_B = torch.tensor([float(sample.cut_off) for sample in samples])
    short_B = torch.tensor(
        [float(not sample.cut_off and len(sample.answer_ids) < config.min_tokens) for sample in samples]
    )
    return scores_B - config.missing_eos_penalty * cut_B - config.too_short_penalty * short_B


class Minibatch(NamedTuple):
    """The rows of one update, and in which forward passes this process computes its share of them."""

    rows: tuple[int, ...]
    """Of all processes together."""
    passes: tuple[tuple[int, ...], ...]
    """As many on every process; one that has nothing left to do has empty ones, and takes part without weight."""


def plan_minibatches(
    lengths: Sequence[int], config: PPOConfig, *, step: int, epoch: int, rank: int = 0, world: int = 1
) -> list[Minibatch]:
    """Return an epoch's minibatches, in an order that depends on the run's seed, the step and the epoch alone.

    `lengths` are of prompts and responses together. Within a minibatch rows go by length, longest first, and are dealt
    out to the processes in turn, so that passes have little padding and processes finish together.
    """
    generator = torch.Generator().manual_seed(seed_from(config.seed, "ppo minibatch", step, epoch))
    order = torch.randperm(len(lengths), generator=generator)
    planned = []
    for part in order.tensor_split(min(config.minibatches, len(lengths))):
        rows = sorted(part.tolist(), key=lambda row: (-lengths[row], row))
        dealt = [rows[start::world] for start in range(world)]
        count = -(-len(dealt[0]) // config.micro_batch)
        mine = dealt[rank]
        starts = range(0, count * config.micro_batch, config.micro_batch)
        planned.append(Minibatch(tuple(rows), tuple(tuple(mine[at : at + config.micro_batch]) for at in starts)))
    return planned
