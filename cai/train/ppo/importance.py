"""Importance weights for answers that earlier weights, or another engine, have drawn.

Decoupled PPO (Hilton et al. 2021, arXiv 2110.00641; for language models AReaL, Fu et al. 2025, arXiv
2505.24298) tells three policies apart. The behavior policy drew the answers. The proximal policy is where the step's
updates begin, and the clip holds to it. The current policy is trained:

    weight * min(ratio A, clip(ratio) A)    ratio = current / proximal    weight = min(proximal / behavior, cap)

So the first ratio is 1, as on-policy, and the clip means the same. The cap bounds the variance and costs some bias
(truncated importance sampling: Ionides 2008; for one step ahead IMPACT, Luo et al. 2019, arXiv 1912.00167).

    token      each token's own weight. Without bias where answers are one token; else the states before a token stay
               those that the behavior policy reached, and what follows it is what that one would do.
    sequence   the product over the answer, on all of its tokens. Without bias, and with a variance that grows with
               length.

Left out: values. They fit the returns of the behavior policy (V-trace would correct them too).
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from cai.errors import TrainingError
from cai.losses.kl import LOG_RATIO_LIMIT
from cai.losses.logprobs import masked_mean
from cai.train.ppo.batch import Batch, Sample
from cai.train.ppo.config import PPOConfig
from cai.train.ppo.monitor import sampling_gap


def importance_weights(logprobs_BT: Tensor, behavior_BT: Tensor, mask_BT: Tensor, *, level: str) -> Tensor:
    """Return proximal / behavior, `weights_BT`, not cut off: per token, or per sequence on all of its tokens.

    Both log-probabilities are in nats. 1 where the mask is false, whatever stands there.

    >>> both = torch.tensor([[-1.0, -1.0]]), torch.tensor([[-1.0, -2.0]])
    >>> importance_weights(*both, torch.tensor([[True, True]]), level="token").log().tolist()
    [[0.0, 1.0]]
    >>> importance_weights(*both, torch.tensor([[True, True]]), level="sequence").log().tolist()
    [[1.0, 1.0]]
    """
    log_BT = torch.where(mask_BT, logprobs_BT - behavior_BT, 0.0)
    if level == "sequence":
        log_BT = torch.where(mask_BT, log_BT.sum(1, keepdim=True), 0.0)
    return log_BT.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()


def behavior_logprobs(samples: Sequence[Sample]) -> Tensor:
    """Return what the engine said of its tokens when it drew them, `behavior_BT`, at temperature 1.

    Raises TrainingError when it said nothing of some.
    """
    silent = [sample for sample in samples if len(sample.sampled_logprobs) != len(sample.answer_ids)]
    if silent:
        raise TrainingError(
            f"the engine gave no log-probabilities with {len(silent)} answers; set rollout.correction to none"
        )
    rows = [torch.tensor(sample.sampled_logprobs) for sample in samples]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


def corrected(batch: Batch, config: PPOConfig, *, step: int) -> tuple[Batch, dict[str, float]]:
    """Return a step's batch with its weights, and the readings; as it is where answers come from the policy itself.

    Raises TrainingError when the weights that drew the answers are the present ones, and the engine's log-probabilities
    are further than `max_gap` from the training's all the same.
    """
    settings = config.rollout
    if not settings.is_off_policy:
        return batch, {}
    same_weights = not settings.ahead or step == 1
    if config.temperature == 1 and same_weights and (gap := sampling_gap(batch)) > settings.max_gap:
        raise TrainingError(
            f"the engine's log-probabilities are {gap:.2g} nats per token from the training's (rollout.max_gap is "
            f"{settings.max_gap}); the step was not taken: {settings.engine} does not run this model as training does"
        )
    if settings.correction == "none":
        return batch, {}
    weights_BT = importance_weights(
        batch.logprobs_BT, behavior_logprobs(batch.samples), batch.mask_BT, level=settings.correction
    )
    held_BT = weights_BT.clamp(max=settings.max_weight)
    return replace(batch, weights_BT=held_BT), {
        "weight_mean": float(masked_mean(held_BT, batch.mask_BT)),
        "weight_max": float(weights_BT[batch.mask_BT].max()),
        "weight_truncated": float(masked_mean((weights_BT > settings.max_weight).float(), batch.mask_BT)),
    }
