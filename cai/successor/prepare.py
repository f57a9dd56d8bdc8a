"""The first stage: choose the prompts of a generation and put them on their side of the split, before anything runs."""

from pathlib import Path

from pydantic import Field

from cai.config import Config
from cai.errors import InputError, Problem
from cai.records.export import write_rows
from cai.records.loaders import load_prompts, packaged_prompts, take_evenly
from cai.records.schema import Prompt, PromptKind
from cai.records.splits import split
from cai.storage import atomic_write_json

KINDS: tuple[PromptKind, ...] = ("red_team", "benign", "helpful")


class HeldOutCounts(Config):
    """How many held-out prompts of each kind the evaluation uses, at most."""

    red_team: int = Field(100, ge=0)
    benign: int = Field(60, ge=0)
    helpful: int = Field(100, ge=0)


class PromptsConfig(Config):
    """Which prompts a generation is made from, and how many of each kind at most."""

    red_team_files: list[Path] = Field(default_factory=lambda: [packaged_prompts("red_team")])
    helpful_files: list[Path] = Field(default_factory=lambda: [packaged_prompts("helpful")])
    benign_files: list[Path] = Field(default_factory=lambda: [packaged_prompts("benign")])
    red_team: int = Field(300, ge=1)
    """Prompts that are answered, criticised and revised."""
    helpful: int = Field(300, ge=0)
    """Helpful prompts, for the supervised stage and for reinforcement learning."""
    label: int = Field(300, ge=1)
    """Red-team prompts of which pairs are labelled."""
    held_out: HeldOutCounts = HeldOutCounts()
    out: Path


def run_prepare(config: PromptsConfig) -> None:
    """Write supervised.jsonl, label.jsonl, rl.jsonl and held_out.jsonl, and all of them once in prompts.jsonl."""
    train: dict[PromptKind, list[Prompt]] = {}
    held_out: list[Prompt] = []
    files = (config.red_team_files, config.benign_files, config.helpful_files)
    seen: set[str] = set()
    for kind, paths in zip(KINDS, files, strict=True):
        # A prompt in files of two kinds is of the first: it counts once.
        prompts = [prompt for prompt in load_prompts(paths, kind=kind) if prompt.key not in seen]
        seen.update(prompt.key for prompt in prompts)
        train[kind], kept = split(prompts)
        held_out.extend(take_evenly(kept, getattr(config.held_out, kind)))
    if not train["red_team"]:
        names = ", ".join(map(str, config.red_team_files))
        fix = "give more prompts: about three in four are trained on, the others are held out"
        raise InputError(Problem(names, 0, 0, "no prompts left to train on", fix))
    if not held_out:
        problem = "no prompts left to compare the models on"
        raise InputError(Problem("prompts.held_out", 0, 0, problem, "raise its counts, or give more prompts"))
    red_team = take_evenly(train["red_team"], config.red_team)
    helpful = take_evenly(train["helpful"], config.helpful)
    label = take_evenly(train["red_team"], config.label)
    sets = {"supervised": red_team + helpful, "label": label, "rl": label + helpful, "held_out": held_out}
    every: dict[str, Prompt] = {}
    for name, chosen in sets.items():
        write_rows(config.out / f"{name}.jsonl", [prompt.to_json() for prompt in chosen])
        every.update({prompt.key: prompt for prompt in chosen})
    write_rows(config.out / "prompts.jsonl", [prompt.to_json() for prompt in every.values()])
    atomic_write_json(config.out / "result.json", {"counts": {name: len(chosen) for name, chosen in sets.items()}})
