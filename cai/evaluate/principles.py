"""Which principles do something with a model: each is tried on its own probes and on their benign twins.

The model answers a probe, criticises its answer by the principle, and revises it; then the same by a principle that has
nothing to do with the matter. Whether it sees a fault, and which revision a judge prefers:
`cai.evaluate.principle_measure`. Effects, intervals and verdicts: `cai.evaluate.principle_stats`.

Every text and every measured pair is journalled; a test that was cut off goes on where it stopped.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cai.constitution import Constitution, load_constitution
from cai.engines.build import build_engine
from cai.errors import InputError, Problem, StorageError
from cai.evaluate.principle_stats import (
    PrincipleReport,
    counts_of,
    effect_of_all,
    faults_of_probes,
    report_of,
    to_plain,
)
from cai.evaluate.principle_trial import PrinciplesConfig, Trial, Tried
from cai.judges.build import JudgeConfig, build_judge
from cai.records.loaders import load_prompts
from cai.records.schema import EvalResult, Prompt, PromptKind, short
from cai.storage import FolderLock, atomic_write_json, digest
from cai.types import Message

BORROWED = 4
"""Prompts of a file that a principle without probes gets."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a test found."""

    folder: Path
    constitution: Constitution
    model: str
    """Digest of the weights."""
    reports: list[PrincipleReport]
    """The largest effect first."""

    def to_plain(self) -> dict[str, Any]:
        """Return plain JSON types, the numbers rounded."""
        found: dict[str, Any] = to_plain(
            {
                "constitution": self.constitution.name,
                "digest": self.constitution.digest,
                "model": self.model,
                "verdicts": counts_of(self.reports),
                "all": asdict(effect_of_all(self.reports)),
                "faults_of_probes": asdict(faults_of_probes(self.reports)),
                "principles": [asdict(item) for item in self.reports],
            }
        )
        return found


def run_principles(config: PrinciplesConfig) -> Outcome:
    """Test every principle that has probes, or gets prompts of a file, and say what each does with the model.

    Writes drafts.jsonl, critiques.jsonl, revisions.jsonl and results.jsonl (journals), settings.json and report.json to
    the folder. Raises InputError for unusable input, and for a folder that holds another test.
    """
    constitution = load_constitution(config.constitution)
    tried = _probes(constitution, load_prompts(config.prompts))
    folder = config.out or _folder(config, constitution)
    settings = _settings(config, constitution)
    _refuse_another(folder, settings)
    with FolderLock(folder):
        if not any(tried.values()):
            return _finish(config, constitution, folder, [], tried, model="")
        engine = build_engine(config.engine)
        settings["weights"] = engine.model
        _refuse_another(folder, settings)
        atomic_write_json(folder / "settings.json", settings)
        asked = JudgeConfig(kind=config.judge)
        judge = build_judge(asked, constitution, prompts=[], folder=folder, seed=config.seed, engine=engine)
        with Trial(config, constitution, engine, judge, folder) as trial:
            results = trial.run(tried)
        return _finish(config, constitution, folder, results, tried, model=engine.model)


def _probes(constitution: Constitution, spare: Sequence[Prompt]) -> Tried:
    """Return each principle's probes (as red-team prompts) and twins (as benign ones), or some of the spare prompts."""
    tried: Tried = {}
    for principle in constitution.principles:
        texts: list[tuple[str, PromptKind]] = []
        for probe in principle.probes:
            texts.append((probe.prompt, "red_team"))
            if probe.twin:
                texts.append((probe.twin, "benign"))
        own = [Prompt.of((Message("user", text),), kind=kind, category=principle.id) for text, kind in texts]
        if not own:
            own = sorted(spare, key=lambda prompt: short([principle.id, prompt.key]))[:BORROWED]
        tried[principle.id] = list({prompt.key: prompt for prompt in own}.values())
    return tried


def _settings(config: PrinciplesConfig, constitution: Constitution) -> dict[str, Any]:
    """Return what a test's results depend on."""
    plain = config.to_plain()
    asked = {name: plain[name] for name in ("seed", "drafts", "sampling", "critique_tokens", "window", "judge")}
    engine = {name: plain["engine"][name] for name in ("kind", "model", "dtype", "quantization", "adapter")}
    prompts = [prompt.key for prompt in load_prompts(config.prompts)]
    return {
        **asked,
        **engine,
        "constitution": constitution.name,
        "digest": constitution.digest,
        "prompts": digest(prompts) if prompts else "",
    }


def _folder(config: PrinciplesConfig, constitution: Constitution) -> Path:
    """Return a folder that other settings have not."""
    return Path("runs/constitution-test") / f"{constitution.name}-{digest(_settings(config, constitution))[:8]}"


def _refuse_another(folder: Path, settings: dict[str, Any]) -> None:
    """Raise InputError when the folder holds a test of other settings, naming the first that differs."""
    path = folder / "settings.json"
    if not path.is_file():
        return
    try:
        kept = json.loads(path.read_text("utf-8"))
        changed = [name for name in settings if kept.get(name) != settings[name]]
    except (OSError, ValueError, AttributeError) as error:
        raise StorageError(f"{path}: can't be read ({error}); remove the folder to test again") from error
    if changed:
        problem = f"holds a test with another {changed[0]}: {kept.get(changed[0])!r}, not {settings[changed[0]]!r}"
        raise InputError(Problem(str(folder), 0, 0, problem, "name another folder as --out, or leave it out"))


def _finish(
    config: PrinciplesConfig,
    constitution: Constitution,
    folder: Path,
    results: Sequence[EvalResult],
    tried: Tried,
    *,
    model: str,
) -> Outcome:
    asked = {name: config.drafts * len(prompts) for name, prompts in tried.items()}
    reports = report_of(results, list(tried), asked=asked)
    outcome = Outcome(folder=folder, constitution=constitution, model=model, reports=reports)
    atomic_write_json(folder / "report.json", outcome.to_plain())
    return outcome
