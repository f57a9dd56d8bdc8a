"""A floor under the judge: how well it must agree with people before anything is labelled with it."""

from dataclasses import asdict
from pathlib import Path

from pydantic import Field

from cai.config import Config
from cai.constitution import Constitution
from cai.errors import GateError
from cai.judges.audit import Audit, audit, judge_pairs
from cai.judges.base import Judge
from cai.processes import is_main
from cai.records.pairs import take_pairs
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


def check_floor(config: FloorConfig, judge: Judge, constitution: Constitution, *, seed: int, out: Path) -> Audit:
    """Return the judge's figures, and write them to ``judge_audit.json``; raises GateError below the floor."""
    some = take_pairs(config.on, config.pairs)
    found = audit(
        judge_pairs(judge, constitution, some, seed=seed),
        some,
        judge=judge.name,
        model=judge.model,
        constitution=constitution.digest,
    )
    if is_main():
        atomic_write_json(out / "judge_audit.json", asdict(found))
    missed = shortfalls(config, found)
    if missed:
        said = f"the judge {judge.name!r} is below the floor on {len(some)} pairs: {', '.join(missed)}"
        raise GateError(f"{said}; nothing was labelled")
    return found


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
