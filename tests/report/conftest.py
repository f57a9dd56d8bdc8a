"""A small run folder, written with the real journal, whose numbers can be counted by hand."""

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cai.records.journal import Journal
from cai.records.schema import (
    Critique,
    Draft,
    Dropped,
    EvalResult,
    Preference,
    Prompt,
    PromptKind,
    Provenance,
    Record,
    Revision,
)
from cai.types import Message

MADE_BY = Provenance(engine="scripted", model="0" * 64, seed=7)

Words = Callable[[str], str]


def write(path: Path, *records: Record) -> None:
    with Journal(path) as journal:
        for record in records:
            journal.append(record)


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_head(root: Path, words: Words) -> None:
    principles = [
        {"id": "harm", "title": words("Do no harm"), "text": words("Prefer the answer that helps nobody do harm.")},
        {"id": "honest", "title": "Be honest", "text": words("Prefer the honest answer.")},
    ]
    head = {
        "created": "2026-11-21T10:00:00Z",
        "config": {"out": str(root), "seed": 7, "train": {"policy": "ppo", "learning_rate": 1e-5}, "note": words("n")},
        "constitution": {"name": words("harmless"), "version": "1.0", "digest": "c" * 64, "principles": principles},
        "model": {"name": words("SmolLM2-135M-Instruct"), "digest": "d" * 64},
        "seed": 7,
        "versions": {"cai": "0.1.0", "python": "3.11.7", "torch": "2.13.0"},
        "machine": {"cpu": words("2 cores")},
    }
    write_json(root / "run.json", head)


def write_generate(gen: Path, words: Words) -> None:
    """Three prompts, three drafts; two chains of two rounds and one round, one chain dropped after its draft."""
    kinds: list[tuple[PromptKind, str]] = [("red_team", "weapons"), ("red_team", "fraud"), ("helpful", "cooking")]
    prompts = [
        Prompt.of((Message("user", words(f"question {n}")),), kind=kind, category=words(category))
        for n, (kind, category) in enumerate(kinds)
    ]
    drafts = [
        Draft(
            key=f"d{n}",
            prompt=p.id,
            sample=0,
            text=words("Use a sharp knife"),
            finish_reason="stop",
            provenance=MADE_BY,
        )
        for n, p in enumerate(prompts)
    ]
    critiques: list[Record] = []
    revisions: list[Record] = []
    for n, rounds in ((0, 2), (1, 1)):
        answer: Draft | Revision = drafts[n]
        for number in range(1, rounds + 1):
            shared: dict[str, Any] = {"prompt": prompts[n].id, "round": number, "principle": "harm"}
            shared |= {"finish_reason": "stop", "provenance": MADE_BY}
            critique = Critique(key=f"c{n}{number}", answer=answer.id, text=words("Too sharp."), **shared)
            text = words("Use a dull knife" if number == 1 else "Use a dull spoon")
            answer = Revision(key=f"r{n}{number}", critique=critique.id, text=text, **shared)
            critiques.append(critique)
            revisions.append(answer)
    lost = Dropped(key="c2", stage="critique", prompt=prompts[2].id, reason=words("empty critique"), text=words("…"))
    write(gen / "prompts" / "prompts.jsonl", *prompts)
    write(gen / "generate" / "drafts.jsonl", *drafts)
    write(gen / "generate" / "critiques.jsonl", *critiques, lost)
    write(gen / "generate" / "revisions.jsonl", *revisions)


def write_label(gen: Path, words: Words) -> None:
    """Four labels: position bias 0.2, 0.2, -0.2 and 0; the second flips; one pair more is dropped."""
    messages = (Message("user", words("question")),)
    orders = [(0.9, 0.7), (0.6, 0.4), (0.1, 0.3), (0.8, 0.8)]
    labels = [
        Preference(
            key=f"p{n}",
            prompt="x",
            messages=messages,
            response_a=words("one"),
            response_b=words("two"),
            prob_a=sum(order) / 2,
            judge="contrastive",
            principles=("harm", "honest") if n == 0 else ("honest",),
            prob_a_by_order=order,
            category=words("fraud"),
        )
        for n, order in enumerate(orders)
    ]
    lost = Dropped(key="p9", stage="label", prompt="x", reason=words("abstained"), text="")
    responses = [
        Draft(key=f"a{n}", prompt="x", sample=n, text="one", finish_reason="stop", provenance=MADE_BY)
        for n in range(10)
    ]
    write(gen / "label" / "responses.jsonl", *responses)
    write(gen / "label" / "preferences.jsonl", *labels, lost)
    known = {"agreement_with_people": {"hh-rlhf": "61 % of 400 pairs (95 %: 56 to 66)"}}
    write_json(gen / "label" / "summary.json", {"judge": words("contrastive"), **known})


def write_training(gen: Path, words: Words) -> None:
    sft = [{"step": n, "loss": 3.0 - n * 0.1, "learning_rate": 1e-5} for n in range(1, 11)]
    write_rows(gen / "sft" / "metrics.jsonl", [*sft, {"step": 10, "eval_loss": 2.2}])
    write_json(gen / "sft" / "result.json", {"steps": 10, "note": words("done")})
    reward = [{"step": n, "loss": 0.69, "accuracy": 0.5 + n * 0.02, "margin": 0.1 * n} for n in range(1, 6)]
    write_rows(gen / "reward" / "metrics.jsonl", reward)
    write_json(gen / "reward" / "result.json", {"accuracy": 0.6})
    ppo = [{"step": n, "reward": 0.01 * n, "score": 0.02 * n, "kl": 0.001 * n, "length": 40} for n in range(1, 61)]
    write_rows(gen / "ppo" / "metrics.jsonl", ppo)
    write_json(gen / "ppo" / "result.json", {"steps": 60})
    write_rows(
        gen / "ppo" / "samples.jsonl", [{"step": 60, "prompt": words("p"), "response": words("r"), "score": 0.5}]
    )


def write_evaluate(gen: Path, words: Words) -> None:
    rate = {"n": 30, "win_rate": 0.5, "low": 0.33, "high": 0.67}
    measure = {
        "n": 60,
        "abstained": 4,
        "win_rate": 0.7,
        "low": 0.575,
        "high": 0.801,
        "verdict": "better",
        "by_category": {words("fraud"): rate, words("weapons"): rate},
        "by_kind": {"red_team": rate, "helpful": rate},
        "trained_on": False,
    }
    equal = {**measure, "win_rate": 0.52, "low": 0.4, "high": 0.64, "abstained": 0, "verdict": "no difference shown"}
    trained = {**measure, "trained_on": True}
    refusal = {
        "red_team": {"n": 40, "candidate": 0.3, "parent": 0.1, "low": 0.05, "high": 0.35},
        "benign": {"n": 20, "candidate": 0.1, "parent": 0.1, "low": -0.1, "high": 0.1},
    }
    summary = {
        "measures": {"preference_model": trained, "harmlessness": measure, "helpfulness": equal},
        "rates": {"refusal": refusal, "cut_off": {"helpful": {"n": 20, "candidate": 0.0, "parent": 0.2}}},
        "models": {"candidate": words("gen-1/ppo/model"), "parent": "embedded"},
    }
    write_json(gen / "evaluate" / "summary.json", summary)
    results = [
        EvalResult(
            key=f"e{n}",
            prompt="x",
            messages=(Message("user", words("hello")), Message("assistant", "hi"), Message("user", words(f"ask {n}"))),
            kind="red_team",
            category=words("fraud"),
            candidate=words("no"),
            parent=words("yes"),
            wins={"harmlessness": n / 30, "helpfulness": None, "preference_model": 0.5},
            scores={"refusal": (1.0, 0.0)},
        )
        for n in range(30)
    ]
    write(gen / "evaluate" / "results.jsonl", *results)


def build_run(root: Path, words: Words = lambda text: text) -> Path:
    """Write a finished run; every text that a model, a user's file or a person could write goes through `words`."""
    write_head(root, words)
    gen = root / "gen-1"
    for part in (write_generate, write_label, write_training, write_evaluate):
        part(gen, words)
    stages = [("prompts", 0.5), ("generate", 60.0), ("sft", 30.0), ("label", 20.0), ("reward", 10.0), ("ppo", 40.0)]
    events = [
        event
        for stage, seconds in [*stages, ("evaluate", 15.0)]
        for event in (
            {"event": "started", "stage": f"gen-1/{stage}"},
            {"event": "finished", "stage": f"gen-1/{stage}", "seconds": seconds},
        )
    ]
    write_rows(root / "ledger.jsonl", events)
    return root


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    return build_run(tmp_path / "run")


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[[Words], Path]:
    return lambda words: build_run(tmp_path / "run", words)


FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--virtual-time-budget=20000",
    "--window-size=1400,1000",
    "--dump-dom",
)


@dataclass(frozen=True)
class Browser:
    """A headless Chromium with a profile of its own that can reach nothing."""

    program: str
    profile: Path

    def dump(self, page: Path) -> tuple[str, str]:
        """Return the page's elements after its script has run, and what the browser logged."""
        command = [self.program, *FLAGS, f"--user-data-dir={self.profile}", "--host-resolver-rules=MAP * ~NOTFOUND"]
        command += [f"--log-net-log={self.profile / 'net.json'}", page.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        return done.stdout, done.stderr

    def requests(self) -> str:
        """Return the network log of the last page."""
        return (self.profile / "net.json").read_text(errors="replace")


@pytest.fixture
def browser(tmp_path: Path) -> Browser:
    names = ("chromium", "google-chrome", "chromium-browser", "google-chrome-stable")
    program = next((found for name in names if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip("no Chromium on this machine; apt-get install chromium")
    profile = tmp_path / "profile"
    profile.mkdir()
    return Browser(program, profile)
