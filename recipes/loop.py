"""Constitutional AI from start to end in plain code: read this first.

Start: python recipes/loop.py (a few minutes on two cores)

A helpful model answers red-team prompts, criticises and rewrites its answers by a principle (1), and is finetuned on
that (2). It answers each prompt twice; a judge says which answer is better (3), a preference model learns it (4), PPO
improves the policy against that (5), and old and new are compared (6). Section numbers: Bai et al. 2022, 2212.08073.

Left out, and in `cai/`: journals and resume, processes, mixed precision, batching by length, helpful samples, checks of
quality, early stops. B is the batch, T tokens of an answer, H the hidden size.
"""

import argparse
import copy
import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from cai import load_constitution, load_prompts
from cai.constitution import Constitution, draw
from cai.constitution.ask import critique_request, revision_request
from cai.engines.base import Failure, GenerateRequest, Sampling
from cai.engines.embedded import resolve_model
from cai.engines.render import Renderer
from cai.engines.transformers import TransformersEngine
from cai.evaluate.stats import WinRate, win_rate
from cai.judges.base import Comparison, Judge
from cai.judges.contrasts import contrast_states
from cai.judges.direction import Direction, DirectionJudge, middle_layers
from cai.losses.gae import gae
from cai.losses.kl import shaped_rewards
from cai.losses.logprobs import selected_logprobs
from cai.losses.ppo import policy_loss, value_loss
from cai.losses.preference import bradley_terry
from cai.records.loaders import packaged_prompts, take_evenly
from cai.records.splits import split
from cai.storage import seed_from
from cai.types import Dialogue

Model = Any
"""A model of transformers, whose types would say less than its name."""

Row = tuple[list[int], list[int]]
"""Ids of a prompt and of an answer to it."""


def sample(engine: TransformersEngine, dialogues: Sequence[Dialogue], *, tokens: int, seed: int) -> list[str]:
    """Return one answer per dialogue, from the model's own distribution: temperature 1, nothing cut off."""
    sampling = Sampling(temperature=1.0, max_new_tokens=tokens)
    requests = [
        GenerateRequest(id=str(number), prompt=dialogue, seeds=(seed_from(seed, number),), sampling=sampling)
        for number, dialogue in enumerate(dialogues)
    ]
    found = {result.id: result for result in engine.generate(requests)}
    results = [found[request.id] for request in requests]
    return ["" if isinstance(result, Failure) else result.completions[0].text.strip() for result in results]


def revise(
    engine: TransformersEngine, constitution: Constitution, prompts: Sequence[Dialogue], *, tokens: int, seed: int
) -> list[str]:
    """Draft an answer to each prompt, criticise it by a principle drawn afresh, and rewrite it."""
    drafts = sample(engine, prompts, tokens=tokens, seed=seed)
    drawn = [draw(constitution, seed_from(seed, number)) for number in range(len(drafts))]
    work = list(zip(drawn, prompts, drafts, strict=True))
    asked = [critique_request(constitution, *item)[0] for item in work]
    critiques = sample(engine, asked, tokens=tokens, seed=seed + 1)
    asked = [revision_request(constitution, *item, critique)[0] for item, critique in zip(work, critiques, strict=True)]
    return sample(engine, asked, tokens=tokens, seed=seed + 2)


def padded(rows: Sequence[Row], pad: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return right-padded ids, which of them are real, and which belong to the answer, all [B, prompt + T]."""
    longest = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids = torch.full((len(rows), longest), pad)
    real, answers = torch.zeros_like(ids, dtype=torch.bool), torch.zeros_like(ids, dtype=torch.bool)
    for index, (prompt, answer) in enumerate(rows):
        end = len(prompt) + len(answer)
        ids[index, :end] = torch.tensor(prompt + answer)
        real[index, :end] = True
        answers[index, len(prompt) : end] = True
    return ids, real, answers


def answer_logprobs(model: Model, rows: Sequence[Row], pad: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return log-probability and last hidden state before each token, and which tokens are the answer's.

    Shapes: [B, L-1], [B, L-1, H], [B, L-1]: position i is about token i+1.
    """
    ids, real, answers = padded(rows, pad)
    output = model(input_ids=ids, attention_mask=real, output_hidden_states=True)
    logprobs = selected_logprobs(output.logits[:, :-1], ids[:, 1:])
    return logprobs, output.hidden_states[-1][:, :-1], answers[:, 1:]


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """Take one step downhill, with the gradient no longer than 1."""
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 1.0)
    optimizer.step()


def finetune(model: Model, rows: Sequence[Row], pad: int, *, seed: int, lr: float = 2e-5) -> None:
    """Maximise the likelihood of the answers, and of nothing else (section 3.1)."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)
    order = random.Random(seed).sample(range(len(rows)), len(rows))
    for start in range(0, len(order), 4):
        logprobs, _, mask = answer_logprobs(model, [rows[index] for index in order[start : start + 4]], pad)
        loss = -logprobs[mask].mean()
        descend(optimizer, loss)


def scores(preference_model: Model, rows: Sequence[Row], pad: int) -> Tensor:
    """Return the preference model's score of each answer, read at its last token: [B]."""
    ids, real, _ = padded(rows, pad)
    hidden = preference_model.base_model(input_ids=ids, attention_mask=real).last_hidden_state
    last = hidden[torch.arange(len(rows)), real.sum(1) - 1]
    return torch.squeeze(preference_model.score(last), -1)


def train_preference_model(
    preference_model: Model, pairs: Sequence[tuple[Row, Row, float]], pad: int, *, lr: float = 2e-5
) -> None:
    """Learn the judge's probabilities as they are: soft labels, not winners (section 4.1)."""
    optimizer = torch.optim.AdamW(preference_model.parameters(), lr=lr, weight_decay=0.0)
    for start in range(0, len(pairs), 4):
        batch = pairs[start : start + 4]
        a = scores(preference_model, [pair[0] for pair in batch], pad)
        b = scores(preference_model, [pair[1] for pair in batch], pad)
        loss = bradley_terry(a, b, target_B=torch.tensor([pair[2] for pair in batch])).mean()
        descend(optimizer, loss)


def ppo_step(
    policy: Model,
    value_head: torch.nn.Linear,
    reference: Model,
    preference_model: Model,
    rows: Sequence[Row],
    optimizer: torch.optim.Optimizer,
    pad: int,
) -> float:
    """Improve the policy on answers that it has just sampled; return their mean score (section 4.2)."""
    with torch.no_grad():
        score = scores(preference_model, rows, pad)
        old_logprobs, hidden, mask = answer_logprobs(policy, rows, pad)
        old_values = value_head(hidden).squeeze(-1)
        ref_logprobs, _, _ = answer_logprobs(reference, rows, pad)
        rewards = shaped_rewards(
            scores_B=score, logprobs_BT=old_logprobs, ref_logprobs_BT=ref_logprobs, mask_BT=mask, coefficient=0.05
        )
        advantages, returns = gae(rewards_BT=rewards, values_BT=old_values, mask_BT=mask, gamma=1.0, lam=0.95)
        advantages = (advantages - advantages[mask].mean()) / (advantages[mask].std() + 1e-8)
    for _ in range(2):
        logprobs, hidden, mask = answer_logprobs(policy, rows, pad)
        policy_part = policy_loss(
            logprobs_BT=logprobs, old_logprobs_BT=old_logprobs, advantages_BT=advantages, mask_BT=mask, clip=0.2
        )
        values = value_head(hidden).squeeze(-1)
        value_part = value_loss(values_BT=values, old_values_BT=old_values, returns_BT=returns, mask_BT=mask, clip=0.2)
        loss = (policy_part.loss_sum + 0.1 * value_part.loss_sum) / mask.sum()
        descend(optimizer, loss)
    return float(score.mean())


def compare(
    judge: Judge, prompts: Sequence[Dialogue], ours: Sequence[str], theirs: Sequence[str]
) -> list[float | None]:
    """Return, per prompt, the probability that our answer is the better one."""
    principles = load_constitution("harmless").principles
    comparisons = [
        Comparison(id=str(i), prompt=prompt, response_a=a, response_b=b, principle=principles[i % len(principles)])
        for i, (prompt, a, b) in enumerate(zip(prompts, ours, theirs, strict=True))
    ]
    found = {verdict.id: verdict.prob_a for verdict in judge.compare(comparisons)}
    return [found[item.id] for item in comparisons]


def main(model: str, *, prompts: int, tokens: int, seed: int) -> WinRate:
    """Make a successor of a model and compare the two."""
    torch.manual_seed(seed)
    path = resolve_model(model)
    tokenizer = AutoTokenizer.from_pretrained(path)
    parent = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    policy = copy.deepcopy(parent)
    renderer, constitution = Renderer(tokenizer), load_constitution("harmless")
    pad, engine = renderer.pad_id, TransformersEngine(policy, tokenizer)
    parent_engine = TransformersEngine(parent, tokenizer)
    train, held_out = split(load_prompts([packaged_prompts("red_team")]))
    train_prompts = [prompt.messages for prompt in take_evenly(train, prompts)]
    new_prompts = [prompt.messages for prompt in take_evenly(held_out, prompts)]

    def row(prompt: Dialogue, answer: str) -> Row:
        return renderer.prompt_ids(prompt), renderer.answer_ids(answer, end_of_turn=True)

    # 1. Draft, criticise, revise (section 3.1).
    revisions = revise(engine, constitution, train_prompts, tokens=tokens, seed=seed)
    print(f"1 revised {len(revisions)} answers, the first: {revisions[0][:70]!r}")

    # 2. Finetune on the revisions.
    finetune(policy, [row(*pair) for pair in zip(train_prompts, revisions, strict=True)], pad, seed=seed)

    # 3. Two answers per prompt, and a judge that learned from the constitution's own contrasts which way is better.
    first = sample(engine, train_prompts, tokens=tokens, seed=seed + 3)
    second = sample(engine, train_prompts, tokens=tokens, seed=seed + 4)
    layers = middle_layers(parent.config.num_hidden_layers)
    contrasts = contrast_states(parent_engine, train_prompts, constitution.principles, layers=layers, seed=seed)
    judge = DirectionJudge(parent_engine, Direction.fit(contrasts, layers))
    labels = compare(judge, train_prompts, first, second)
    pairs = [
        (row(prompt, a), row(prompt, b), label)
        for prompt, a, b, label in zip(train_prompts, first, second, labels, strict=True)
        if label is not None
    ]
    print(f"3 labelled {len(pairs)} pairs")

    # 4. The preference model.
    preference_model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=1, dtype=torch.float32)
    train_preference_model(preference_model, pairs, pad)

    # 5. PPO from the finetuned model, which is also the reference that it must not leave far behind.
    reference, value_head = copy.deepcopy(policy), torch.nn.Linear(policy.config.hidden_size, 1)
    torch.nn.init.zeros_(value_head.weight)
    optimizer = torch.optim.AdamW([*policy.parameters(), *value_head.parameters()], lr=1e-6, weight_decay=0.0)
    for step in range(2):
        answers = sample(engine, train_prompts, tokens=tokens, seed=seed + 10 + step)
        rows = [row(*pair) for pair in zip(train_prompts, answers, strict=True)]
        score = ppo_step(policy, value_head, reference, preference_model, rows, optimizer, pad)
        print(f"5 step {step + 1}: mean score {score:+.3f}")

    # 6. Successor against parent, on held-out prompts.
    ours = sample(engine, new_prompts, tokens=tokens, seed=seed + 20)
    theirs = sample(parent_engine, new_prompts, tokens=tokens, seed=seed + 20)
    rate = win_rate(compare(judge, new_prompts, ours, theirs))
    print(f"6 wins {rate.win_rate:.0%} of {rate.n} ({rate.low:.0%} to {rate.high:.0%}): {rate.verdict}")
    return rate


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded", help="a folder, a Hugging Face id, or 'embedded'")
    parser.add_argument("--prompts", type=int, default=16, help="prompts to train on, and to compare on")
    parser.add_argument("--tokens", type=int, default=48, help="the most tokens of an answer")
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
