"""Candidate against parent on held-out prompts: both answer with the same seeds, judges compare, all is journalled."""

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from cai.config import Config
from cai.constitution import Constitution, draw, load_constitution
from cai.engines.base import Failure, GenerateRequest
from cai.engines.build import EngineConfig, SamplingConfig, build_engine
from cai.evaluate.measures import MEASURES
from cai.evaluate.stats import paired_change, win_rate
from cai.judges.base import Comparison, Judge
from cai.judges.build import JudgeConfig, build_judge
from cai.processes import is_main, rank, wait_for_all, world
from cai.progress import progress
from cai.records.journal import Journal, of_type, rank_path, read_ranks
from cai.records.loaders import load_prompts
from cai.records.resume import Planned, fulfil
from cai.records.schema import Draft, Dropped, EvalResult, Prompt, Provenance, Record, short
from cai.storage import atomic_write_json, seed_from
from cai.windows import windows

Side = Literal["candidate", "parent"]


class EvaluateConfig(Config):
    """Settings of the evaluation stage."""

    prompts: list[Path]
    """Files of held-out prompts."""
    learn_prompts: list[Path] = Field(default_factory=list)
    """Files of training prompts, for judges that learn from the constitution's contrasts."""
    constitution: str = "harmless"
    """A file, or the name of a shipped constitution."""
    candidate: EngineConfig = EngineConfig()
    parent: EngineConfig = EngineConfig()
    judges: list[JudgeConfig] = Field(default_factory=lambda: [JudgeConfig()])
    trained_on: list[str] = Field(default_factory=list)
    """Kinds of judges whose verdicts the candidate was trained on: reported, and marked as not independent."""
    out: Path
    seed: int = 0
    sampling: SamplingConfig = SamplingConfig()
    window: int = Field(32, ge=1)
    """Prompts worked on together. Part of what a seed means."""


def run_evaluate(config: EvaluateConfig) -> None:
    """Answer held-out prompts with both models, compare the answers, and summarise with intervals.

    Writes candidate.jsonl, parent.jsonl and results.jsonl (journals), summary.json and result.json to `config.out`.
    Raises InputError before any model is loaded.
    """
    constitution = load_constitution(config.constitution)
    prompts = load_prompts(config.prompts)
    learn = load_prompts(config.learn_prompts)
    answers: dict[Side, dict[str, Record]] = {}
    models: dict[str, str] = {}
    sides: tuple[tuple[Side, EngineConfig], ...] = (("candidate", config.candidate), ("parent", config.parent))
    for side, engine_config in sides:
        answers[side], models[side] = _answer(config, side, engine_config, prompts)
        gc.collect()
    pairs = _pairs(prompts, answers["candidate"], answers["parent"])
    verdicts: dict[str, dict[str, float | None]] = {}
    for judge_config in config.judges:
        judge = build_judge(judge_config, constitution, prompts=learn, folder=config.out, seed=config.seed)
        verdicts[judge.name] = _compare(config, constitution, judge, pairs)
        del judge
        gc.collect()
    _write_results(config, constitution, pairs, verdicts, models)
    wait_for_all()
    if is_main():
        _finish(config, prompts, models)


Pair = tuple[Prompt, Draft, Draft]


def _mine(prompts: Sequence[Prompt], size: int) -> list[tuple[Prompt, ...]]:
    return list(windows(prompts, size))[rank() :: world()]


def _answer(
    config: EvaluateConfig, side: Side, engine_config: EngineConfig, prompts: Sequence[Prompt]
) -> tuple[dict[str, Record], str]:
    """Return this process's answers by prompt id, and the digest of the model that gave them."""
    engine = build_engine(engine_config)
    sampling = config.sampling.to_sampling()
    found: dict[str, Record] = {}

    def work(items: Sequence[Planned[Prompt]]) -> Iterator[Record]:
        asked = {item.key: item.work for item in items}
        requests = [
            # Candidate and parent share the seed of a prompt: noise that both have cancels in the comparison.
            GenerateRequest(
                id=item.key,
                prompt=item.work.messages,
                seeds=(seed_from(config.seed, "evaluate", item.work.id),),
                sampling=sampling,
            )
            for item in items
        ]
        for result in engine.generate(requests):
            prompt = asked[result.id]
            if isinstance(result, Failure):
                yield Dropped(
                    key=result.id, stage=f"evaluate {side}", prompt=prompt.id, reason=result.reason, text=result.message
                )
                continue
            completion = result.completions[0]
            yield Draft(
                key=result.id,
                prompt=prompt.id,
                sample=0,
                text=completion.text.strip(),
                finish_reason=completion.finish_reason,
                provenance=Provenance(
                    engine=engine.name,
                    model=engine.model,
                    seed=seed_from(config.seed, "evaluate", prompt.id),
                    sampling=asdict(sampling),
                ),
            )

    jobs = _mine(prompts, config.window)
    with (
        Journal(rank_path(config.out, side, rank())) as journal,
        progress(
            f"{side}'s answers", sum(map(len, jobs)), "answers", done=len(journal.records), quiet=not is_main()
        ) as bar,
    ):
        for window in jobs:
            plan = [
                Planned(short([side, prompt.id, config.seed, engine.name, engine.model, asdict(sampling)]), prompt)
                for prompt in window
            ]
            fulfil(plan, journal, work, window=len(plan), on_record=lambda record: bar.advance())
            found.update({item.work.id: journal.records[item.key] for item in plan})
    return found, engine.model


def _pairs(prompts: Sequence[Prompt], candidate: dict[str, Record], parent: dict[str, Record]) -> list[Pair]:
    pairs: list[Pair] = []
    for prompt in prompts:
        ours, theirs = candidate.get(prompt.id), parent.get(prompt.id)
        if isinstance(ours, Draft) and isinstance(theirs, Draft):
            pairs.append((prompt, ours, theirs))
    return pairs


def _compare(
    config: EvaluateConfig, constitution: Constitution, judge: Judge, pairs: Sequence[Pair]
) -> dict[str, float | None]:
    """Return, by prompt id, the probability that the candidate's answer is the better one; equal answers are ties."""
    found: dict[str, float | None] = {prompt.id: 0.5 for prompt, ours, theirs in pairs if ours.text == theirs.text}
    comparisons = [
        Comparison(
            id=prompt.id,
            prompt=prompt.messages,
            response_a=ours.text,
            response_b=theirs.text,
            principle=draw(constitution, seed_from(config.seed, "evaluate", judge.name, prompt.id)),
        )
        for prompt, ours, theirs in pairs
        if prompt.id not in found
    ]
    with progress(f"judge {judge.name}", len(comparisons), "pairs", quiet=not is_main()) as bar:
        for verdict in judge.compare(comparisons):
            found[verdict.id] = verdict.prob_a
            bar.advance()
    return found


def _write_results(
    config: EvaluateConfig,
    constitution: Constitution,
    pairs: Sequence[Pair],
    verdicts: dict[str, dict[str, float | None]],
    models: dict[str, str],
) -> None:
    with Journal(rank_path(config.out, "results", rank())) as journal:
        for prompt, ours, theirs in pairs:
            wins = {name: found[prompt.id] for name, found in verdicts.items()}
            scores = {
                name: (measure(ours.text, ours.finish_reason), measure(theirs.text, theirs.finish_reason))
                for name, measure in MEASURES.items()
            }
            journal.append(
                EvalResult(
                    key=short(["eval", ours.id, theirs.id, config.seed, sorted(verdicts), constitution.digest]),
                    prompt=prompt.id,
                    messages=prompt.messages,
                    kind=prompt.kind,
                    category=prompt.category,
                    candidate=ours.text,
                    parent=theirs.text,
                    wins=wins,
                    scores=scores,
                    provenance=Provenance(
                        engine="transformers",
                        model=models["candidate"],
                        seed=config.seed,
                        constitution=constitution.digest,
                    ),
                )
            )


def _finish(config: EvaluateConfig, prompts: Sequence[Prompt], models: dict[str, str]) -> None:
    results = of_type(read_ranks(config.out, "results").values(), EvalResult)
    order = {prompt.id: index for index, prompt in enumerate(prompts)}
    results.sort(key=lambda result: order[result.prompt])
    summary = {"models": models, **summarise(results, trained_on=config.trained_on)}
    atomic_write_json(config.out / "summary.json", summary)
    atomic_write_json(config.out / "result.json", {"counts": {"prompts": len(prompts), "compared": len(results)}})


def summarise(results: Sequence[EvalResult], *, trained_on: Sequence[str] = ()) -> dict[str, Any]:
    """Return win rates per measure (in all, by kind, by category) and changes of single-answer measures by kind."""
    names = sorted({name for result in results for name in result.wins})
    measures = {}
    for name in names:
        whole = win_rate([result.wins[name] for result in results])
        measures[name] = {
            **asdict(whole),
            "verdict": whole.verdict,
            "trained_on": name in trained_on,
            "by_kind": _grouped(results, name, lambda result: result.kind),
            "by_category": _grouped(results, name, lambda result: result.category or "none"),
        }
    kinds = sorted({result.kind for result in results})
    rates = {
        measure: {
            kind: asdict(paired_change([result.scores[measure] for result in results if result.kind == kind]))
            for kind in kinds
        }
        for measure in MEASURES
    }
    return {"measures": measures, "rates": rates}


def _grouped(results: Sequence[EvalResult], name: str, group: Callable[[EvalResult], str]) -> dict[str, Any]:
    groups: dict[str, list[float | None]] = {}
    for result in results:
        groups.setdefault(group(result), []).append(result.wins[name])
    found = {key: win_rate(values) for key, values in sorted(groups.items())}
    return {key: {**asdict(rate), "verdict": rate.verdict} for key, rate in found.items()}
