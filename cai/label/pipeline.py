"""Pairs of answers and their labels, journalled record by record."""

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from cai.config import Config
from cai.constitution import Constitution, Principle, check_tags, draw_distinct, load_constitution
from cai.engines.base import Engine, Failure, GenerateRequest
from cai.engines.build import EngineConfig, SamplingConfig, build_engine
from cai.judges.base import Comparison, Judge, Verdict
from cai.judges.build import JudgeConfig, build_judge
from cai.label.aggregate import Vote, clamp, flipped, label_of
from cai.label.floor import FloorConfig, check_floor
from cai.processes import is_main, rank, wait_for_all, world
from cai.progress import progress
from cai.records.export import preference_rows, write_rows
from cai.records.journal import Journal, of_type, rank_path, read_ranks
from cai.records.loaders import load_prompts
from cai.records.pairs import load_labelled
from cai.records.resume import Planned, fulfil
from cai.records.schema import Draft, Dropped, Preference, Prompt, Provenance, Record, short
from cai.records.trim import to_last_sentence
from cai.storage import atomic_write_json, seed_from
from cai.windows import windows


class LabelConfig(Config):
    """Settings of the labelling stage."""

    prompts: list[Path]
    """Files of prompts; two answers are sampled for each."""
    constitution: str = "harmless"
    """A file, or the name of a shipped constitution."""
    engine: EngineConfig = EngineConfig()
    """The model whose answers are compared: the finetuned one."""
    judge: JudgeConfig = JudgeConfig()
    out: Path
    seed: int = 0
    tags: list[str] = Field(default_factory=list)
    """Only principles with one of these tags are drawn; none: all."""
    floor: FloorConfig | None = None
    """What the judge must reach on pairs that people labelled; below it the stage ends before it labels."""
    principles_per_label: int = Field(1, ge=1)
    """Principles drawn per pair; several are averaged."""
    clamp: tuple[float, float] = (0.0, 1.0)
    """Labels are kept between these; the paper's are 0.4 and 0.6 with chain of thought, none without."""
    sampling: SamplingConfig = SamplingConfig()
    window: int = Field(32, ge=1)
    """Prompts worked on together. Part of what a seed means: another window, other texts."""

    @field_validator("clamp")
    @classmethod
    def _clamp_in_order(cls, given: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= given[0] <= 0.5 <= given[1] <= 1:
            raise ValueError("a clamp must hold one half between its ends; write it as [low, high], such as [0.4, 0.6]")
        return given


def run_label(config: LabelConfig) -> None:
    """Sample two answers per prompt, judge each pair, and write soft labels.

    Writes responses.jsonl and preferences.jsonl (journals), pairs.jsonl (rows with `prompt`, `chosen`, `rejected`,
    `chosen_prob`), summary.json and result.json to `config.out`. Raises InputError before the model is loaded.
    """
    constitution = load_constitution(config.constitution)
    check_tags(constitution, tuple(config.tags), config.constitution)
    prompts = load_prompts(config.prompts)
    if config.floor is not None:
        load_labelled(config.floor.on)  # a bad file is told now, not after an hour of sampling
    engine = build_engine(config.engine)
    pairs = _sample_pairs(config, prompts, engine)
    del engine
    gc.collect()
    judge = build_judge(config.judge, constitution, prompts=prompts, folder=config.out, seed=config.seed)
    if config.floor is not None:
        check_floor(config.floor, judge, constitution, seed=config.seed, out=config.out)
    _label(config, constitution, judge, pairs)
    wait_for_all()
    if is_main():
        _finish(config, judge, prompts)


Pair = tuple[Prompt, Draft, Draft]


def _mine(prompts: Sequence[Prompt], size: int) -> list[tuple[Prompt, ...]]:
    return list(windows(prompts, size))[rank() :: world()]


def _sample_pairs(config: LabelConfig, prompts: Sequence[Prompt], engine: Engine) -> list[list[Pair]]:
    """Return, per window of this process, the pairs that have two different answers."""
    jobs = _mine(prompts, config.window)
    pairs: list[list[Pair]] = []
    with (
        Journal(rank_path(config.out, "responses", rank())) as journal,
        progress(
            "responses", 2 * sum(map(len, jobs)), "answers", done=len(journal.records), quiet=not is_main()
        ) as bar,
    ):
        for window in jobs:
            plan = [
                Planned(_response_key(config, engine, prompt, sample), (prompt, sample))
                for prompt in window
                for sample in (0, 1)
            ]
            fulfil(plan, journal, _answerer(config, engine), window=len(plan), on_record=lambda record: bar.advance())
            records = [journal.records[item.key] for item in plan]
            both = zip(window, records[::2], records[1::2], strict=True)
            pairs.append([(p, a, b) for p, a, b in both if isinstance(a, Draft) and isinstance(b, Draft)])
    return pairs


def _response_key(config: LabelConfig, engine: Engine, prompt: Prompt, sample: int) -> str:
    sampling = asdict(config.sampling.to_sampling())
    return short(["response", prompt.id, sample, config.seed, engine.name, engine.model, sampling])


def _answerer(
    config: LabelConfig, engine: Engine
) -> Callable[[Sequence[Planned[tuple[Prompt, int]]]], Iterator[Record]]:
    sampling = config.sampling.to_sampling()

    def work(items: Sequence[Planned[tuple[Prompt, int]]]) -> Iterator[Record]:
        asked = {item.key: item.work for item in items}
        requests = [
            GenerateRequest(
                id=item.key,
                prompt=item.work[0].messages,
                seeds=(seed_from(config.seed, item.key),),
                sampling=sampling,
            )
            for item in items
        ]
        for result in engine.generate(requests):
            prompt, sample = asked[result.id]
            if isinstance(result, Failure):
                yield Dropped(
                    key=result.id, stage="response", prompt=prompt.id, reason=result.reason, text=result.message
                )
                continue
            completion = result.completions[0]
            text = completion.text.strip()
            yield Draft(
                key=result.id,
                prompt=prompt.id,
                sample=sample,
                # Its end of turn is trained on, so it must be an end; an answer without a sentence stays as it is.
                text=(to_last_sentence(text) or text) if completion.finish_reason == "length" else text,
                finish_reason=completion.finish_reason,
                provenance=Provenance(
                    engine=engine.name,
                    model=engine.model,
                    seed=seed_from(config.seed, result.id),
                    sampling=asdict(sampling),
                ),
            )

    return work


def _label(config: LabelConfig, constitution: Constitution, judge: Judge, pairs: Sequence[Sequence[Pair]]) -> None:
    with (
        Journal(rank_path(config.out, "preferences", rank())) as journal,
        progress("labels", sum(map(len, pairs)), "pairs", done=len(journal.records), quiet=not is_main()) as bar,
    ):
        for window in pairs:
            plan = [Planned(_label_key(config, constitution, judge, pair), pair) for pair in window]
            fulfil(
                plan,
                journal,
                lambda items: _judged(config, constitution, judge, items),
                window=max(1, len(plan)),
                on_record=lambda record: bar.advance(),
            )


def _label_key(config: LabelConfig, constitution: Constitution, judge: Judge, pair: Pair) -> str:
    asked = [pair[1].id, pair[2].id, config.principles_per_label, list(config.clamp)]
    return short(
        ["preference", *asked, config.seed, judge.name, judge.model, config.judge.settings, constitution.digest]
    )


def _judged(
    config: LabelConfig, constitution: Constitution, judge: Judge, items: Sequence[Planned[Pair]]
) -> Iterator[Record]:
    comparisons: list[Comparison] = []
    drawn: dict[str, list[Principle]] = {}
    for item in items:
        prompt, a, b = item.work
        count = config.principles_per_label if judge.by_principle else 1
        drawn[item.key] = draw_distinct(
            constitution, seed_from(config.seed, "label", item.key), count, tags=tuple(config.tags)
        )
        for number, principle in enumerate(drawn[item.key]):
            comparisons.append(
                Comparison(
                    id=f"{item.key}/{number}",
                    prompt=prompt.messages,
                    response_a=a.text,
                    response_b=b.text,
                    principle=principle,
                )
            )
    verdicts: dict[str, list[Verdict]] = {item.key: [] for item in items}
    for verdict in judge.compare(comparisons):
        verdicts[verdict.id.rpartition("/")[0]].append(verdict)
    for item in items:
        yield _preference(config, constitution, judge, item, drawn[item.key], verdicts[item.key])


def _preference(
    config: LabelConfig,
    constitution: Constitution,
    judge: Judge,
    item: Planned[Pair],
    principles: Sequence[Principle],
    verdicts: Sequence[Verdict],
) -> Record:
    prompt, a, b = item.work
    # Judges answer in any order; a verdict's number says which principle it was given under.
    verdicts = sorted(verdicts, key=lambda verdict: int(verdict.id.rpartition("/")[2]))
    votes = [Vote.of(verdict, principle) for verdict, principle in zip(verdicts, principles, strict=True)]
    label = label_of(votes)
    if a.text == b.text or label.prob_a is None:
        reason = "equal answers" if a.text == b.text else f"the judge abstained: {label.reason}"
        return Dropped(key=item.key, stage="label", prompt=prompt.id, reason=reason, text=a.text)
    return Preference(
        key=item.key,
        prompt=prompt.id,
        messages=prompt.messages,
        response_a=a.text,
        response_b=b.text,
        prob_a=clamp(label.prob_a, *config.clamp),
        spread=label.spread,
        judge=judge.name,
        principles=tuple(principle.id for principle in principles) if judge.by_principle else (),
        prob_a_by_order=verdicts[0].prob_a_by_order,
        kind=prompt.kind,
        category=prompt.category,
        provenance=Provenance(
            engine=a.provenance.engine,
            model=a.provenance.model,
            seed=config.seed,
            constitution=constitution.digest,
        ),
    )


def _finish(config: LabelConfig, judge: Judge, prompts: Sequence[Prompt]) -> None:
    records = list(read_ranks(config.out, "preferences").values())
    order = {prompt.id: index for index, prompt in enumerate(prompts)}
    labelled = sorted(of_type(records, Preference), key=lambda pair: order[pair.prompt])
    rows = preference_rows(labelled)
    write_rows(config.out / "pairs.jsonl", rows)
    summary = label_summary(judge.name, labelled, of_type(records, Dropped))
    atomic_write_json(config.out / "summary.json", summary)
    atomic_write_json(config.out / "result.json", {"counts": {"labels": len(labelled), "training_rows": len(rows)}})


def label_summary(judge: str, labelled: Sequence[Preference], dropped: Sequence[Dropped]) -> dict[str, Any]:
    """Return what a person wants to know of a labelling run: counts, drops by reason, how often the order decided."""
    reasons: dict[str, int] = {}
    for record in dropped:
        reasons[record.reason] = reasons.get(record.reason, 0) + 1
    flips = [flip for pair in labelled if (flip := flipped(pair.prob_a_by_order)) is not None]
    confidence = [max(pair.prob_a, 1 - pair.prob_a) for pair in labelled]
    return {
        "judge": judge,
        "labels": len(labelled),
        "dropped": dict(sorted(reasons.items())),
        "mean_confidence": sum(confidence) / len(confidence) if confidence else None,
        "position_flip_rate": sum(flips) / len(flips) if flips else None,
    }
