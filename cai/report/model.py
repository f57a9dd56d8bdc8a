"""What the report shows of a run, as plain values: counts, chains, labels, comparisons, curves.

`read_run` turns a run folder into a `RunView`; drawing and wording are elsewhere. A stage that has not run leaves its
part empty.
"""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cai.records.journal import of_type
from cai.records.schema import Dropped, Prompt
from cai.report.chains import Chain, read_chains
from cai.report.compare import ComparisonView, read_comparison
from cai.report.files import Row, RunFiles, leaves, mapping, number, text
from cai.report.labels import LabelView, read_labels

StageState = Literal["done", "begun", "owed"]

STAGES = ("prompts", "generate", "sft", "label", "reward", "dpo", "online_dpo", "ppo", "grpo", "rloo", "evaluate")
"""The stages of a generation in order; one of `LEARNERS` makes the successor."""

LEARNERS = ("ppo", "dpo", "online_dpo", "grpo", "rloo")

ENDED = ("manifest.json", "result.json", "summary.json")
"""Files that a stage writes last: any of them shows it to be done where no ledger tells."""

TRAINERS = ("sft", "reward", *LEARNERS)


@dataclass(frozen=True, kw_only=True)
class StageView:
    """One stage of a generation: whether it is done, and the seconds it took (None when nothing says)."""

    name: str
    state: StageState
    seconds: float | None
    resumed: bool = False
    """It was cut off and gone on with; `seconds` are those of the last stretch."""


@dataclass(frozen=True, kw_only=True)
class DropView:
    """Work that was done and left out, for one stage and reason; `examples` are pairs of prompt and text."""

    stage: str
    reason: str
    n: int
    examples: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class PrincipleView:
    """A principle and how often critiques and comparisons drew it."""

    id: str
    title: str
    text: str
    critiques: int
    comparisons: int


@dataclass(frozen=True, kw_only=True)
class TrainingView:
    """A trainer's logged steps, its summary, and (for PPO) answers sampled on the way."""

    stage: str
    steps: tuple[dict[str, float], ...]
    result: tuple[tuple[str, str], ...]
    samples: tuple[Row, ...] = ()


@dataclass(frozen=True, kw_only=True)
class GenerationView:
    """Everything about one generation."""

    number: int
    stages: tuple[StageView, ...]
    prompts_by_kind: dict[str, int]
    prompts_by_category: dict[str, int]
    drafts: int
    critiques: int
    revisions: int
    chains: tuple[Chain, ...]
    labels: LabelView
    training: tuple[TrainingView, ...]
    comparison: ComparisonView
    drops: tuple[DropView, ...]
    principles: tuple[PrincipleView, ...]

    @property
    def owed(self) -> list[str]:
        """The stages that are not done."""
        return [stage.name for stage in self.stages if stage.state != "done"]

    @property
    def seconds(self) -> float:
        """The time of all stages together."""
        return sum(stage.seconds or 0.0 for stage in self.stages)

    @property
    def policy_stage(self) -> str:
        """Which trainer makes the successor: one of `LEARNERS`."""
        return next((stage.name for stage in self.stages if stage.name in LEARNERS), "ppo")


@dataclass(frozen=True, kw_only=True)
class RunView:
    """A run: what it was asked to do, where and with what, and its generations, newest first."""

    name: str
    created: str
    seed: str
    model: tuple[tuple[str, str], ...]
    constitution: tuple[tuple[str, str], ...]
    config: tuple[tuple[str, str], ...]
    versions: tuple[tuple[str, str], ...]
    machine: tuple[tuple[str, str], ...]
    generations: tuple[GenerationView, ...]
    problems: tuple[str, ...] = field(default=())


def read_run(run: Path) -> RunView:
    """Read a run folder, however far it has come."""
    files = RunFiles(run)
    head = files.object("run.json")
    constitution = mapping(head.get("constitution"))
    events = files.rows("ledger.jsonl")
    generations = tuple(_generation(files, number, head, events) for number in files.generations())
    return RunView(
        name=run.resolve().name,
        created=text(head.get("created") or next((row.get("time") for row in events), None)),
        seed=text(head.get("seed", mapping(head.get("config")).get("seed"))),
        model=_pairs(head.get("model")),
        constitution=tuple(leaves({key: value for key, value in constitution.items() if key != "principles"})),
        config=_pairs(head.get("config")),
        versions=_pairs(head.get("versions")),
        machine=_pairs(head.get("machine")),
        generations=generations,
        problems=tuple(dict.fromkeys(files.problems)),
    )


def _pairs(value: Any) -> tuple[tuple[str, str], ...]:
    """Return a mapping as names and texts; a lone value gets the name ``name``."""
    if isinstance(value, dict):
        return tuple(leaves(mapping(value)))
    return (("name", text(value)),) if value is not None else ()


def _generation(files: RunFiles, generation: int, head: Row, events: list[Row]) -> GenerationView:
    folder = f"gen-{generation}"
    prompts = of_type(files.records((folder, "prompts"), "prompts"), Prompt)
    made = {name: files.records((folder, "generate"), name) for name in ("drafts", "critiques", "revisions")}
    left_out = files.records((folder, "generate"), "left_out")
    chains = read_chains(prompts, made["drafts"], made["critiques"], made["revisions"])
    texts = {prompt.id: prompt.text for prompt in prompts}
    responses = files.records((folder, "label"), "responses")
    preferences = files.records((folder, "label"), "preferences")
    labels = read_labels(
        responses,
        preferences,
        files.object(folder, "label", "summary.json"),
        files.object(folder, "label", "judge.json"),
    )
    results = files.records((folder, "evaluate"), "results")
    answers = [record for side in ("candidate", "parent") for record in files.records((folder, "evaluate"), side)]
    written = [*made["drafts"], *made["critiques"], *made["revisions"], *left_out]
    everything = [*written, *responses, *preferences, *answers, *results]
    drawn = Counter(step.principle for chain in chains.chains for step in chain.rounds)
    compared = Counter({principle: own.labels for principle, own in labels.by_principle.items()})
    return GenerationView(
        number=generation,
        stages=_stages(files, generation, head, events),
        prompts_by_kind=dict(Counter(prompt.kind for prompt in prompts)),
        prompts_by_category=dict(Counter(prompt.category for prompt in prompts if prompt.category)),
        drafts=chains.drafts,
        critiques=chains.critiques,
        revisions=chains.revisions,
        chains=chains.chains,
        labels=labels,
        training=tuple(_training(files, folder, stage) for stage in TRAINERS if files.exists(folder, stage)),
        comparison=read_comparison(results, files.object(folder, "evaluate", "summary.json")),
        drops=_drops(of_type(everything, Dropped), texts),
        principles=_principles(mapping(head.get("constitution")), drawn, compared),
    )


def _stages(files: RunFiles, generation: int, head: Row, events: list[Row]) -> tuple[StageView, ...]:
    folder = f"gen-{generation}"
    settings = {value for _, value in leaves(mapping(head.get("config")))}
    there = [name for name in LEARNERS if files.exists(folder, name)] or [name for name in LEARNERS if name in settings]
    learner = there[0] if there else "ppo"
    told = _told(events, generation)
    stages = []
    for name in STAGES:
        begun = files.exists(folder, name) or name in told
        optional = (name in LEARNERS and name != learner) or (name == "reward" and learner == "dpo")
        if begun or not optional:
            ended = any(files.exists(folder, name, file) for file in ENDED)
            stages.append(_stage(name, told.get(name, []), begun=begun, ended=ended))
    return tuple(stages)


def _stage(name: str, events: list[Row], *, begun: bool, ended: bool) -> StageView:
    done = events[-1].get("event") in ("finished", "skipped") if events else ended
    finished = [row for row in events if row.get("event") == "finished"]
    return StageView(
        name=name,
        state="done" if done else "begun" if begun else "owed",
        seconds=number(finished[-1].get("seconds")) if finished else None,
        resumed=any(row.get("event") == "resumed" for row in events),
    )


def _told(events: list[Row], generation: int) -> dict[str, list[Row]]:
    """Return the ledger's events of one generation, by stage; ``gen-1/sft`` and ``sft`` (first generation) both do."""
    told: dict[str, list[Row]] = {}
    for row in events:
        *path, stage = text(row.get("stage")).split("/")
        named = number(row.get("generation"))
        of = int(named) if named is not None else 1
        for part in path:
            if part.startswith("gen-") and part[4:].isdecimal():
                of = int(part[4:])
        if of == generation:
            told.setdefault(stage, []).append(row)
    return told


def _training(files: RunFiles, folder: str, stage: str) -> TrainingView:
    steps = []
    for row in files.rows(folder, stage, "metrics.jsonl"):
        values = {key: value for key, raw in row.items() if (value := number(raw)) is not None}
        if "step" in values:
            steps.append(values)
    result = files.object(folder, stage, "result.json")
    return TrainingView(
        stage=stage,
        steps=tuple(steps),
        result=tuple(leaves(result)),
        samples=tuple(files.rows(folder, stage, "samples.jsonl")),
    )


def _drops(dropped: list[Dropped], texts: dict[str, str]) -> tuple[DropView, ...]:
    grouped: dict[tuple[str, str], list[Dropped]] = {}
    for record in dropped:
        grouped.setdefault((record.stage, record.reason), []).append(record)
    views = [
        DropView(
            stage=stage,
            reason=reason,
            n=len(records),
            examples=tuple((texts.get(record.prompt, ""), record.text) for record in records[:3]),
        )
        for (stage, reason), records in grouped.items()
    ]
    return tuple(sorted(views, key=lambda view: (-view.n, view.stage, view.reason)))


def _principles(constitution: Row, critiques: Counter[str], comparisons: Counter[str]) -> tuple[PrincipleView, ...]:
    listed = constitution.get("principles")
    known = {
        text(row.get("id")): row for row in (mapping(item) for item in (listed if isinstance(listed, list) else []))
    }
    names = dict.fromkeys([*known, *critiques, *comparisons])
    return tuple(
        PrincipleView(
            id=name,
            title=text(known.get(name, {}).get("title")),
            text=text(known.get(name, {}).get("text")),
            critiques=critiques[name],
            comparisons=comparisons[name],
        )
        for name in names
        if name
    )
