"""A run's config, and the stages that it comes down to: every path and number decided before the first one starts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from cai.config import Config, problems_of
from cai.constitution.parse import constitution_files
from cai.errors import InputError, Problem
from cai.strict_yaml import suggestion
from cai.successor.entries import ENTRIES
from cai.successor.prepare import PromptsConfig
from cai.successor.sizes import SIZES, Settings, Size

INPUTS = frozenset(
    {"model", "adapter", "reference", "reward_model", "data", "prompts", "learn_prompts", "eval_data", "constitution"}
    | {"run", "learned_weights", "held_out", "on", "path", "paths"}
)
"""Settings, at any depth, that name a file or a folder which a stage reads."""

Tracker = Literal["wandb", "trackio", "tensorboard"]


class RunConfig(Config):
    """A run: from one model to its successor, or to the successor's successor."""

    out: Path = Path("runs/demo")
    """The run's folder. The same command on the same folder goes on from where it stopped."""
    model: str = "embedded"
    """Generation 0: a folder, a Hugging Face id, or ``embedded`` for the model that comes with cai."""
    constitution: str = "harmless"
    """A file, or the name of a shipped constitution."""
    prompts: list[Path] = Field(default_factory=list)
    """Files of red-team prompts in place of the packaged ones."""
    seed: int = Field(0, ge=0, lt=2**32)
    size: Size = "demo"
    rl: Literal["ppo", "dpo", "online_dpo", "grpo", "rloo"] = "ppo"
    """How the successor learns from preferences."""
    generations: int = Field(1, ge=1)
    processes: int = Field(1, ge=1)
    """Processes that work on each stage."""
    report_to: list[Tracker] = Field(default_factory=list)
    """Trackers that the training stages send their metrics to."""
    stages: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Settings of single stages, over those of the size: ``stages.generate.rounds=3``."""


@dataclass(frozen=True)
class StagePlan:
    """One stage: what it runs, what it reads, where it writes."""

    name: str
    generation: int
    config: Config
    reads: tuple[Path, ...]
    """Files and folders it depends on, given or made by earlier stages."""
    processes: int

    @property
    def folder(self) -> Path:
        """Where the stage writes."""
        return Path(self.config.out)  # type: ignore[attr-defined]

    @property
    def label(self) -> str:
        """The stage's name in messages and in the ledger: ``gen-1/sft``."""
        return f"gen-{self.generation}/{self.name}"


def plan_run(config: RunConfig, *, origin: str = "stages") -> list[StagePlan]:
    """Return the stages of a run in their order.

    Raises InputError, naming every setting that no stage has or that is out of range.
    """
    problems = []
    known = set(SIZES[config.size])
    for name, settings in config.stages.items():
        if name not in known:
            problems.append(Problem(f"{origin}.{name}", 0, 0, "unknown stage", suggestion(name, sorted(known))))
        elif "out" in settings:
            problem = "the run's folder decides where its stages write"
            problems.append(Problem(f"{origin}.{name}.out", 0, 0, problem, "remove it"))
    if problems:
        raise InputError(problems)
    plans: list[StagePlan] = []
    model = config.model
    for generation in range(1, config.generations + 1):
        builder = _Generation(config, generation, model, origin)
        plans.extend(builder.stages())
        model = str(builder.folder / config.rl / "model")
    return plans


class _Generation:
    """Plans the stages that turn one model into the next."""

    def __init__(self, run: RunConfig, number: int, parent: str, origin: str) -> None:
        self.run, self.number, self.parent, self.origin = run, number, parent, origin
        self.folder = run.out.absolute() / f"gen-{number}"

    def stages(self) -> list[StagePlan]:
        prompts, sft, reward = self.folder / "prompts", self.folder / "sft" / "model", self.folder / "reward" / "model"
        label, rl = self.folder / "label", self.folder / self.run.rl / "model"
        common = {"constitution": self.run.constitution}
        asks_parent = {"engine": {"model": self.parent}}
        learner: Settings = {"model": str(sft)}
        if self.run.rl == "dpo":
            learner |= {"data": [label / "pairs.jsonl"]}
        elif self.run.rl == "online_dpo":
            judge = {"kind": "preference_model", "engine": {"model": str(reward)}}
            learner |= {"prompts": [prompts / "rl.jsonl"], "label": {**common, "judge": judge}}
        else:
            learner |= {"prompts": [prompts / "rl.jsonl"], "reward_model": str(reward)}
        supervised = self.folder / "generate" / "sft.jsonl"
        return [
            self._prompts(),
            self._stage("generate", {**common, **asks_parent, "prompts": [prompts / "supervised.jsonl"]}),
            self._stage("sft", {"model": self.parent, "data": [supervised]}),
            self._stage(
                "label",
                {**common, "prompts": [prompts / "label.jsonl"], "engine": {"model": str(sft)}, "judge": asks_parent},
            ),
            # DPO needs no preference model to learn from; the evaluation reads one all the same.
            self._stage("reward", {"model": str(sft), "data": [label / "pairs.jsonl"]}),
            self._stage(self.run.rl, learner),
            self._evaluate(rl, reward, prompts),
        ]

    def _prompts(self) -> StagePlan:
        given = {"red_team_files": [path.absolute() for path in self.run.prompts]} if self.run.prompts else {}
        settings = self._settings("prompts", {**given, "out": self.folder / "prompts"}, seeded=False)
        config = self._validated("prompts", PromptsConfig, settings)
        assert isinstance(config, PromptsConfig)
        reads = (*config.red_team_files, *config.benign_files, *config.helpful_files)
        return StagePlan("prompts", self.number, config, reads, 1)

    def _evaluate(self, candidate: Path, reward: Path, prompts: Path) -> StagePlan:
        asks_parent = {"engine": {"model": self.parent}}
        judge = self._label_judge()
        judges = [
            {**judge, **asks_parent},
            {"kind": "contrastive", **asks_parent},
            {"kind": "preference_model", "engine": {"model": str(reward)}},
        ]
        unique = list({item["kind"]: item for item in judges}.values())
        return self._stage(
            "evaluate",
            {
                "constitution": self.run.constitution,
                "prompts": [prompts / "held_out.jsonl"],
                "learn_prompts": [prompts / "label.jsonl"],
                "candidate": {"model": str(candidate)},
                "parent": {"model": self.parent},
                "judges": unique,
                "trained_on": [judge["kind"], "preference_model"],
            },
        )

    def _label_judge(self) -> Settings:
        judge = dict(SIZES[self.run.size].get("label", {}).get("judge", {}))
        return {"kind": "direction", **judge, **self.run.stages.get("label", {}).get("judge", {})}

    def _settings(self, name: str, given: Settings, *, seeded: bool = True) -> Settings:
        base = {"out": self.folder / name, **({"seed": self.run.seed} if seeded else {})}
        if name in ("sft", "reward", "dpo", "online_dpo", "ppo", "grpo", "rloo"):
            base["report_to"] = self.run.report_to
        return merged(merged(merged(SIZES[self.run.size].get(name, {}), base), given), self.run.stages.get(name, {}))

    def _stage(self, name: str, given: Settings) -> StagePlan:
        config = self._validated(name, ENTRIES[name].load_config(), self._settings(name, given))
        return StagePlan(name, self.number, config, _reads(config), self.run.processes)

    def _validated(self, name: str, cls: type[Config], settings: Settings) -> Config:
        try:
            return cls.model_validate(settings)
        except ValidationError as error:
            raise InputError(problems_of(f"{self.origin}.{name}", error, cls)) from error


def merged(base: Settings, over: Settings) -> Settings:
    """Return settings with another set laid over them, section by section.

    >>> merged({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}})
    {'a': {'b': 3, 'c': 2}}
    """
    result = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else value
    return result


def _reads(config: Config) -> tuple[Path, ...]:
    """Return every file or folder that a stage's settings name: what its result depends on, besides its settings."""
    found: list[Path] = []

    def walk(value: Any, key: str) -> None:
        if isinstance(value, dict):
            for name, item in value.items():
                walk(item, name)
        elif isinstance(value, (list, tuple)):
            for item in value:
                walk(item, key)
        elif key in INPUTS and value:
            found.extend(constitution_files(value) if key == "constitution" else [Path(value)])

    walk(config.model_dump(mode="json"), "")
    return tuple(dict.fromkeys(found))
