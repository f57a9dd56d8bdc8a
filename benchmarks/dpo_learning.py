"""What DPO learns from pairs that people labelled, and whether it stays sound.

Start: python -m benchmarks.dpo_learning --pairs PAIRS.jsonl.gz [--quick] [--keep FOLDER] [--soft] [--pairs-used 1100]

The file has rows with `chosen` and `rejected` (hh-rlhf's form). 1,100 of 1,367 train, by a hash of the prompts; whole
prompts are held out. A preference model and a policy are trained on the same 1,100, and then, on what is held out:

- **margin**: the preference model's score of the policy's answer less that of the answer which the start of the
  training writes to the same prompt by the same seed; passes when the interval (95 %, bootstrap over prompts) is
  above 0.
- **implicit margin**: the difference of the DPO rewards of the answers that people chose and rejected; passes
  likewise.
- **sound**: the chosen answers lose at most 0.2 nats per token, at most 5 points more runs of four words are
  repeated, and the mean length is between half and twice the start's.

Prints `name  ours  start  difference  target  PASS|FAIL`, and exits with 1 when one fails. ``--soft`` flips 30 % of
DPO's labels, and gives every pair the probability that a judge who knows when it guesses would. ``--keep`` holds
models; a second start goes on from there. ``--quick`` is a few rows, and its verdicts mean nothing.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import torch
from transformers import AutoModelForCausalLM

from benchmarks.learning import BATCH, Row, Setting, flipped, ids_of, split, write
from benchmarks.policies import Written, answers_of, interval, prompts_of, repeated
from cai.engines.embedded import resolve_model
from cai.judges.preference_model import PreferenceModel
from cai.train.configs import DPOConfig, RewardConfig
from cai.train.data import Pair
from cai.train.dpo import run_dpo
from cai.train.loading import load_packed
from cai.train.packing import pack_tokens
from cai.train.readout import answer_sums, placed
from cai.train.reward import run_reward
from cai.types import Dialogue

BETA, TOKENS, PROMPT_TOKENS = 0.1, 96, 256
FLIPPED = 0.3
"""The share of wrong labels of ``--soft``."""
DROP, REPEATED = 0.2, 0.05
"""What is allowed: nats per token that a chosen answer may lose, and the rise of the share of repeated runs."""


def trained(
    train: Sequence[Row], setting: Setting, folder: Path, *, soft: bool, count: int, length: int
) -> tuple[str, str]:
    """Train a preference model on the labels of people, and a policy on so many of them; return their folders."""
    rows = write(train, folder / "train.jsonl")
    shared = {"model": setting.model, "seed": 0, "batch_size": BATCH, "max_length": setting.max_length}
    reward = RewardConfig(
        **shared, data=[rows], out=folder / "reward", learning_rate=2e-5, warmup=0.0, eval_fraction=0.0, save_every=20
    )
    run_reward(reward)
    pairs = flipped(train, FLIPPED, 0)[1] if soft else train
    dpo = DPOConfig(
        **(shared | {"max_length": length}),
        data=[write(pairs[:count], folder / "pairs.jsonl")],
        out=folder / ("dpo-soft" if soft else "dpo"),
        learning_rate=1e-5,
        beta=BETA,
        save_every=20,
    )
    run_dpo(dpo)
    return str(reward.out / "model"), str(dpo.out / "model")


@torch.no_grad()
def sums_of(model: str, pairs: Sequence[Pair], setting: Setting) -> torch.Tensor:
    """Return the log-probabilities of chosen and rejected answers, [P, 2], in nats."""
    config = DPOConfig(model=model, out=Path("unused"), data=[], precision="fp32", max_length=setting.max_length)
    network = load_packed(AutoModelForCausalLM, model, config, torch.device("cpu")).eval()
    rows = [answer_sums(network, placed(pack_tokens([pair.row]), torch.device("cpu"))) for pair in pairs]
    return torch.stack(rows)


def line(name: str, ours: float, start: float, gap: tuple[float, float, float], target: str, *, good: bool) -> bool:
    """Print the line of a figure; return its verdict."""
    told = f"{gap[0]:+.3f} [{gap[1]:+.3f}, {gap[2]:+.3f}]"
    print(f"{name}  {ours:.3f}  {start:.3f}  {told}  {target}  {'PASS' if good else 'FAIL'}", flush=True)
    return good


def compare_answers(
    judge: PreferenceModel, prompts: Sequence[Dialogue], ours: Sequence[Written], start: Sequence[Written]
) -> bool:
    """Report what the preference model and a look at their words say of two policies' answers."""
    new, old = (judge.score(list(zip(prompts, [one.text for one in side], strict=True))) for side in (ours, start))
    gap = interval([a - b for a, b in zip(new, old, strict=True)])
    met = line("preference model's score", mean(new), mean(old), gap, "interval above 0", good=gap[1] > 0)
    loops = [[repeated(one.text) for one in side] for side in (ours, start)]
    gap = interval([a - b for a, b in zip(*loops, strict=True)])
    target = f"rise <= {REPEATED}"
    met &= line("repeated runs", mean(loops[0]), mean(loops[1]), gap, target, good=gap[0] <= REPEATED)
    sizes = [[float(len(one.ids)) for one in side] for side in (ours, start)]
    gap = interval([a - b for a, b in zip(*sizes, strict=True)])
    share = mean(sizes[0]) / mean(sizes[1])
    return line("tokens", mean(sizes[0]), mean(sizes[1]), gap, "half to twice", good=0.5 <= share <= 2) and met


def compare_pairs(policy: str, pairs: Sequence[Pair], setting: Setting) -> bool:
    """Report what the policy has come to prefer among people's pairs."""
    after_P2, before_P2 = sums_of(policy, pairs, setting), sums_of(setting.model, pairs, setting)
    rewards_P2 = BETA * (after_P2 - before_P2)
    margins = (rewards_P2[:, 0] - rewards_P2[:, 1]).tolist()
    gap = interval(margins)
    met = line("implicit margin", gap[0], 0.0, gap, "interval above 0", good=gap[1] > 0)
    right = interval([float(value > 0) for value in margins])
    print(f"  held-out pairs ranked as people do: {right[0]:.3f} [{right[1]:.3f}, {right[2]:.3f}] of {len(pairs)}")
    lengths = torch.tensor([len(pair.chosen.answer) for pair in pairs])
    after, before = (float((sums_P2[:, 0] / lengths).mean()) for sums_P2 in (after_P2, before_P2))
    gap = interval(((after_P2 - before_P2)[:, 0] / lengths).tolist())
    return line("chosen answers, nats per token", after, before, gap, f"drop <= {DROP}", good=gap[0] >= -DROP) and met


def main() -> int:
    """Train, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="a few rows")
    parser.add_argument("--soft", action="store_true", help="labels of a judge that errs in 30 %%, as probabilities")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--pairs-used", type=int, default=1100, help="how many of the 1,100 the policy learns from")
    parser.add_argument("--max-length", type=int, default=512, help="tokens of prompt and answer, for the policy")
    parser.add_argument("--keep", type=Path, help="where the trained models stay")
    given = parser.parse_args()
    setting = Setting(resolve_model(given.model), 1100, 267, 512, 2e-5)
    if given.quick:
        setting = Setting(setting.model, 16, 8, 128, 2e-5)
    train, held = split(given.pairs, setting)
    with tempfile.TemporaryDirectory() as name:
        folder = given.keep or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        reward, policy = trained(
            train,
            setting,
            folder,
            soft=given.soft,
            count=given.pairs_used,
            length=min(setting.max_length, given.max_length),
        )
        prompts = prompts_of(held, setting.model, most=8 if given.quick else len(held), tokens=PROMPT_TOKENS)
        tokens = 16 if given.quick else TOKENS
        ours, start = (answers_of(model, prompts, tokens=tokens) for model in (policy, setting.model))
        (folder / "answers.json").write_text(json.dumps([[one.text for one in side] for side in (ours, start)]))
        met = compare_answers(PreferenceModel.load(reward), prompts, ours, start)
        met &= compare_pairs(policy, ids_of(held, setting, Path(name)), setting)
    return 0 if met or given.quick else 1


if __name__ == "__main__":
    sys.exit(main())
