"""`cai judge`: how far judges agree with people, and how far answers can talk them over, before anyone is trained."""

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer
from rich.console import Console

from cai.cli.command import ends_well
from cai.errors import GateError, InputError, Problem

if TYPE_CHECKING:
    from cai.constitution import Constitution
    from cai.judges.attacks import AttackReport
    from cai.judges.audit import Audit, Judgement
    from cai.judges.base import Judge
    from cai.judges.build import JudgeConfig
    from cai.label.learned import LearnedWeights
    from cai.records.answers import LabelledAnswer
    from cai.records.pairs import LabelledPair

judge = typer.Typer(no_args_is_help=True, help="Judges: how far they can be trusted.")

KINDS = "direction, contrastive, pairwise, pointwise, sampled, preference_model or program"

Kinds = Annotated[
    list[str] | None,
    typer.Option(
        "--judge",
        metavar="KIND[=MODEL]",
        help=f"{KINDS}; given again, several are set side by side. Left out: direction.",
    ),
]
Model = Annotated[
    str | None,
    typer.Option(help="Who judges: a folder, a hub id, 'embedded'; for preference_model, the folder of one."),
]
ConfigFile = Annotated[
    Path | None, typer.Option(help="A YAML file of the judge's settings, as under 'judge' in a labelling run.")
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One of them, as in engine.kind=openai.")
]
Rules = Annotated[str, typer.Option(help="A file, or the name of a shipped constitution.")]
Tags = Annotated[
    list[str] | None, typer.Option("--tag", help="Only principles with one of these tags are asked about.")
]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Decides which principles are asked about.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@judge.callback()
def _judge() -> None:
    """Judges: how far they can be trusted."""


@judge.command()
@ends_well
def audit(
    on: Annotated[
        list[Path],
        typer.Option(
            help="Pairs that people labelled (hh-rlhf, RewardBench, the 2022 paper's, chosen and rejected), or single "
            "answers (the paper's harmful or ethical; prompt, response, good)."
        ),
    ],
    kind: Kinds = None,
    model: Model = None,
    config: ConfigFile = None,
    setting: Settings = None,
    constitution: Rules = "harmless",
    tag: Tags = None,
    limit: Annotated[int, typer.Option(min=0, help="So many pairs of each file, drawn by their content; 0: all.")] = 0,
    principles: Annotated[int, typer.Option(min=1, help="Principles drawn per pair; several are averaged.")] = 1,
    learn_weights: Annotated[
        Path | None,
        typer.Option(help="Write here what each principle's vote should count: a labelling run's 'learned_weights'."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="A folder for judgements.jsonl and what a judge learns.")] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Ask a judge about pairs that people labelled, and say how often it agrees, and how sure it is when it errs.

    Of single answers it says how well the judge's scores tell good from bad.
    """
    from cai.cli.judge_tables import show_audits, show_weights
    from cai.records.answers import holds_answers

    configs = judge_configs(kind, model, config, setting)
    if all(map(holds_answers, on)):
        if learn_weights is not None:
            raise InputError(Problem("--learn-weights", 0, 0, "--on holds single answers", "give labelled pairs"))
        _audit_answers(configs, Asking.of(constitution, tag, on, limit, seed, single=True), out, as_json=as_json)
        return
    if learn_weights is not None:
        _check_weighable(configs)
    asking = Asking.of(constitution, tag, on, limit, seed)
    audits: list[Audit] = []
    judgements: dict[str, list[Judgement]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = out or Path(scratch)
        for name, asked in judges(configs, asking, folder):
            judgements[name] = _judged(name, asked, asking, principles, folder)
            audits.append(_figures(name, asked, asking, judgements[name]))
    alpha = agreement(list(judgements.values()))
    learned = None if learn_weights is None else weights_of(*judgements.values())
    if learned is not None and learn_weights is not None:
        learned.save(learn_weights)
    if as_json:
        weights = None if learned is None else learned.to_plain()
        print(json.dumps({"audits": [asdict(each) for each in audits], "alpha": alpha, "weights": weights}, indent=2))
        return
    console = Console(highlight=False)
    show_audits(audits, alpha, console)
    if learned is not None:
        show_weights(learned, learn_weights, console)


def _audit_answers(configs: "Mapping[str, JudgeConfig]", asking: "Asking", out: Path | None, *, as_json: bool) -> None:
    """Print how each judge's scores tell good answers from bad. Raises InputError for a judge that only compares."""
    from cai.cli.judge_tables import show_discriminations
    from cai.judges.single import SCORING, discrimination

    compare = [name for name, config in configs.items() if config.kind not in SCORING]
    if compare:
        problem = f"{compare[0]!r} compares answers, it scores none alone"
        raise InputError(Problem("--judge", 0, 0, problem, f"name one of {', '.join(SCORING)}, or give pairs"))
    with tempfile.TemporaryDirectory() as scratch:
        told = (
            discrimination(asked, asking.rules, asking.answers, tags=asking.tags, seed=asking.seed, name=name)
            for name, asked in judges(configs, asking, out or Path(scratch))
        )
        found = [each for each in told if each is not None]
    if as_json:
        print(json.dumps({"answers": [asdict(each) for each in found]}, indent=2))
    else:
        show_discriminations(found, Console(highlight=False))


@judge.command()
@ends_well
def attack(
    on: Annotated[
        list[Path] | None, typer.Option(help="Pairs of answers to attack, labelled or not; left out: a dozen of ours.")
    ] = None,
    kind: Kinds = None,
    model: Model = None,
    config: ConfigFile = None,
    setting: Settings = None,
    constitution: Rules = "harmless",
    tag: Tags = None,
    limit: Annotated[int, typer.Option(min=0, help="So many pairs of each file, drawn by their content; 0: all.")] = 0,
    every: Annotated[
        bool, typer.Option("--every", help="Each attack on each pair; else one of each family on a pair, by turns.")
    ] = False,
    most_gain: Annotated[
        float, typer.Option(min=0, max=100, help="Points by which attacked answers may win more often.")
    ] = 5.0,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Put attacks behind the answers that a judge compares, and say how much more often they win.

    Ends with 3 if that is more than --most-gain points, or if answers without words win in more than 5 %.
    """
    from cai.cli.judge_tables import show_attacks
    from cai.judges.attacks import SHIPPED_PAIRS, attack_shortfalls

    configs = judge_configs(kind, model, config, setting)
    asking = Asking.of(constitution, tag, on or [SHIPPED_PAIRS], limit, seed)
    console = Console(highlight=False)
    found, missed = [], {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, asked in judges(configs, asking, Path(scratch)):
            report = _attacked(name, asked, asking, by_turns=not every)
            missed[name] = attack_shortfalls(report, max_gain=most_gain / 100)
            found.append({**asdict(report), "name": name, "blank_wins": report.blank_wins, "missed": missed[name]})
            if not as_json:
                show_attacks(name, report, missed[name], console)
    if as_json:
        print(json.dumps({"attacks": found}, indent=2))
    failed = [name for name, said in missed.items() if said]
    if failed:
        raise GateError(f"below what a judge must withstand: {', '.join(failed)}")


@dataclass(frozen=True, kw_only=True)
class Asking:
    """What judges are asked about, and by which rules."""

    rules: "Constitution"
    tags: tuple[str, ...]
    pairs: "Sequence[LabelledPair]"
    answers: "Sequence[LabelledAnswer]"
    """In place of pairs, where single answers are asked about."""
    seed: int

    @classmethod
    def of(
        cls,
        constitution: str,
        tags: Sequence[str] | None,
        on: Sequence[Path],
        limit: int,
        seed: int,
        *,
        single: bool = False,
    ) -> "Asking":
        """Read the files; raises InputError."""
        from cai.constitution import check_tags, load_constitution
        from cai.processes import quiet_libraries
        from cai.records.answers import take_answers
        from cai.records.pairs import take_pairs

        quiet_libraries()
        rules = load_constitution(constitution)
        check_tags(rules, tuple(tags or ()), constitution)
        pairs = [] if single else take_pairs(on, limit)
        answers = take_answers(on, limit) if single else []
        return cls(rules=rules, tags=tuple(tags or ()), pairs=pairs, answers=answers, seed=seed)


def judge_configs(
    kinds: Sequence[str] | None, model: str | None, config: Path | None, settings: Sequence[str] | None
) -> "dict[str, JudgeConfig]":
    """Return the settings of each judge by a name for it: its kind, and its model where two are of one kind."""
    from cai.config import load_config
    from cai.judges.build import JudgeConfig, JudgeKind

    words = [f"engine.model={json.dumps(model)}", *(settings or [])] if model else list(settings or [])
    if not kinds:
        only = load_config(JudgeConfig, config, words)
        return {only.kind: only}
    named = [each.partition("=") for each in kinds]
    found = {}
    for given, (kind, _, own) in zip(kinds, named, strict=True):
        if kind not in get_args(JudgeKind):
            known = ", ".join(get_args(JudgeKind))
            raise InputError(Problem("--judge", 0, 0, f"unknown value {kind!r}", f"use one of {known}"))
        name = given if [other for other, _, _ in named].count(kind) > 1 else kind
        if name in found:
            raise InputError(Problem("--judge", 0, 0, f"{given!r} is given twice", "name each judge once"))
        mine = [f"engine.model={json.dumps(own)}"] if own else []
        found[name] = load_config(JudgeConfig, config, [*words, f"kind={kind}", *mine])
    return found


def judges(configs: "Mapping[str, JudgeConfig]", asking: Asking, folder: Path) -> "Iterator[tuple[str, Judge]]":
    """Yield the judges one by one; those that ask one model in the same way share it."""
    from cai.engines.base import Engine
    from cai.engines.build import build_engine
    from cai.judges.build import build_judge
    from cai.records.loaders import load_prompts, packaged_prompts

    prompts = load_prompts([packaged_prompts("red_team")])
    engine: Engine | None = None
    last = None
    for name, config in configs.items():
        if config.kind not in ("preference_model", "program") and config.engine != last:
            engine = None  # the old model's memory goes before the new one's comes
            engine, last = build_engine(config.engine), config.engine
        own = folder_of(folder, name)
        own.mkdir(parents=True, exist_ok=True)
        yield name, build_judge(config, asking.rules, prompts=prompts, folder=own, seed=asking.seed, engine=engine)


def folder_of(folder: Path, name: str) -> Path:
    """Return a judge's own folder: its name may hold a model's path."""
    return folder / name.replace("/", "_")


def _judged(name: str, asked: "Judge", asking: Asking, principles: int, folder: Path) -> "list[Judgement]":
    from cai.judges.audit import judge_pairs
    from cai.progress import progress
    from cai.records.export import write_rows

    judgements = []
    with progress(name, len(asking.pairs), "pairs") as bar:
        for each in judge_pairs(
            asked, asking.rules, asking.pairs, principles_per_pair=principles, tags=asking.tags, seed=asking.seed
        ):
            judgements.append(each)
            bar.advance()
    write_rows(folder_of(folder, name) / "judgements.jsonl", [asdict(each) for each in judgements])
    return judgements


def _figures(name: str, asked: "Judge", asking: Asking, judgements: "Sequence[Judgement]") -> "Audit":
    from cai.judges.audit import audit as figures

    return figures(judgements, asking.pairs, judge=name, model=asked.model, constitution=asking.rules.digest)


def _attacked(name: str, asked: "Judge", asking: Asking, *, by_turns: bool) -> "AttackReport":
    from cai.judges.attacks import attack_report, count_trials
    from cai.progress import progress

    with progress(name, count_trials(len(asking.pairs), by_turns=by_turns), "trials") as bar:
        return attack_report(
            asked,
            asking.rules,
            asking.pairs,
            by_turns=by_turns,
            tags=asking.tags,
            seed=asking.seed,
            on_trial=lambda trial: bar.advance(),
        )


def agreement(judgements: "Sequence[Sequence[Judgement]]") -> float | None:
    """Return Krippendorff's alpha between judges; None for one alone."""
    from cai.judges.audit import krippendorff_alpha

    if len(judgements) < 2:
        return None
    by_pair = [{item.id: None if item.prob is None else item.prob > 0.5 for item in own} for own in judgements]
    return krippendorff_alpha([[own[key] for key in by_pair[0]] for own in by_pair])


def _check_weighable(configs: "Mapping[str, JudgeConfig]") -> None:
    """Raise InputError unless there is one judge that votes by principle, as labels are made of."""
    kinds = [config.kind for config in configs.values()]
    if len(kinds) > 1:
        fix = "name one --judge, the one that labels"
        raise InputError(Problem("--learn-weights", 0, 0, "a labelling run has one judge, not several", fix))
    if kinds[0] in ("direction", "preference_model"):
        problem = f"the judge {kinds[0]!r} votes on the constitution as a whole, so there is nothing to weigh"
        raise InputError(Problem("--learn-weights", 0, 0, problem, "name a --judge that votes by principle"))


def weights_of(judgements: "Sequence[Judgement]") -> "LearnedWeights":
    """Return what each principle's vote should count, by the names that labels know them by."""
    from cai.label.learned import learn_weights

    return learn_weights([dict(item.principles) for item in judgements])
