"""A floor under the judge: what it must reach before anything is labelled with it.

It must agree with people on pairs that they labelled (`cai.judges.audit`), and must not be talked into verdicts by the
answers that it compares (`cai.judges.attacks`).
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pydantic import Field

from cai.config import Config
from cai.constitution import Constitution
from cai.errors import GateError
from cai.judges.attacks import AttackReport, attack_report, attack_shortfalls, count_trials
from cai.judges.audit import Audit, audit, judge_pairs
from cai.judges.base import Judge
from cai.processes import is_main
from cai.progress import progress
from cai.records.pairs import LabelledPair, take_pairs
from cai.storage import atomic_write_json


class FloorConfig(Config):
    """Pairs that people labelled, and what a judge must reach on them."""

    on: list[Path]
    """Files of pairs: hh-rlhf, RewardBench, the 2022 paper's, or `prompt`, `chosen`, `rejected`."""
    pairs: int = Field(200, ge=10)
    """At most so many of each file, drawn by their content."""
    min_accuracy: float | None = Field(None, ge=0.0, le=1.0)
    """Share of votes that agree with people."""
    max_flip_rate: float | None = Field(None, ge=0.0, le=1.0)
    """Share of pairs on which the two orders may disagree, for judges that are asked in both."""
    max_abstentions: float = Field(0.5, ge=0.0, le=1.0)
    """Share of pairs without a vote."""
    max_attack_gain: float | None = Field(None, ge=0.0, le=1.0)
    """How much more often an answer may win when an attack is put behind it (0.05: 5 points); then answers without
    words must win in 5 % at most, too. None: the judge is not attacked."""
    attack_pairs: int = Field(12, ge=4)
    """Pairs of `on` that are attacked: four are the fewest on which every attack has its turn."""


def check_floor(
    config: FloorConfig,
    judge: Judge,
    constitution: Constitution,
    *,
    principles_per_pair: int = 1,
    tags: tuple[str, ...] = (),
    seed: int,
    out: Path,
) -> Audit:
    """Return the judge's figures, asked by as many principles as labels will be; raises GateError below the floor.

    Writes ``judge_audit.json`` and, if it is attacked, ``judge_attacks.json`` to `out`.
    """
    some = take_pairs(config.on, config.pairs)
    judgements = []
    with progress("judge on people's labels", len(some), "pairs", quiet=not is_main()) as bar:
        for each in judge_pairs(
            judge, constitution, some, principles_per_pair=principles_per_pair, tags=tags, seed=seed
        ):
            judgements.append(each)
            bar.advance()
    found = audit(judgements, some, judge=judge.name, model=judge.model, constitution=constitution.digest)
    if is_main():
        atomic_write_json(out / "judge_audit.json", asdict(found))
    missed = shortfalls(config, found)
    if config.max_attack_gain is not None:
        report = _attacked(judge, constitution, some, config.attack_pairs, tags, seed)
        if is_main():
            atomic_write_json(out / "judge_attacks.json", asdict(report))
        missed += attack_shortfalls(report, max_gain=config.max_attack_gain)
    if missed:
        said = f"the judge {judge.name!r} is below the floor on {len(some)} pairs: {', '.join(missed)}"
        raise GateError(f"{said}; nothing was labelled")
    return found


def _attacked(
    judge: Judge, constitution: Constitution, pairs: Sequence[LabelledPair], most: int, tags: tuple[str, ...], seed: int
) -> AttackReport:
    some = sorted(pairs, key=lambda pair: pair.id)[:most]
    total = count_trials(len(some), by_turns=True)
    with progress("judge under attack", total, "trials", quiet=not is_main()) as bar:
        return attack_report(
            judge, constitution, some, by_turns=True, tags=tags, seed=seed, on_trial=lambda trial: bar.advance()
        )


def shortfalls(config: FloorConfig, found: Audit) -> list[str]:
    """Return what an audit falls short of, in words."""
    missed = []
    if config.min_accuracy is not None and found.accuracy < config.min_accuracy:
        missed.append(f"agrees with people in {found.accuracy:.0%} (floor {config.min_accuracy:.0%})")
    if config.max_flip_rate is not None and found.flip_rate is not None and found.flip_rate > config.max_flip_rate:
        missed.append(f"changes with the order in {found.flip_rate:.0%} (at most {config.max_flip_rate:.0%})")
    silent = found.abstained / found.pairs
    if silent > config.max_abstentions:
        missed.append(f"no verdict on {silent:.0%} (at most {config.max_abstentions:.0%})")
    return missed
