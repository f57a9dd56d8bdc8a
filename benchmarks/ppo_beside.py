"""PPO beside TRL 1.12.0, on a preference model of human labels: the same prompts and samples, and what each learns.

Start: bash scripts/trl-1.12.sh && python -m benchmarks.ppo_beside --pairs PAIRS.jsonl.gz [--quick] [--steps 40]
       [--keep FOLDER] [--plot FILE.svg]

The file has rows with `chosen` and `rejected` (hh-rlhf's form). A preference model is trained on 1,100 of them, and
both sides train SmolLM2 against it on prompts of those rows: 16 answers of at most 32 tokens per step, temperature 1,
two epochs, the same learning rate (constant) and KL penalty (k1 in the reward, 0.05). The peer has a value model of
its own that starts as the preference model, as its examples do; ours has a head on the policy.

Afterwards each policy, and the start, answers prompts that neither was trained on, by the same seeds. Ours passes
when its held-out score has risen above the start's (paired bootstrap over prompts, 95 %, above 0) at a KL of at most
10 nats per answer (k3, from log-probabilities in float32). The peer's line has no verdict. Prints `name  ours  peer
target PASS|FAIL`, and exits with 1 when one fails. `--plot` draws score and KL over samples. `--keep` holds what is
trained; a second start goes on from there. `--quick` is two steps, and its verdicts mean nothing.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.ppo import peer_trainer

ROOT = Path(__file__).resolve().parents[1]
BATCH, EPOCHS, TOKENS, PROMPT_TOKENS, RATE, KL_COEFFICIENT = 16, 2, 32, 128, 1e-5, 0.05
PIECES = 4
"""Forward passes of a batch, on both sides: memory, no part of the result."""
MOST_KL = 10.0
SMOOTH = 5
"""Steps of a curve's points."""


def peer(given: dict[str, Any]) -> None:
    """Train as TRL does, in its own environment; write its curve and its policy."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(given["model"], padding_side="left")
    # Its own is the end of turn: an answer that ends would look like one that is padded.
    tokenizer.pad_token = given["pad"]
    trainer = peer_trainer(
        AutoModelForCausalLM.from_pretrained(given["model"], dtype="float32"),
        tokenizer,
        given["ids"],
        given,
        per_device_train_batch_size=BATCH // PIECES,
        gradient_accumulation_steps=PIECES,
        local_rollout_forward_batch_size=BATCH // PIECES,
        num_ppo_epochs=EPOCHS,
        total_episodes=BATCH * given["steps"],
        response_length=given["tokens"],
        stop_token="eos",
        learning_rate=RATE,
        lr_scheduler_type="constant",
        kl_coef=KL_COEFFICIENT,
        logging_steps=1,
        seed=given["seed"],
    )
    trainer.train()
    curve = [
        {"samples": place * BATCH, "score": row["objective/scores"], "kl": row["objective/kl"]}
        for place, row in enumerate((row for row in trainer.state.log_history if "objective/scores" in row), start=1)
    ]
    trainer.accelerator.unwrap_model(trainer.model).policy.save_pretrained(Path(given["folder"]) / "model")
    AutoTokenizer.from_pretrained(given["model"]).save_pretrained(Path(given["folder"]) / "model")
    (Path(given["folder"]) / "curve.json").write_text(json.dumps(curve))


def train_peer(python: Path, given: dict[str, Any]) -> list[dict[str, float]]:
    """Train the peer unless that is done; return its curve."""
    folder = Path(given["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "curve.json").exists():
        (folder / "given.json").write_text(json.dumps(given))
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        command = [str(python), "-m", "benchmarks.ppo_beside", "--child", str(folder / "given.json")]
        subprocess.run(command, check=True, env=environment, stdout=sys.stderr, cwd=ROOT)
    curve: list[dict[str, float]] = json.loads((folder / "curve.json").read_text())
    return curve


def train_ours(given: dict[str, Any], prompts: Path, out: Path) -> list[dict[str, float]]:
    """Train as the recipe does; return the curve."""
    from cai.train.common import read_metrics
    from cai.train.ppo.config import PPOConfig
    from cai.train.ppo.trainer import run_ppo
    from cai.train.rewards.config import ModelReward

    config = PPOConfig(
        model=given["model"],
        out=out,
        prompts=[prompts],
        rewards=[ModelReward(kind="model", path=Path(given["reward"]), dtype="bfloat16")],
        steps=given["steps"],
        batch_size=BATCH,
        micro_batch=BATCH // PIECES,
        epochs=EPOCHS,
        max_new_tokens=given["tokens"],
        learning_rate=RATE,
        kl_coefficient=KL_COEFFICIENT,
        precision="bf16",
        save_every=10,
        seed=given["seed"],
    )
    run_ppo(config)
    rows = read_metrics(out / "metrics.jsonl")
    return [{"samples": row["step"] * BATCH, "score": row["score"], "kl": row["kl"]} for row in rows]


def train_reward(pairs: Path, folder: Path, *, quick: bool, seed: int) -> tuple[str, list[Any], list[Any]]:
    """Train the preference model; return its folder, the prompts of its rows, and prompts that are held out."""
    from benchmarks.learning import Setting, split, write
    from benchmarks.policies import prompts_of
    from cai.engines.embedded import resolve_model
    from cai.train.configs import RewardConfig
    from cai.train.reward import run_reward

    model = resolve_model("embedded")
    train, held = split(pairs, Setting(model, 64 if quick else 1100, 267, 128 if quick else 512, 2e-5))
    config = RewardConfig(
        model=model, data=[write(train, folder / "train.jsonl")], out=folder / "reward", seed=seed, learning_rate=2e-5,
        warmup=0.0, batch_size=8, max_length=128 if quick else 512, eval_fraction=0.0, save_every=20,
    )  # fmt: skip
    run_reward(config)
    few = 2 * BATCH if quick else 10_000  # with less than a batch the peer waits for rows without end
    asked, kept = (prompts_of(rows, model, most=few, tokens=PROMPT_TOKENS) for rows in (train, held))
    return str(config.out / "model"), asked, [prompt for prompt in kept if prompt not in asked]


def smoothed(curve: list[dict[str, float]], name: str) -> list[tuple[float, float]]:
    """Return (samples, mean of the last steps)."""
    found = []
    for end in range(1, len(curve) + 1):
        window = curve[max(0, end - SMOOTH) : end]
        found.append((curve[end - 1]["samples"], mean(row[name] for row in window)))
    return found


def draw(curves: dict[str, list[dict[str, float]]], path: Path) -> None:
    """Draw both curves of both sides as one SVG file."""
    from cai.report.plot import Series, lines

    titles = {"score": "preference model's score", "kl": "KL from the start, nats per answer"}
    figures = [
        str(lines([Series(name=who, points=smoothed(curve, key)) for who, curve in curves.items()],
                  title=title, x="samples", y=title))
        for key, title in titles.items()
    ]  # fmt: skip
    path.write_text(page(figures))


STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#64615c}.tick{font-size:11px}.middle{text-anchor:middle}"
    ".end{text-anchor:end}.grid{stroke:#e2ded7}.axis{stroke:#64615c}.curve{fill:none;stroke-width:2}"
    ".raw{fill:none;opacity:.3}.s1{stroke:#235a97}.s2{stroke:#b4622d}.dot{stroke:none;fill:none}"
)


def page(figures: list[str]) -> str:
    """Return one SVG of several, side by side."""
    width, height = 440, 236
    inner = "".join(
        f'<svg x="{place * width}" width="{width}" height="{height}">{figure}</svg>'
        for place, figure in enumerate(figures)
    )
    whole, edge = width * len(figures), 8
    box = f"{-edge} {-edge} {whole + 2 * edge} {height + 2 * edge}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{whole}" viewBox="{box}"><style>{STYLE}</style>'
        f'<rect x="{-edge}" y="{-edge}" width="100%" height="100%" fill="#fff"/>{inner}</svg>\n'
    )


def compare(reward: str, start: str, ours: str, theirs: str, prompts: list[Any], tokens: int, folder: Path) -> bool:
    """Let the three policies answer held-out prompts; print what they got; return the verdict."""
    from benchmarks.policies import answers_of, interval, kl_per_answer, logprobs_of, repeated
    from cai.judges.preference_model import PreferenceModel

    judge = PreferenceModel.load(reward)
    written = {name: answers_of(model, prompts, tokens=tokens) for name, model in
               (("start", start), ("ours", ours), ("peer", theirs))}  # fmt: skip
    scores = {name: judge.score(list(zip(prompts, [one.text for one in its], strict=True)))
              for name, its in written.items()}  # fmt: skip
    (folder / "answers.json").write_text(json.dumps({name: [one.text for one in its] for name, its in written.items()}))
    gaps, distances = {}, {}
    for name, model in (("ours", ours), ("peer", theirs)):
        gaps[name] = interval([a - b for a, b in zip(scores[name], scores["start"], strict=True)])
        mine, reference = (logprobs_of(which, prompts, written[name]) for which in (model, start))
        distances[name] = mean(kl_per_answer(mine, reference))
    told = {name: f"{gap:+.3f} [{low:+.3f}, {high:+.3f}]" for name, (gap, low, high) in gaps.items()}
    risen, near = gaps["ours"][1] > 0, distances["ours"] <= MOST_KL
    print(f"held-out score above the start's  {told['ours']}  {told['peer']}  interval above 0  {verdict(risen)}")
    print(f"KL, nats per answer  {distances['ours']:.2f}  {distances['peer']:.2f}  <= {MOST_KL:g}  {verdict(near)}")
    gap, low, high = interval([a - b for a, b in zip(scores["ours"], scores["peer"], strict=True)])
    print(f"  ours less the peer's: {gap:+.3f} [{low:+.3f}, {high:+.3f}], {len(prompts)} prompts")
    for name, its in written.items():
        print(
            f"  {name}: score {mean(scores[name]):+.3f}, {mean(len(one.ids) for one in its):.1f} tokens, "
            f"{mean(one.ended for one in its):.0%} ended, {mean(repeated(one.text) for one in its):.1%} repeated"
        )
    return risen and near


def verdict(good: bool) -> str:
    """Return PASS or FAIL."""
    return "PASS" if good else "FAIL"


def main() -> int:
    """Train both, compare, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--pairs", type=Path)
    parser.add_argument("--quick", action="store_true", help="two steps")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="where what is trained stays")
    parser.add_argument("--plot", type=Path, help="an SVG file for the curves")
    parser.add_argument("--peer", type=Path, default=ROOT / ".venv-trl", help="what scripts/trl-1.12.sh has made")
    given = parser.parse_args()
    if given.child:
        peer(json.loads(given.child.read_text()))
        return 0
    if given.pairs is None:
        parser.error("--pairs is needed")
    python = given.peer / "bin" / "python"
    if not python.exists():
        raise SystemExit(f"{python}: no such file; make it with scripts/trl-1.12.sh")
    with tempfile.TemporaryDirectory() as name:
        folder = (given.keep or Path(name)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        return 0 if run(given, folder, python) or given.quick else 1


def run(given: argparse.Namespace, folder: Path, python: Path) -> bool:
    """Do all of it in a folder."""
    from transformers import AutoTokenizer

    from benchmarks.policies import write_prompts
    from cai.engines.embedded import resolve_model
    from cai.engines.render import Renderer

    reward, asked, held = train_reward(given.pairs, folder, quick=given.quick, seed=given.seed)
    model = resolve_model("embedded")
    renderer = Renderer(AutoTokenizer.from_pretrained(model))
    settings = {
        "model": model, "reward": reward, "steps": 2 if given.quick else given.steps, "seed": given.seed,
        "tokens": 8 if given.quick else TOKENS, "ids": [renderer.prompt_ids(prompt) for prompt in asked],
        "pad": json.loads((Path(reward) / "tokenizer_config.json").read_text())["pad_token"],
        "folder": str(folder / "peer"),
    }  # fmt: skip
    print(f"{len(asked)} prompts, {len(held)} held out, {settings['steps'] * BATCH} samples", flush=True)
    ours = train_ours(settings, write_prompts(asked, folder / "prompts.jsonl"), folder / "ours")
    theirs = train_peer(python, settings)
    if given.plot:
        draw({"cai": ours, "TRL 1.12": theirs}, given.plot)
    policies = (str(folder / "ours" / "model"), str(folder / "peer" / "model"))
    return compare(reward, model, *policies, held[:128], settings["tokens"], folder)


if __name__ == "__main__":
    sys.exit(main())
