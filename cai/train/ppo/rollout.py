"""A step's rollouts: answers of the present policy, their rewards, and their log-probabilities under both models.

Answers come from the engine; what the losses compare against comes from the training's own forward pass, over the very
passes that the first epoch will make. So the ratio of the first update is exactly 1, whatever engine drew the answers.

Failures are data: a prompt that can't be answered and a reward that is None drop their sample, and are counted. A
reward that is not a finite number is an error: it says that the reward function itself is broken.

Each process answers and scores its share; then all of them hold all of it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from accelerate.utils import gather_object
from torch import Tensor

from cai.engines.base import Completion, Engine, Failure, GenerateRequest, Sampling
from cai.engines.render import Renderer
from cai.errors import TrainingError
from cai.records.schema import Prompt
from cai.storage import seed_from
from cai.train.ppo.batch import Inputs, Minibatch, Sample, make_inputs
from cai.train.ppo.config import PPOConfig
from cai.train.rewards.sum import Rewards

SHOWN = 5
"""Rows that an error names."""


def prompts_of_step(prompts: Sequence[Prompt], config: PPOConfig, step: int) -> list[Prompt]:
    """Return the prompts of a step (from 1): the next `batch_size` of an endless series of seeded shuffles."""
    orders: dict[int, list[int]] = {}
    chosen = []
    for place in range((step - 1) * config.batch_size, step * config.batch_size):
        epoch, index = divmod(place, len(prompts))
        if epoch not in orders:
            generator = torch.Generator().manual_seed(seed_from(config.seed, "ppo order", epoch))
            orders[epoch] = torch.randperm(len(prompts), generator=generator).tolist()
        chosen.append(prompts[orders[epoch][index]])
    return chosen


def sample_answers(
    engine: Engine,
    renderer: Renderer,
    prompts: Sequence[Prompt],
    config: PPOConfig,
    *,
    step: int,
    rank: int = 0,
    world: int = 1,
) -> list[Sample]:
    """Return this process's share of the step's answers; a prompt that the engine fails on is missing."""
    sampling = Sampling(temperature=config.temperature, max_new_tokens=config.max_new_tokens)
    before: dict[str, int] = {}
    requests = []
    for row, prompt in enumerate(prompts):
        # A prompt that comes twice in a step is answered twice, not the same way.
        before[prompt.key] = before.get(prompt.key, -1) + 1
        seed = seed_from(config.seed, "ppo", step, prompt.key, before[prompt.key])
        if row % world == rank:
            requests.append(
                GenerateRequest(id=str(row), prompt=prompt.messages, seeds=(seed,), sampling=sampling, logprobs=True)
            )
    samples = []
    for result in engine.generate(requests):
        if isinstance(result, Failure) or not result.completions[0].token_ids:
            continue
        samples.append(_sample(int(result.id), prompts[int(result.id)], result.completions[0], renderer))
    return sorted(samples, key=lambda sample: sample.row)


def _sample(row: int, prompt: Prompt, completion: Completion, renderer: Renderer) -> Sample:
    return Sample(
        row=row,
        key=prompt.key,
        prompt=prompt.messages,
        answer=completion.text,
        prompt_ids=tuple(renderer.prompt_ids(prompt.messages)),
        answer_ids=completion.token_ids,
        cut_off=completion.finish_reason == "length",
        sampled_logprobs=completion.logprobs or (),
    )


def add_scores(samples: Sequence[Sample], rewards: Rewards) -> list[Sample]:
    """Return the samples with the rewards' word on each; raises TrainingError when it isn't one per answer."""
    scores = rewards.score([sample.prompt for sample in samples], [sample.answer for sample in samples])
    return [
        replace(sample, score=score.total, parts=score.parts, failure=score.failure)
        for sample, score in zip(samples, scores, strict=True)
    ]


def gather_samples(samples: list[Sample]) -> list[Sample]:
    """Return the scored samples of all processes, in the order of their rows.

    Raises TrainingError, on every process alike, when a score is not finite or no sample has one.
    """
    everyone = sorted(gather_object(samples), key=lambda sample: sample.row)
    broken = [sample for sample in everyone if sample.score is not None and not math.isfinite(sample.score)]
    if broken:
        raise TrainingError(
            f"the reward of {len(broken)} answers is not a finite number ({named(broken, with_score=True)}); "
            "the step was not taken: mend the reward function, or let it return None for an answer without a score"
        )
    kept = [sample for sample in everyone if sample.score is not None]
    if not kept:
        reasons = sorted({sample.failure for sample in everyone if sample.failure})
        why = f" ({'; '.join(reasons[:SHOWN])})" if reasons else ""
        raise TrainingError(f"no answer of this step has a reward{why}; look at the prompts and the rewards")
    return kept


def named(samples: Sequence[Sample], *, with_score: bool = False) -> str:
    """Return a few samples as an error names them: row, prompt's key, its first words."""
    shown = [
        f"row {sample.row}, prompt {sample.key[:8]} {sample.prompt[-1].content[:40]!r}"
        + (f": {sample.score}" if with_score else "")
        for sample in samples[:SHOWN]
    ]
    return "; ".join(shown) + (f"; and {len(samples) - SHOWN} more" if len(samples) > SHOWN else "")


Scorer = Callable[[Inputs], tuple[Tensor, ...]]
"""Gives tensors `[B, T]` for a forward pass's inputs."""


def score_tokens(
    scorer: Scorer, samples: Sequence[Sample], plan: Sequence[Minibatch], *, pad_id: int, device: torch.device
) -> list[Tensor]:
    """Return the scorer's tensors for all samples, `[B, T]` each, computed in the plan's passes on all processes."""
    mine: list[tuple[int, list[Tensor]]] = []
    for minibatch in plan:
        for rows in minibatch.passes:
            # Without rows of its own a process reads another's: weights in pieces come together on all or on none.
            inputs = make_inputs([samples[row] for row in rows or (0,)], pad_id).to(device)
            with torch.no_grad():
                tensors = [tensor.cpu() for tensor in scorer(inputs)]
            lengths = [len(samples[row].answer_ids) for row in rows]
            mine += [
                (row, [tensor[place, :length].clone() for tensor in tensors])
                for place, (row, length) in enumerate(zip(rows, lengths, strict=True))
            ]
    by_row = sorted(gather_object(mine), key=lambda item: item[0])
    kinds = zip(*(tensors for _, tensors in by_row), strict=True)
    return [torch.nn.utils.rnn.pad_sequence(list(kind), batch_first=True) for kind in kinds]


def check_finite(samples: Sequence[Sample], **tensors_BT: Tensor) -> None:
    """Raise TrainingError, naming rows, when a tensor of the rollout has a number that is not finite."""
    for name, tensor_BT in tensors_BT.items():
        broken = [sample for sample, row_T in zip(samples, tensor_BT, strict=True) if not bool(row_T.isfinite().all())]
        if broken:
            what = f"{name.removesuffix('_BT')} of {len(broken)} answers are not finite"
            raise TrainingError(f"{what} ({named(broken)}); the step was not taken")
