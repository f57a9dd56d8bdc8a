"""What the benchmarks of trained policies share: what a policy writes, how far it went, whether it is still sound."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from cai.engines.base import Generated, GenerateRequest, Sampling
from cai.engines.build import build_engine
from cai.engines.render import Renderer
from cai.records.pairs import pair_of
from cai.storage import seed_from
from cai.types import Dialogue

DRAWS = 10_000


@dataclass(frozen=True)
class Written:
    """An answer: its text, its tokens (the end of turn, too, if it was drawn), and whether it ended by itself."""

    text: str
    ids: tuple[int, ...]
    ended: bool


def prompts_of(rows: Sequence[dict[str, Any]], model: str, *, most: int, tokens: int) -> list[Dialogue]:
    """Return the first prompts of some rows, no longer than so many tokens, none twice."""
    renderer = Renderer(AutoTokenizer.from_pretrained(model))
    prompts = dict.fromkeys(pair_of(row)[0] for row in rows)
    return [prompt for prompt in prompts if len(renderer.prompt_ids(prompt)) <= tokens][:most]


def write_prompts(prompts: Sequence[Dialogue], path: Path) -> Path:
    """Write prompts as rows with `messages`."""
    rows = [{"messages": [{"role": turn.role, "content": turn.content} for turn in prompt]} for prompt in prompts]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def answers_of(model: str, prompts: Sequence[Dialogue], *, tokens: int, seed: int = 0) -> list[Written]:
    """Return a policy's answers at temperature 1, one per prompt; a prompt has the same seed whatever the policy."""
    engine = build_engine(model)
    requests = [
        GenerateRequest(
            id=str(place),
            prompt=prompt,
            seeds=(seed_from(seed, "answers", place),),
            sampling=Sampling(max_new_tokens=tokens),
        )
        for place, prompt in enumerate(prompts)
    ]
    found: dict[int, Written] = {}
    for result in engine.generate(requests):
        if not isinstance(result, Generated):
            raise SystemExit(f"prompt {result.id} has no answer: {result}")
        one = result.completions[0]
        found[int(result.id)] = Written(one.text, one.token_ids, one.finish_reason != "length")
    return [found[place] for place in range(len(prompts))]


@torch.no_grad()
def logprobs_of(model: str, prompts: Sequence[Dialogue], answers: Sequence[Written]) -> list[torch.Tensor]:
    """Return the log-probability of each token of each answer, in float32, one row at a time."""
    network: Any = AutoModelForCausalLM.from_pretrained(model, dtype="float32").eval()
    renderer = Renderer(AutoTokenizer.from_pretrained(model))
    found = []
    for prompt, answer in zip(prompts, answers, strict=True):
        before = renderer.prompt_ids(prompt)
        ids_1L = torch.tensor([[*before, *answer.ids]])
        logits_TV = network(input_ids=ids_1L[:, :-1]).logits[0, len(before) - 1 :]
        found.append(logits_TV.log_softmax(-1).gather(-1, ids_1L[0, len(before) :, None])[:, 0])
    return found


def kl_per_answer(policy: Sequence[torch.Tensor], reference: Sequence[torch.Tensor]) -> list[float]:
    """Return KL(policy || reference) of each answer that the policy wrote, in nats: k3, summed over its tokens."""
    gaps = [theirs_T - mine_T for mine_T, theirs_T in zip(policy, reference, strict=True)]
    return [float((gap_T.exp() - 1 - gap_T).sum()) for gap_T in gaps]


def repeated(text: str) -> float:
    """Return the share of an answer's runs of four words that it has had before.

    >>> repeated("a b c d a b c d"), repeated("short")
    (0.2, 0.0)
    """
    words = text.split()
    runs = [tuple(words[start : start + 4]) for start in range(len(words) - 3)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean and its 95 % interval by a bootstrap."""
    array = np.array(values, dtype=float)
    generator = np.random.default_rng(0)
    means = array[generator.integers(len(array), size=(DRAWS, len(array)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(array.mean()), float(low), float(high)
