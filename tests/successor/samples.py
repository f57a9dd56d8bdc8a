"""A small stage to test with: one file read, one made."""

from pathlib import Path

from pydantic import Field

from cai.config import Config
from cai.successor.plan import StagePlan


class StageConfig(Config):
    data: list[Path]
    out: Path
    steps: int = 3
    report_to: list[str] = Field(default_factory=list)


def stage(
    run: Path, *, steps: int = 3, processes: int = 1, name: str = "sft", more: tuple[Path, ...] = ()
) -> StagePlan:
    data = [run / "gen-1" / "generate" / "sft.jsonl", *more]
    config = StageConfig(data=data, out=run / "gen-1" / name, steps=steps)
    return StagePlan(name, 1, config, tuple(data), processes)


def begin_run(run: Path, content: bytes = b"an example\n") -> None:
    write(run / "gen-1" / "generate" / "sft.jsonl", content)


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path
